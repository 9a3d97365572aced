// One capture or upload: how it stands now, its slots one by one, gaps, events, and what can be done with it.
import { html, useRef, useState } from '../lib/html.js';
import { can, get, post } from '../lib/api.js';
import { Bar, FINAL, Legend, StatusBadge, lost, progressText } from '../lib/captures.js';
import { Link, link } from '../lib/router.js';
import { Time, duration, now, number, timeText } from '../lib/time.js';
import { Badge, Card, ErrorBox, Facts, Field, Page, Waiting, confirm, notify, useAction, useList, useLive, useLoad, usePoll } from '../lib/ui.js';
import { DROPPED, MODE, wordsOf } from '../lib/words.js';

const MOST_CELLS = 600; // slots that are shown one by one; more are told as bars and gaps
const PAGE = 200;
const FRAMES_PAUSE = 1500;
const WITHOUT_LIVE = 3000;

/** The stored slots of a request that has few enough: Map of sequence → frame. */
async function storedSlots(request, abort) {
  const found = new Map();
  for (let cursor = null, pages = 0; pages * PAGE < MOST_CELLS; pages += 1) {
    const page = await get('/frames', { request_id: request.request_id, order: 'asc', limit: PAGE, cursor }, { signal: abort });
    for (const frame of page.items) found.set(frame.sequence, frame);
    cursor = page.next_cursor;
    if (!cursor) break;
  }
  return found;
}

