// API keys: made with the scopes and cameras that somebody needs, shown once, given another secret, revoked.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { del, me, post } from '../lib/api.js';
import { Age, Time, fromLocalInput } from '../lib/time.js';
import { Badge, Card, Empty, ErrorBox, Field, Page, Pager, Table, Waiting, confirm, notify, useAction, useList } from '../lib/ui.js';

const SCOPES = [
  ['ingest:write', 'Send pictures in', 'start captures, upload, trigger, cancel; with frames:read make pairs'],
  ['ingest:read', 'See captures', 'their state and events'],
  ['frames:read', 'See pictures', 'frames, thumbnails, newest pictures, pairs'],
  ['frames:delete', 'Delete pictures', 'delete, hold and release frames; delete pairs'],
  ['cameras:read', 'See cameras', 'the registry, streams and gaps'],
  ['cameras:write', 'Change cameras', 'register, change, try, find cameras'],
  ['events:read', 'Follow events', 'the event log, and pages that move by themselves'],
  ['metrics:read', 'See health and metrics', 'for all cameras'],
  ['admin', 'Everything', 'all of these for all cameras, and keys, audit, workers'],
];
const UNBOUND = ['admin', 'metrics:read'];

/** The one moment at which a key can be read. */
function Fresh({ made, close }) {
  const input = useRef(null);
  const [copied, setCopied] = useState(false);
  useEffect(() => { input.current?.focus(); input.current?.select(); }, [made.key]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(made.key);
    } catch { // no clipboard without TLS or permission: the text is selected, to be copied by hand
      input.current.focus();
      input.current.select();
      if (!document.execCommand('copy')) {
        notify('This browser does not let the page copy. The key is selected: press Ctrl+C.');
        return;
      }
    }
    setCopied(true);
  };
  return html`
    <div class="notice good" role="status">
      <p><strong>The key of “${made.name}”. Copy it now: it is not shown again.</strong></p>
      <div class="copied">
        <input ref=${input} name="made_key" class="mono" readonly value=${made.key} aria-label="The new key" onFocus=${(event) => event.currentTarget.select()} />
        <button type="button" onClick=${copy}>${copied ? 'Copied' : 'Copy'}</button>
        <button type="button" onClick=${close}>I have it</button>
      </div>
      ${made.rotated && html`<p>The former secret is good for another 24 hours.</p>`}
    </div>`;
}

const BLANK = { name: '', scopes: ['frames:read'], all: true, cameras: '', expires: '' };

function Make({ done }) {
  const [form, setForm] = useState(BLANK);
  const change = (name) => (value) => setForm((old) => ({ ...old, [name]: value }));
  const toggle = (scope) => (on) => setForm((old) => ({ ...old, scopes: on ? [...old.scopes, scope] : old.scopes.filter((item) => item !== scope) }));
  const bound = !form.scopes.some((scope) => UNBOUND.includes(scope));
  const making = useAction(async () => {
    const cameras = form.all || !bound ? null : form.cameras.split(/[\s,]+/).filter(Boolean);
    const made = await post('/api-keys', { name: form.name.trim(), scopes: form.scopes, cameras, expires_at: fromLocalInput(form.expires) });
    setForm(BLANK);
    done(made);
  });
  const submit = (event) => {
    event.preventDefault();
    making.run();
  };
  return html`
    <${Card} title="Make a key">
      <form class="form" onSubmit=${submit}>
        <${ErrorBox} error=${making.problem} />
        <div class="form-row roomy">
          <${Field} label="Name" name="name" value=${form.name} onInput=${change('name')} problem=${making.problem} required maxlength="200" autocomplete="off" hint="Who or what uses it" />
          <${Field} label="Expires" name="expires_at" type="datetime-local" value=${form.expires} onInput=${change('expires')} problem=${making.problem} hint="Empty: never" />
        </div>
        <fieldset><legend>What it may do</legend>
          <div class="choices">${SCOPES.map(([scope, title, text]) => html`
            <div key=${scope}><${Field} type="checkbox" name=${scope} label=${html`<span><strong>${title}</strong> <code>${scope}</code><br /><span class="muted small">${text}</span></span>`}
              value=${form.scopes.includes(scope)} onInput=${toggle(scope)} /></div>`)}</div>
        </fieldset>
        <fieldset><legend>Which cameras</legend>
          <div class="form-row">
            <${Field} type="checkbox" name="all_cameras" label="All cameras" value=${form.all || !bound} disabled=${!bound} onInput=${change('all')}
              hint=${bound ? undefined : 'This key’s scopes are for all cameras.'} />
            ${bound && !form.all && html`<${Field} label="Only these" name="cameras" value=${form.cameras} onInput=${change('cameras')} problem=${making.problem}
              placeholder="pit-lane-1, paddock-*" hint="Ids, or beginnings with *; with spaces or commas between" />`}
          </div>
        </fieldset>
        <div class="actions"><button type="submit" class="primary" disabled=${making.busy || form.scopes.length === 0}>${making.busy ? 'Making it …' : 'Make the key'}</button>
          ${form.scopes.length === 0 && html`<span class="muted">Choose at least one thing it may do.</span>`}</div>
      </form>
    </${Card}>`;
}

