// The audit: who did what, and which credentials were refused.
import { html } from '../lib/html.js';
import { queried, setQuery } from '../lib/router.js';
import { Time, fromLocalInput, toLocalInput } from '../lib/time.js';
import { Badge, Empty, Field, Page, Pager, Table, Waiting, useList } from '../lib/ui.js';

const NAMES = ['subject', 'action', 'from', 'to'];
const KIND = { key: 'key', jwt: 'token', session: 'browser', anonymous: 'nobody', bootstrap: 'bootstrap secret' };

function Outcome({ status }) {
  if (status === null) return html`<span class="muted">–</span>`;
  return html`<${Badge} kind=${status < 400 ? 'good' : 'bad'} title=${`HTTP status ${status}`}>${status < 400 ? 'done' : 'refused'} ${status}</${Badge}>`;
}

export default function Audit() {
  const filter = Object.fromEntries(NAMES.map((name) => [name, queried(name)]).filter(([, value]) => value));
  const list = useList('/audit', filter, { limit: 100 });
  const typed = (name) => ({ name, value: queried(name), onChange: (event) => setQuery({ [name]: event.currentTarget.value.trim() }) });
  const dated = (name) => ({ name, type: 'datetime-local', step: 1, value: toLocalInput(queried(name)), onChange: (event) => setQuery({ [name]: fromLocalInput(event.currentTarget.value) }) });
  const columns = [
    { name: 'When', cell: (row) => html`<${Time} at=${row.at} ms />` },
    { name: 'Who', cell: (row) => html`<span class="breaks">${row.subject ?? html`<span class="muted">not known</span>`}</span>${row.kind && html` <span class="muted small">${KIND[row.kind] ?? row.kind}</span>`}` },
    { name: 'From', cell: (row) => row.address ?? html`<span class="muted">–</span>` },
    { name: 'Did', cell: (row) => html`<button type="button" class="quiet bare" title="Only this" onClick=${() => setQuery({ action: row.action })}><code>${row.action}</code></button>` },
    { name: 'To', cell: (row) => (row.target ? html`<code class="whole small">${row.target}</code>` : html`<span class="muted">–</span>`) },
    { name: 'Outcome', cell: (row) => html`<${Outcome} status=${row.status} />` },
    { name: 'Trace id', cell: (row) => row.trace_id && html`<code class="whole small">${row.trace_id}</code>` },
  ];
  const narrowed = Object.keys(filter).length > 0;
  return html`
    <${Page} title="Audit" hint="Every change, newest first, and refused credentials once a minute and address." wide
      actions=${html`<button type="button" onClick=${list.reload} disabled=${list.loading}>Read again</button>`}>
      <div class="toolbar">
        <${Field} label="Who" type="search" placeholder="key id or subject" ...${typed('subject')} />
        <${Field} label="Did" type="search" placeholder="frame.delete" ...${typed('action')} />
        <${Field} label="From" ...${dated('from')} />
        <${Field} label="To" ...${dated('to')} />
      </div>
      <${Waiting} of=${list} what="Reading the audit" />
      ${list.items && (list.items.length === 0
    ? html`<${Empty} title=${narrowed ? 'Nothing fits' : 'Nothing is noted yet'}>${narrowed
      ? html`<button type="button" onClick=${() => setQuery(Object.fromEntries(NAMES.map((name) => [name, null])))}>Show all</button>` : 'What is changed from now on stands here.'}</${Empty}>`
    : html`<${Table} caption="Audit" columns=${columns} rows=${list.items} /><${Pager} list=${list} />`)}
    </${Page}>`;
}
