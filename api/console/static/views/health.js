// Whether the service can do its work, part by part, in words.
import { html } from '../lib/html.js';
import { ask } from '../lib/api.js';
import { Age, number } from '../lib/time.js';
import { Badge, Page, Waiting, useLoad, usePoll } from '../lib/ui.js';

const EVERY = 5000; // ms

const WHOLE = {
  healthy: 'Everything works.',
  degraded: 'It works, but not as it should. The marked parts say why.',
  unhealthy: 'It cannot do its work. The marked parts say why.',
};

// What a part is for, and what its failure means to people who use the service.
const PARTS = {
  database: ['Database', 'PostgreSQL: keeps every request, frame and key.', 'Nothing can be accepted or shown. Running captures keep their pictures on disk and store them later.'],
  storage: ['Object store', 'S3: keeps the pictures.', 'Pictures cannot be stored or shown. Running captures keep theirs on disk and store them later.'],
  redis: ['Redis', 'Shares limits among processes.', 'Each process counts for itself. Nothing is lost.'],
  spool: ['Spool', 'Pictures that wait on disk for the database or the store.', 'When it is full, pictures are dropped and counted.'],
  bucket: ['Bucket', 'Whether the bucket belongs to this database.', 'Nothing is deleted from it until this is settled.'],
  secrets: ['Encryption keys', "Whether the keys open the cameras' addresses.", 'This process takes no captures.'],
  sweeper: ['Sweeper', 'Removes objects that no frame belongs to.', 'Objects without a frame stay in the store.'],
  retention: ['Retention', 'Deletes frames that are old enough.', 'Old frames stay.'],
  processes: ['Processes', 'Whether the other processes of this deployment are known, and this one to them.', 'Captures may start later.'],
  schema: ['Tables', 'Whether the tables of the database are those that this version knows.', ''],
};

const WORD = { healthy: 'works', degraded: 'degraded', unhealthy: 'does not work' };
const KIND = { healthy: 'good', degraded: 'warn', unhealthy: 'bad' };

const read = async (abort) => (await ask('GET', '/health', { signal: abort })).json(); // 503 has the same body

function Part({ name, check }) {
  const [title, purpose, without] = PARTS[name] ?? [name.replaceAll('_', ' '), '', ''];
  return html`
    <li class="card part">
      <div class="card-head"><h2>${title}</h2><${Badge} kind=${KIND[check.status]}>${WORD[check.status]}</${Badge}></div>
      ${purpose && html`<p class="muted">${purpose}</p>`}
      ${check.detail && html`<p>${check.detail}</p>`}
      ${check.status !== 'healthy' && without && html`<p><strong>What it means:</strong> ${without}</p>`}
      ${check.latency_ms !== null && html`<p class="small muted">answered in ${number(check.latency_ms, 1)} ms</p>`}
    </li>`;
}

export default function Health() {
  const health = useLoad(read);
  usePoll(health.reload, EVERY);
  const found = health.data?.checks ? health.data : null;
  return html`
    <${Page} title="Health" hint=${found && `TrackShift ${found.version}`}>
      <${Waiting} of=${health} what="Asking every part" />
      ${found && html`
        <p class=${`verdict ${KIND[found.status]}`} role="status"><strong>${WHOLE[found.status]}</strong>
          <span class="muted"> Asked <${Age} at=${found.timestamp} />.</span></p>
        <ul class="parts">${Object.entries(found.checks).map(([name, check]) => html`<${Part} key=${name} name=${name} check=${check} />`)}</ul>`}
    </${Page}>`;
}