/** Hundreds of slots are one stop of the Tab key: arrows, Home and End go on from there. */
function along(event) {
  const all = [...event.currentTarget.querySelectorAll('a')];
  const to = { ArrowRight: all.indexOf(document.activeElement) + 1, ArrowLeft: all.indexOf(document.activeElement) - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  all[to]?.focus();
}

function Slots({ request, frames, events }) {
  const { expected } = request.progress;
  const missing = lost(request.progress);
  const count = Math.max(expected, ...(events ?? []).map((event) => (event.last_sequence ?? -1) + 1), 0);
  const byEvent = request.capture_mode === 'event_driven';
  const inEvent = (slot) => (events ?? []).find((event) => event.first_sequence !== null && slot >= event.first_sequence && slot <= event.last_sequence);
  const last = [...frames.keys()].reduce((most, slot) => Math.max(most, slot), -1);
  const first = [...frames.keys()].reduce((least, slot) => Math.min(least, slot), Infinity);
  const cells = Array.from({ length: Math.min(count, MOST_CELLS) }, (_, slot) => {
    const frame = frames.get(slot);
    const event = byEvent ? inEvent(slot) : null;
    let kind = 'dropped';
    let text = 'dropped';
    if (frame) [kind, text] = ['stored', `stored, taken ${timeText(frame.timestamp, { ms: true })}`];
    else if (byEvent && !event) [kind, text] = ['idle', 'no event'];
    else if (!FINAL.includes(request.status) && (slot > last || missing === 0)) [kind, text] = ['flight', 'in flight']; // or just stored
    const title = `Slot ${slot}: ${text}${event ? `, ${event.label || event.kind}` : ''}`;
    return { slot, kind, title, frame };
  });
  return html`
    <ol class="slots" aria-label=${`${cells.length} slots: ${progressText(request.progress)}. Arrows go from one stored picture to the next.`} onKeyDown=${along}>
      ${cells.map(({ slot, kind, title, frame }) => html`<li key=${slot} class=${kind}>${frame
    ? html`<${Link} to=${link('frames', frame.frame_id)} title=${title} aria-label=${title} tabindex=${slot === first ? undefined : '-1'} />`
    : html`<span title=${title}></span>`}</li>`)}
    </ol>`;
}

/** Of more slots than can be shown one by one: the time from the first picture on, with gaps and events. */
function Strip({ request, events, end }) {
  const from = new Date(request.grid_start).getTime();
  const to = Math.max(end.getTime(), from + 1000);
  const place = (at) => Math.max(0, Math.min(960, ((at - from) / (to - from)) * 960));
  const span = (item) => {
    const x = place(new Date(item.from).getTime());
    return { x, width: Math.max(2, place(item.to ? new Date(item.to).getTime() : to) - x) };
  };
  const byEvent = request.capture_mode === 'event_driven';
  return html`
    <div class="strip">
      <svg viewBox="0 0 960 40" preserveAspectRatio="none" role="img" aria-label=${`${request.progress.gaps.length} gaps between ${timeText(from)} and ${timeText(to)}`}>
        <rect class=${byEvent ? 'base' : 'kept'} width="960" height="40" />
        ${byEvent && (events ?? []).map((event) => html`<rect key=${event.event_id} class="kept" ...${span(event)} y="0" height="40"><title>${event.label || event.kind}</title></rect>`)}
        ${request.progress.gaps.map((gap, index) => html`<rect key=${index} class="lost" ...${span(gap)} y="0" height="40"><title>${DROPPED[gap.reason] ?? gap.reason}</title></rect>`)}
      </svg>
      <div class="strip-scale small muted"><span>${timeText(from)}</span><span>${request.completed_at ? timeText(to) : 'now'}</span></div>
    </div>`;
}

function Gaps({ gaps }) {
  if (gaps.length === 0) return html`<p class="muted">No gaps: the camera sent pictures all the time.</p>`;
  return html`<ul class="plain">${gaps.map((gap, index) => html`
    <li key=${index}><${Time} at=${gap.from} ms /> ${gap.to ? html`for ${duration((new Date(gap.to) - new Date(gap.from)) / 1000)}` : html`<${Badge} kind="bad">goes on</${Badge}>`}${`: ${DROPPED[gap.reason] ?? gap.reason}`}</li>`)}</ul>`;
}

function Trigger({ requestId, done }) {
  const [label, setLabel] = useState('');
  const sending = useAction(() => post(`/ingest/requests/${requestId}/trigger`, label.trim() ? { label: label.trim() } : {}, { idempotent: true }));
  const submit = async (event) => {
    event.preventDefault();
    if (!(await sending.run())) return;
    setLabel('');
    notify('Triggered.');
    done();
  };
  return html`
    <form class="form" onSubmit=${submit}>
      <div class="form-row ended">
        <${Field} label="Label (may stay empty)" name="label" value=${label} onInput=${setLabel} maxlength="200" placeholder="car 44 enters" problem=${sending.problem} />
        <button type="submit" class="primary" disabled=${sending.busy}>Trigger an event now</button>
      </div>
      <${ErrorBox} error=${sending.problem} />
    </form>`;
}

function Thumbs({ frames }) {
  return html`<ul class="thumbs">${frames.slice(0, 12).map((frame) => html`
    <li key=${frame.frame_id}><${Link} to=${link('frames', frame.frame_id)}>
      <img src=${`/api/v1/frames/${frame.frame_id}/thumbnail?width=320`} alt=${`Frame of ${frame.timestamp}`} width="320" height="180" loading="lazy" />
      <span class="small">${frame.filename ?? html`<${Time} at=${frame.timestamp} ms />`}</span></${Link}></li>`)}</ul>`;
}

export default function Capture({ params: { request_id: id } }) {
  const found = useLoad((abort) => get(`/ingest/status/${encodeURIComponent(id)}`, null, { signal: abort }), [id]);
  const request = found.data;
  const mode = request?.capture_mode;
  const few = request && request.progress.expected <= MOST_CELLS;
  const slots = useLoad((abort) => (can('frames:read') && request && few ? storedSlots(request, abort) : null), [id, Boolean(request), few]);
  const events = useList(`/ingest/requests/${encodeURIComponent(id)}/events`, {}, { limit: 100, pause: mode !== 'event_driven' });
  const wait = useRef(null);
  const soon = () => {
    if (wait.current !== null) return;
    wait.current = setTimeout(() => {
      wait.current = null;
      found.reload();
      slots.reload();
      if (mode === 'event_driven') events.reload();
    }, FRAMES_PAUSE);
  };
  useLive({ types: ['frame.stored', 'request.completed', 'request.failed', 'request.cancelled'], request_ids: [id], progress: true }, (message) => {
    if (message.op === 'progress') found.set((old) => old && { ...old, status: message.status, progress: { ...old.progress, ...message.progress } });
    soon();
  });
  const running = request && !FINAL.includes(request.status);
  usePoll(() => { found.reload(); slots.reload(); }, running && !can('events:read') ? WITHOUT_LIVE : 0);
  const cancelling = useAction(() => post(`/ingest/requests/${encodeURIComponent(id)}/cancel`, undefined, { idempotent: true }));
  if (!request) return html`<${Page} title="Capture"><${Waiting} of=${found} what="Reading the capture" /></${Page}>`;

  const cancel = async () => {
    const yes = await confirm({ title: 'Cancel this capture?', text: 'What was captured before is stored. It cannot be started again; a new one can.', action: 'Cancel the capture', danger: true });
    if (yes && (await cancelling.run())) found.reload();
  };
  const upload = request.source_type === 'upload';
  const title = upload ? `Upload for ${request.camera_id}` : `${request.camera_id}, ${MODE[mode]}`;
  const end = request.completed_at ? new Date(request.completed_at) : new Date(now.value);
  // Of a capture that stores frames again, a failure before them is history: its gap tells it.
  const over = running && request.progress.last_frame_at > (request.error?.at ?? '');
  const error = request.error && !over && wordsOf(request.error.code, request.error.message);
  const actions = html`
    ${can('cameras:read') && !upload && html`<${Link} class="button" to=${link('cameras', request.camera_id)}>The camera</${Link}>`}
    ${can('frames:read') && html`<${Link} class="button" to=${`/console/frames?request_id=${id}`}>Its frames</${Link}>`}
    ${running && !upload && can('ingest:write') && html`<button type="button" class="danger" onClick=${cancel} disabled=${cancelling.busy}>Cancel</button>`}`;
  return html`
    <${Page} title=${title} actions=${actions} hint=${request.message} wide>
      <${ErrorBox} error=${cancelling.problem} />
      ${error && html`<div class=${running ? 'notice' : 'error'} role="alert"><p><strong>${error.what}</strong> ${error.todo}</p>
        <p class="small">${request.error.message} · <code>${request.error.code}</code> · <${Time} at=${request.error.at} />${running ? ' · it is tried again' : ''}</p></div>`}
      <div class="stack">
        <${Card} title="Progress" actions=${html`<${StatusBadge} status=${request.status} />`}>
          <div class="big-bar"><${Bar} progress=${request.progress} /></div>
          <p aria-live="polite">${progressText(request.progress)}.</p>
          <${Legend} />
        </${Card}>
        ${mode === 'event_driven' && request.status === 'in_progress' && can('ingest:write') && html`<${Card} title="Trigger"><${Trigger} requestId=${id} done=${events.reload} /></${Card}>`}
        <div class="columns wide-left">
          <div class="stack">
            ${!upload && html`<${Card} title="Slots">
              ${few && slots.data && html`<${Slots} request=${request} frames=${slots.data} events=${events.items} />`}
              ${few && !slots.data && can('frames:read') && html`<p class="muted">Reading the slots …</p>`}
              ${!few && request.grid_start && html`<${Strip} request=${request} events=${events.items} end=${end} />`}
              <h3 class="space">Gaps</h3><${Gaps} gaps=${request.progress.gaps} />
            </${Card}>`}
            ${request.rejected.length > 0 && html`<${Card} title="Refused files"><ul class="plain">${request.rejected.map((file) => html`
              <li key=${file.index}><strong>${file.filename ?? `file ${file.index + 1}`}</strong>: ${file.detail} <code class="small">${file.code}</code></li>`)}</ul></${Card}>`}
            ${mode === 'event_driven' && html`<${Card} title="Events">
              ${events.items?.length === 0 && html`<p class="muted">None yet.</p>`}
              <ul class="plain">${(events.items ?? []).map((event) => html`<li key=${event.event_id}><${Time} at=${event.from} ms />
                ${event.label ? html` <strong>${event.label}</strong>` : ` ${event.kind}`}${event.to === null ? ', goes on' : event.to > event.from ? `, ${duration((new Date(event.to) - new Date(event.from)) / 1000)}` : ''}${`, ${event.frames} frames`}${event.score !== null ? `, ${number(event.score * 100, 1)} % of the picture moved` : ''}</li>`)}</ul></${Card}>`}
            ${request.frames.length > 0 && can('frames:read') && html`<${Card} title=${upload ? 'Frames' : 'Newest frames'}><${Thumbs} frames=${request.frames} /></${Card}>`}
          </div>
          <${Card} title="Facts"><${Facts} items=${[
    ['Id', html`<code>${request.request_id}</code>`],
    ['Accepted', html`<${Time} at=${request.created_at} />`],
    ['Begun', request.started_at && html`<${Time} at=${request.started_at} />`],
    ['First picture', request.grid_start && html`<${Time} at=${request.grid_start} ms />`],
    ['Ended', request.completed_at && html`<${Time} at=${request.completed_at} />`],
    ['Took', request.started_at && duration((end - new Date(request.started_at)) / 1000)],
    ['Picture', request.source?.width && `${request.source.width} × ${request.source.height}, ${request.source.codec}`],
    ['Address', request.source?.url && html`<code>${request.source.url}</code>`],
    ['Frames now', number(request.frames_total)],
    ['Lost', lost(request.progress) > 0 && number(lost(request.progress))],
    ['Duplicates', request.progress.duplicates > 0 && number(request.progress.duplicates)],
    ['Reconnects', request.progress.reconnects > 0 && number(request.progress.reconnects)],
    ['Worker', request.worker && html`<code>${request.worker.slice(0, 8)}</code>`],
    ...Object.entries(request.meta ?? {}).map(([name, value]) => [name.replaceAll('_', ' '), typeof value === 'string' ? value : JSON.stringify(value)]),
  ]} /></${Card}>
        </div>
      </div>
    </${Page}>`;
}
