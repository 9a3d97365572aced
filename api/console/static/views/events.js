// The event log as it grows: the newest first, the last hundred at the beginning.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { can, get } from '../lib/api.js';
import { cameraIds, Suggestions } from '../lib/frames.js';
import { Link, link, queried, setQuery } from '../lib/router.js';
import { Time, duration, number } from '../lib/time.js';
import { Badge, Empty, Field, Page, Waiting, useLive, useLoad } from '../lib/ui.js';
import { DROPPED, wordsOf } from '../lib/words.js';

const BEFORE = 100; // events that are shown from before the page was opened
const MOST = 500; // older ones make room

const TYPES = {
  'frame.stored': ['Frame stored', 'good'],
  'frame.deleted': ['Frame deleted', 'plain'],
  'request.started': ['Capture started', 'info'],
  'request.completed': ['Capture completed', 'good'],
  'request.failed': ['Capture failed', 'bad'],
  'request.cancelled': ['Capture cancelled', 'plain'],
  'camera.gap_opened': ['Gap begins', 'bad'],
  'camera.gap_closed': ['Gap ends', 'warn'],
  'camera.quality_changed': ['Quality changed', 'warn'],
  'pair.created': ['Pair made', 'info'],
  'pair.aligned': ['Pair aligned', 'info'],
};
const KINDS = [['', 'all kinds'], ['frame.stored,frame.deleted', 'frames'], ['request.started,request.completed,request.failed,request.cancelled', 'captures'],
  ['camera.gap_opened,camera.gap_closed', 'gaps'], ['pair.created,pair.aligned', 'pairs'], ['camera.quality_changed', 'quality']];

function words({ type, data }) {
  if (type === 'frame.stored') return [data.filename, data.width && `${data.width} × ${data.height}`, data.quality && data.quality.verdict !== 'good' && `${data.quality.verdict}: ${data.quality.reasons.join(', ')}`].filter(Boolean).join(', ');
  if (type === 'request.failed') return data.error ? wordsOf(data.error.code, data.error.message).what : '';
  if (type.startsWith('request.') && data.progress) return `${number(data.progress.stored)} of ${number(data.progress.expected)} stored`;
  if (type === 'camera.gap_opened') return DROPPED[data.reason] ?? data.reason ?? '';
  if (type === 'camera.gap_closed') return data.to ? `after ${duration((new Date(data.to) - new Date(data.from)) / 1000)}: ${DROPPED[data.reason] ?? data.reason}` : '';
  if (type === 'pair.aligned' || type === 'pair.created') return data.alignment?.changed_share != null ? `${number(data.alignment.changed_share * 100, 2)} % changed` : data.label ?? '';
  return [data.verdict, ...(data.reasons ?? [])].filter(Boolean).join(', ');
}

function Subject({ event }) {
  const [kind, place, scope] = event.type.startsWith('frame.') ? ['frame', 'frames', 'frames:read'] : event.type.startsWith('pair.') ? ['pair', 'pairs', 'frames:read'] : ['capture', 'captures', 'ingest:read'];
  const id = event.type.startsWith('camera.') ? event.data.request_id : event.subject;
  if (!id || event.type === 'frame.deleted' || !can(scope)) return html`<code class="small">${(id ?? event.subject).slice(0, 8)}</code>`;
  return html`<${Link} to=${link(place, id)}>${kind}</${Link}>`;
}

function Row({ event }) {
  const [title, kind] = TYPES[event.type] ?? [event.type, 'plain'];
  return html`
    <li class="event">
      <${Time} at=${event.time} ms />
      <span><${Badge} kind=${kind}>${title}</${Badge}></span>
      <span class="breaks">${can('cameras:read') ? html`<${Link} to=${link('cameras', event.cameraid)}>${event.cameraid}</${Link}>` : event.cameraid}</span>
      <span class="event-text"><${Subject} event=${event} /> <span class="breaks">${words(event)}</span></span>
      <details><summary aria-label=${`All of ${title}`}>All</summary><pre tabindex="0">${JSON.stringify(event, null, 2)}</pre></details>
    </li>`;
}

export default function Events() {
  const types = queried('types');
  const cameraId = queried('camera_id');
  const [draft, setDraft] = useState(cameraId); // what is being typed: an event that comes must not wipe it
  useEffect(() => setDraft(cameraId), [cameraId]);
  const [fresh, setFresh] = useState([]);
  const [paused, setPaused] = useState(false);
  const held = useRef([]);
  const [waiting, setWaiting] = useState(0);
  const cameras = useLoad(cameraIds);
  const before = useLoad(async (abort) => (await get('/events', { newest: BEFORE, types, camera_id: cameraId }, { signal: abort })).items, [types, cameraId]);
  useEffect(() => { setFresh([]); held.current = []; setWaiting(0); }, [types, cameraId]);
  const batch = useRef({ events: [], timer: null });
  useEffect(() => () => clearTimeout(batch.current.timer), []);
  useLive({ types: types ? types.split(',') : null, camera_ids: cameraId ? [cameraId] : null }, (message) => {
    if (message.op === 'missed') before.reload();
    if (message.op !== 'event') return;
    if (paused) {
      held.current = [...held.current, message.event].slice(-MOST);
      setWaiting(held.current.length);
      return;
    }
    const own = batch.current; // many a second are drawn together
    own.events.push(message.event);
    own.timer ??= setTimeout(() => {
      const come = own.events.splice(0);
      own.timer = null;
      setFresh((old) => [...old, ...come].slice(-MOST));
    }, 200);
  });
  const pause = () => {
    if (paused) {
      const come = held.current;
      held.current = [];
      setWaiting(0);
      setFresh((old) => [...old, ...come].slice(-MOST));
    }
    setPaused(!paused);
  };
  const seen = new Map([...(before.data ?? []), ...fresh].filter((event) => (!types || types.split(',').includes(event.type)) && (!cameraId || event.cameraid === cameraId)).map((event) => [event.id, event]));
  const events = [...seen.values()].sort((a, b) => Number(b.id.split('.')[1]) - Number(a.id.split('.')[1])).slice(0, MOST);
  return html`
    <${Page} title="Events" hint="What happened, as it happens. Programs read the same by GET /api/v1/events or the WebSocket." wide
      actions=${html`<button type="button" aria-pressed=${paused ? 'true' : 'false'} onClick=${pause}>${paused ? `Go on${waiting ? ` (${waiting} new)` : ''}` : 'Pause'}</button>`}>
      <div class="toolbar">
        <${Field} label="Kind" type="select" name="types" options=${KINDS} value=${types} onInput=${(value) => setQuery({ types: value })} />
        <${Field} label="Camera" type="search" name="camera_id" list="event-cameras" placeholder="id" value=${draft} onInput=${setDraft} onChange=${() => setQuery({ camera_id: draft.trim() })} />
        <${Suggestions} id="event-cameras" of=${cameras.data} />
      </div>
      <${Waiting} of=${before} what="Reading the events" />
      ${before.data && (events.length === 0
    ? html`<${Empty} title="No events${types || cameraId ? ' of this kind' : ' yet'}">They appear here by themselves.</${Empty}>`
    : html`<ol class="events" aria-label="Events, newest first">${events.map((event) => html`<${Row} key=${event.id} event=${event} />`)}</ol>
        <p class="muted small space">${events.length >= MOST ? `The newest ${MOST}.` : `${events.length} events.`} Older ones are read by the API.</p>`)}
    </${Page}>`;
}
