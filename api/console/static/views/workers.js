// The processes of the deployment, and taking one out of service without a capture noticing.
import { html } from '../lib/html.js';
import { get, post } from '../lib/api.js';
import { Age } from '../lib/time.js';
import { Badge, Empty, ErrorBox, Page, Table, Waiting, confirm, notify, useAction, useLoad, usePoll } from '../lib/ui.js';

const EVERY = 5000; // ms
const ROLE = { all: 'serves and captures', api: 'serves', worker: 'captures' };

export default function Workers() {
  const workers = useLoad((abort) => get('/workers', null, { signal: abort }));
  usePoll(workers.reload, EVERY);
  const draining = useAction(async (worker) => {
    const yes = await confirm({
      title: `Drain ${worker.host}?`, action: 'Drain',
      text: 'It hands its captures over to other processes and takes nothing more until it is started again.'
        + (workers.data.items.length < 2 ? ' There is no other process: captures will wait.' : ''),
    });
    if (!yes) return;
    await post(`/workers/${worker.worker_id}/drain`);
    notify(`${worker.host} hands over what it runs.`);
    workers.reload();
  });
  const columns = [
    { name: 'Process', cell: (row) => html`<strong>${row.host}</strong><br /><code class="small">${row.worker_id.slice(0, 8)}</code>` },
    { name: 'Does', cell: (row) => ROLE[row.role] },
    { name: 'Site', cell: (row) => (row.role === 'api' ? '–' : row.site) },
    { name: 'Captures', kind: 'number', cell: (row) => row.captures },
    { name: 'Streams', kind: 'number', cell: (row) => row.streams },
    { name: 'Version', cell: (row) => row.version },
    { name: 'Started', cell: (row) => html`<${Age} at=${row.started_at} />` },
    { name: 'Seen', cell: (row) => html`<${Age} at=${row.seen_at} />` },
    { name: 'State', cell: (row) => (row.draining ? html`<${Badge} kind="warn">draining</${Badge}>` : html`<${Badge} kind="good">at work</${Badge}>`) },
    { name: html`<span class="hidden">What can be done</span>`, cell: (row) => !row.draining && html`<button type="button" onClick=${() => draining.run(row)} disabled=${draining.busy}
      aria-label=${`Drain ${row.host}`}>Drain</button>` },
  ];
  return html`
    <${Page} title="Workers" hint="The processes of this deployment. One that ends is no longer listed after 8 seconds." wide>
      <${Waiting} of=${workers} what="Reading the processes" />
      <${ErrorBox} error=${draining.problem} />
      ${workers.data && (workers.data.items.length === 0
        ? html`<${Empty} title="No process is listed">They write themselves down within some seconds of their start.</${Empty}>`
        : html`<${Table} caption="Processes" columns=${columns} rows=${workers.data.items} rowKey=${(row) => row.worker_id} />`)}
    </${Page}>`;
}
