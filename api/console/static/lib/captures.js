// What several views show of captures and uploads: bars, lists that move by the WebSocket.
import { html, useRef } from './html.js';
import { can } from './api.js';
import { Link, link } from './router.js';
import { Time, duration, now } from './time.js';
import { Badge, Pager, Table, Waiting, useList, useLive, usePoll } from './ui.js';
import { DROPPED, MODE, STATUS } from './words.js';

export const FINAL = ['completed', 'failed', 'cancelled'];
const ENDINGS = ['request.completed', 'request.failed', 'request.cancelled'];
const KINDS = { pending: 'plain', in_progress: 'info', completed: 'good', failed: 'bad', cancelled: 'plain' };
const LIST_PAUSE = 1000; // ms between two readings of a list, however much happens
const WITHOUT_LIVE = 5000;

export const StatusBadge = ({ status }) => html`<${Badge} kind=${KINDS[status]}>${STATUS[status] ?? status}</${Badge}>`;

export const lost = (progress) => Object.values(progress.dropped).reduce((sum, count) => sum + count, 0);

/** "1,204 stored, 3 in flight, 2 dropped (the camera was away 2)". */
export function progressText(progress) {
  const dropped = Object.entries(progress.dropped).filter(([, count]) => count > 0);
  return [
    `${progress.stored.toLocaleString()} of ${progress.expected.toLocaleString()} stored`,
    progress.in_flight > 0 && `${progress.in_flight.toLocaleString()} in flight`,
    dropped.length > 0 && `${lost(progress).toLocaleString()} dropped: ${dropped.map(([reason, count]) => `${DROPPED[reason] ?? reason} (${count.toLocaleString()})`).join(', ')}`,
  ].filter(Boolean).join(', ');
}

/** The ledger as a bar: stored, in flight, dropped. */
export function Bar({ progress }) {
  const { expected, stored, in_flight: flying } = progress;
  const text = progressText(progress);
  if (!expected) return html`<span class="bar-line"><svg class="ledger" viewBox="0 0 200 8" preserveAspectRatio="none" role="img" aria-label="Nothing was due yet"><rect class="base" width="200" height="8" /></svg></span>`;
  const width = (count) => (count / expected) * 200;
  const dropped = lost(progress);
  return html`
    <span class="bar-line">
      <svg class="ledger" viewBox="0 0 200 8" preserveAspectRatio="none" role="img" aria-label=${text}>
        <title>${text}</title>
        <rect class="base" width="200" height="8" />
        <rect class="stored" width=${width(stored)} height="8" />
        <rect class="flight" x=${width(stored)} width=${width(flying)} height="8" />
        <rect class="dropped" x=${width(stored + flying)} width=${dropped ? Math.max(2, width(dropped)) : 0} height="8" />
      </svg>
    </span>`;
}

export const Legend = () => html`
  <ul class="legend small muted" aria-hidden="true"><li><i class="stored"></i>stored</li><li><i class="flight"></i>in flight</li><li><i class="dropped"></i>dropped</li></ul>`;

const took = (request) => {
  if (!request.started_at) return html`<span class="muted">–</span>`;
  const end = request.completed_at ? new Date(request.completed_at) : new Date(now.value);
  return duration((end - new Date(request.started_at)) / 1000);
};

/** Requests that fit `filter`, newest first, kept up to date. `none`: what stands there when there is none. */
export function RequestList({ filter, limit = 50, camera = true, none, pages = false }) {
  const list = useList('/ingest/requests', filter, { limit });
  const wait = useRef(null);
  const readSoon = () => {
    if (wait.current === null) wait.current = setTimeout(() => { wait.current = null; list.reload(); }, LIST_PAUSE);
  };
  const wanted = { types: ['request.started', ...ENDINGS], progress: true, ...(filter.camera_id ? { camera_ids: [filter.camera_id] } : {}) };
  useLive(wanted, (message) => {
    if (message.op !== 'progress') readSoon();
    else {
      list.set((items) => items.map((item) => (item.request_id === message.request_id
        ? { ...item, status: message.status, progress: { ...item.progress, ...message.progress } } : item)));
    }
  });
  usePoll(list.reload, can('events:read') ? 0 : WITHOUT_LIVE);
  const columns = [
    { name: 'Capture', cell: (row) => html`<${Link} to=${link('captures', row.request_id)}>${row.source_type === 'upload' ? 'upload' : MODE[row.capture_mode]}</${Link}>` },
    camera && { name: 'Camera', cell: (row) => (can('cameras:read') ? html`<${Link} to=${link('cameras', row.camera_id)}>${row.camera_id}</${Link}>` : row.camera_id) },
    { name: 'State', cell: (row) => html`<${StatusBadge} status=${row.status} />` },
    { name: 'Frames', kind: 'bars', cell: (row) => html`<${Bar} progress=${row.progress} /><span class="small muted">${counts(row.progress)}</span>` },
    { name: 'Session', cell: (row) => row.meta?.session ?? html`<span class="muted">–</span>` },
    { name: 'Begun', cell: (row) => html`<${Time} at=${row.started_at ?? row.created_at} />` },
    { name: 'Took', kind: 'number', cell: took },
  ].filter(Boolean);
  return html`
    <${Waiting} of=${list} what="Reading the captures" />
    ${list.items && (list.items.length === 0 ? none : html`
      <${Table} caption="Captures and uploads" columns=${columns} rows=${list.items} rowKey=${(row) => row.request_id} />
      ${pages && html`<${Pager} list=${list} noun="captures" />`}`)}`;
}

const counts = (progress) => {
  const gone = lost(progress);
  return `${progress.stored.toLocaleString()} / ${progress.expected.toLocaleString()}${gone ? `, ${gone.toLocaleString()} dropped` : ''}`;
};