const state = (row) => {
  if (row.revoked_at) return html`<${Badge}>revoked</${Badge}>`;
  if (row.expires_at && new Date(row.expires_at) < new Date()) return html`<${Badge}>expired</${Badge}>`;
  return html`<${Badge} kind="good">good</${Badge}>`;
};

export default function Keys() {
  const list = useList('/api-keys', {}, { limit: 200 });
  const [fresh, setFresh] = useState(null);
  const [old, setOld] = useState(false);
  const made = (key, rotated = false) => {
    setFresh({ ...key, rotated });
    list.reload();
  };
  const revoking = useAction(async (row) => {
    const own = me.value?.subject === row.key_id;
    if (!await confirm({
      title: `Revoke “${row.name}”?`, action: 'Revoke', danger: true,
      text: `Whoever uses it is refused within two seconds, for good.${own ? ' It is the key of this page: you will be logged out.' : ''} Captures that run go on.`,
    })) return;
    await del(`/api-keys/${row.key_id}`);
    notify(`“${row.name}” is revoked.`);
    list.reload();
  });
  const rotating = useAction(async (row) => {
    if (!await confirm({ title: `Give “${row.name}” another secret?`, action: 'Make another secret', text: 'The new one is shown once. The former one stays good for 24 hours.' })) return;
    made(await post(`/api-keys/${row.key_id}/rotate`), true);
  });
  const rows = (list.items ?? []).filter((row) => old || !row.revoked_at);
  const hidden = (list.items ?? []).length - rows.length;
  const columns = [
    { name: 'Name', cell: (row) => html`<strong class="breaks">${row.name}</strong><br /><code class="small">tsk_${row.key_id}</code>` },
    { name: 'May', cell: (row) => html`<span class="tags">${row.scopes.map((scope) => html`<code key=${scope} class="tag">${scope}</code>`)}</span>` },
    { name: 'Cameras', cell: (row) => (row.cameras === null ? 'all' : html`<span class="breaks">${row.cameras.join(', ') || 'none'}</span>`) },
    { name: 'Made', cell: (row) => html`<${Age} at=${row.created_at} />` },
    { name: 'Used', cell: (row) => html`<${Age} at=${row.last_used_at} />` },
    { name: 'Expires', cell: (row) => html`<${Time} at=${row.expires_at} none="never" />` },
    { name: 'State', cell: state },
    { name: html`<span class="hidden">What can be done</span>`, cell: (row) => !row.revoked_at && html`<div class="actions nowrap">
        <button type="button" onClick=${() => rotating.run(row)} disabled=${rotating.busy} aria-label=${`Rotate ${row.name}`}>Rotate</button>
        <button type="button" class="danger" onClick=${() => revoking.run(row)} disabled=${revoking.busy} aria-label=${`Revoke ${row.name}`}>Revoke</button></div>` },
  ];
  return html`
    <${Page} title="Keys" hint="A key is a credential of one program or person: give each its own, with as little as it needs." wide>
      ${fresh && html`<${Fresh} made=${fresh} close=${() => setFresh(null)} />`}
      <div class="stack">
        <${Make} done=${made} />
        <${ErrorBox} error=${revoking.problem ?? rotating.problem} />
        <${Waiting} of=${list} what="Reading the keys" />
        ${list.items && rows.length === 0 && html`<${Empty} title="No keys yet">${hidden > 0 ? 'All that were made are revoked.' : 'You came in with the bootstrap secret or a token. Make a key for each program that calls the service.'}</${Empty}>`}
        ${rows.length > 0 && html`<${Table} caption="API keys" columns=${columns} rows=${rows} rowKey=${(row) => row.key_id} />`}
        ${(hidden > 0 || old) && html`<p><button type="button" class="quiet" onClick=${() => setOld(!old)}>${old ? 'Hide revoked keys' : `Show ${hidden} revoked`}</button></p>`}
        ${list.hasMore && html`<${Pager} list=${list} noun="keys" />`}
      </div>
    </${Page}>`;
}
