// Frames by camera and time. Only what is in view is drawn, however many there are; a page of the API is read when it is
// near, and no more than MOST frames are remembered.
import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from '../lib/html.js';
import { can, get, post } from '../lib/api.js';
import { Suggestions, Thumbnail, Verdict, cameraIds, frameTitle } from '../lib/frames.js';
import { returned } from '../lib/live.js';
import { Link, link, navigate, queried, setQuery } from '../lib/router.js';
import { Scrubber } from '../lib/scrubber.js';
import { Time, dayText, fromLocalInput, timeText, toLocalInput } from '../lib/time.js';
import { Badge, Empty, ErrorBox, Field, Loading, Page, useAction, useLive, useLoad } from '../lib/ui.js';

const PAGE = 200;
const MOST = 20_000; // some 300 bytes each
const LEAST_WIDTH = 168; // px of a tile
const CAPTION = 54; // px below a tile's picture
const GAP = 12;
const AROUND = 3; // rows above and below what is in view
const SOURCES = [['', 'cameras and uploads'], ['rtsp', 'cameras'], ['upload', 'uploads']];
const PHASES = [['', 'any'], ['before', 'before'], ['after', 'after']];
const QUALITIES = [['', 'any'], ['good', 'good'], ['suspect', 'suspect'], ['bad', 'bad']];
const NAMES = ['camera_id', 'from', 'to', 'source_type', 'subject', 'session', 'phase', 'quality', 'request_id'];

const kept = ({ frame_id, camera_id, timestamp, filename, quality, held_at, format, source_type }) => ({ frame_id, camera_id, timestamp, filename, quality, held_at, format, source_type });

/** {frames, more, full, error, loading, ended}: grows by `more`; read anew with another `turn`, and after a failure once the service is back. */
function useFrames(filter, turn) {
  const key = JSON.stringify([filter, turn]);
  const own = useRef({ key: null, frames: [], cursor: null, busy: false, ended: false, abort: null });
  const [, redraw] = useState(0);
  const [error, setError] = useState(null);
  const more = useCallback(async () => {
    const now = own.current;
    if (now.busy || now.ended || now.frames.length >= MOST) return;
    now.busy = true;
    now.abort = new AbortController();
    redraw((count) => count + 1);
    try {
      const page = await get('/frames', { ...JSON.parse(now.key)[0], order: 'desc', limit: PAGE, cursor: now.cursor }, { signal: now.abort.signal });
      now.frames = now.frames.concat(page.items.map(kept));
      now.cursor = page.next_cursor;
      now.ended = page.next_cursor === null;
      setError(null);
    } catch (problem) {
      if (problem.name !== 'AbortError') setError(problem);
    }
    now.busy = false;
    redraw((count) => count + 1);
  }, []);
  useEffect(() => {
    own.current.abort?.abort();
    own.current = { key, frames: [], cursor: null, busy: false, ended: false, abort: null };
    setError(null);
    more();
    return () => own.current.abort?.abort();
  }, [key]);
  const back = returned.value;
  useEffect(() => { if (error) more(); }, [back]);
  const now = own.current.key === key ? own.current : { frames: [], busy: true, ended: false };
  return { frames: now.frames, ended: now.ended, loading: now.busy, full: now.frames.length >= MOST, error, more };
}

/** Tiles in rows of one height; `choose(frame)`, where it is given, is what a click or Enter does instead of opening it. */
function Tiles({ frames, more, choose }) {
  const box = useRef(null);
  const [size, setSize] = useState({ width: 0, top: 0, bottom: 0 });
  const [active, setActive] = useState(0);
  const wanted = useRef(null); // the tile to be focused once it is drawn: an effect may be an earlier drawing's, and know an earlier `active`
  const measure = useCallback(() => {
    const place = box.current?.getBoundingClientRect();
    if (place) setSize({ width: place.width, top: -place.top, bottom: innerHeight - place.top });
  }, []);
  useLayoutEffect(measure, []);
  useEffect(() => {
    let asked = 0;
    const soon = () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(measure); };
    const watcher = new ResizeObserver(soon);
    watcher.observe(box.current);
    addEventListener('scroll', soon, { passive: true });
    addEventListener('resize', soon);
    return () => {
      watcher.disconnect();
      cancelAnimationFrame(asked);
      removeEventListener('scroll', soon);
      removeEventListener('resize', soon);
    };
  }, []);
  const columns = Math.max(2, Math.floor((size.width + GAP) / (LEAST_WIDTH + GAP)));
  const tile = (size.width - GAP * (columns - 1)) / columns;
  const high = Math.round(tile * 9 / 16) + CAPTION;
  const rows = Math.ceil(frames.length / columns);
  const first = Math.max(0, Math.floor(size.top / (high + GAP)) - AROUND);
  const last = Math.min(rows - 1, Math.ceil(size.bottom / (high + GAP)) + AROUND);
  useEffect(() => { if (last >= rows - AROUND * 3) more(); }, [last, rows]);
  useEffect(() => {
    if (wanted.current === null) return;
    const element = box.current.querySelector(`[data-index="${wanted.current}"]`);
    if (element) {
      wanted.current = null;
      element.focus({ preventScroll: true });
    }
  });
  const go = (index) => {
    const to = Math.max(0, Math.min(frames.length - 1, index));
    wanted.current = to;
    setActive(to);
    const top = Math.floor(to / columns) * (high + GAP) + box.current.getBoundingClientRect().top;
    if (top < 8) scrollBy(0, top - 8);
    else if (top + high > innerHeight - 8) scrollBy(0, top + high - innerHeight + 8);
  };
  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = columns * Math.max(1, Math.floor(innerHeight / (high + GAP)));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(active + step);
  };
  const shown = size.width > 0 ? frames.slice(first * columns, (last + 1) * columns) : [];
  const stop = Math.min(Math.max(active, first * columns), Math.min(frames.length, (last + 1) * columns) - 1); // Tab comes to what is in view
  return html`
    <ul class="tiles" ref=${box} onKeyDown=${key} style=${{ height: `${Math.max(0, rows * (high + GAP) - GAP)}px` }} aria-label="Frames, newest first">
      ${shown.map((frame, number) => {
    const index = first * columns + number;
    const place = { width: `${tile}px`, height: `${high}px`, transform: `translate(${(index % columns) * (tile + GAP)}px, ${Math.floor(index / columns) * (high + GAP)}px)` };
    const inside = html`<${Thumbnail} frame=${frame} width=${tile * devicePixelRatio > 330 ? 480 : 320} />
            <span class="tile-line"><${Time} at=${frame.timestamp} ms date=${false} /></span>
            <span class="tile-line muted small">${dayText(frame.timestamp)}${frame.filename ?? frame.camera_id}${frame.filename && html`<span class="hidden"> of ${frame.camera_id}</span>`}</span>
            ${(frame.held_at || (frame.quality && frame.quality.verdict !== 'good')) && html`<span class="tile-marks">${frame.held_at && html`<${Badge} kind="info">on hold</${Badge}>`}<${Verdict} quality=${frame.quality} quiet /></span>`}`;
    const common = { 'data-index': index, tabindex: index === stop ? '0' : '-1', onFocus: () => setActive(index), class: 'frame-tile' };
    return html`<li key=${frame.frame_id} style=${place} aria-setsize=${frames.length} aria-posinset=${index + 1}>
          ${choose ? html`<button type="button" ...${common} onClick=${() => choose(frame)}>${inside}</button>`
      : html`<${Link} to=${link('frames', frame.frame_id)} ...${common}>${inside}</${Link}>`}</li>`;
  })}
    </ul>`;
}

/** "Pair with …": the frame that was chosen first, and what a click does now. */
function Pairing({ other, problem }) {
  return html`
    <div class="notice info pairing" role="status">
      ${other.data && html`<${Thumbnail} frame=${other.data} width=${160} />`}
      <div><p><strong>Choose the frame to pair with${other.data ? ` ${frameTitle(other.data)}` : ' it'}.</strong> The earlier one is “before”.</p>
        <${ErrorBox} error=${problem ?? other.error} /></div>
      <button type="button" onClick=${() => setQuery({ pair: null })}>Do not pair</button>
    </div>`;
}

export default function Frames() {
  const filter = Object.fromEntries(NAMES.map((name) => [name, queried(name)]).filter(([, value]) => value));
  const at = queried('at');
  const pair = can('ingest:write') ? queried('pair') : '';
  const [come, setCome] = useState(0);
  const [again, setAgain] = useState(0);
  const { frames, more, ended, loading, full, error } = useFrames(at ? { ...filter, to: at } : filter, again);
  const cameras = useLoad(cameraIds);
  const other = useLoad((abort) => (pair ? get(`/frames/${pair}`, null, { signal: abort }) : null), [pair]);
  useEffect(() => setCome(0), [JSON.stringify(filter), at, again]);
  useLive({ types: ['frame.stored'], camera_ids: filter.camera_id ? [filter.camera_id] : null }, (message) => {
    if (message.op === 'event' && !at && !filter.to) setCome((count) => count + 1);
  });
  const pairing = useAction(async (frame) => {
    const first = other.data ?? await get(`/frames/${pair}`); // a click may come before it was read
    const [before, after] = new Date(frame.timestamp) < new Date(first.timestamp) ? [frame, first] : [first, frame];
    const made = await post('/pairs', { before: { frame_id: before.frame_id }, after: { frame_id: after.frame_id } }, { idempotent: true });
    navigate(link('pairs', made.pair_id));
  });
  const choose = pair ? (frame) => frame.frame_id !== pair && pairing.run(frame) : null;
  const chosen = (name) => ({ name, type: 'select', value: queried(name), onInput: (value) => setQuery({ [name]: value }) });
  const typed = (name) => ({ name, type: 'search', value: queried(name), onChange: (event) => setQuery({ [name]: event.currentTarget.value.trim(), at: null }) });
  const dated = (name) => ({ name, type: 'datetime-local', step: 1, value: toLocalInput(queried(name)), onChange: (event) => setQuery({ [name]: fromLocalInput(event.currentTarget.value), at: null }) });
  const narrowed = Object.keys(filter).length > 0 || at;
  const showAll = () => setQuery(Object.fromEntries([...NAMES, 'at'].map((name) => [name, null])));
  return html`
    <${Page} title="Frames" wide actions=${come > 0 && html`<button type="button" class="primary" onClick=${() => setAgain(again + 1)}>${come} new: show</button>`}>
      ${pair && html`<${Pairing} other=${other} problem=${pairing.problem} />`}
      <div class="toolbar">
        <${Field} label="Camera" placeholder="id" list="frame-cameras" ...${typed('camera_id')} />
        <${Suggestions} id="frame-cameras" of=${cameras.data} />
        <${Field} label="From" ...${dated('from')} />
        <${Field} label="To" ...${dated('to')} />
        <${Field} label="Out of" options=${SOURCES} ...${chosen('source_type')} />
        <${Field} label="Subject" placeholder="car-44" ...${typed('subject')} />
        <${Field} label="Session" placeholder="FP1" ...${typed('session')} />
        <${Field} label="Phase" options=${PHASES} ...${chosen('phase')} />
        <${Field} label="Quality" options=${QUALITIES} ...${chosen('quality')} />
        ${narrowed && html`<button type="button" onClick=${showAll}>Show all</button>`}
      </div>
      <${Scrubber} cameraId=${filter.camera_id} from=${filter.from} to=${filter.to} at=${at ? new Date(at).getTime() : null}
        go=${(ms) => setQuery({ at: ms === null ? null : new Date(ms).toISOString() })} look=${(from, to) => setQuery({ from, to, at: null })} />
      ${filter.request_id && html`<p class="muted">Of one capture only. <${Link} to=${link('captures', filter.request_id)}>See the capture</${Link}></p>`}
      ${at && html`<p class="muted">From ${timeText(at, { date: true })} backwards. <button type="button" class="quiet bare" onClick=${() => setQuery({ at: null })}>From the newest</button></p>`}
      <${Shown} key=${again} ...${{ frames, more, ended, loading, full, error, choose, narrowed, showAll }} />
    </${Page}>`;
}

function Shown({ frames, more, ended, loading, full, error, choose, narrowed, showAll }) {
  if (error && frames.length === 0) return html`<${ErrorBox} error=${error} retry=${more} />`;
  if (frames.length === 0 && !ended) return html`<${Loading} what="Reading the frames" />`;
  if (frames.length === 0) {
    return narrowed
      ? html`<${Empty} title="No frame fits"><button type="button" onClick=${showAll}>Show all</button></${Empty}>`
      : html`<${Empty} title="No frames yet">${can('ingest:write') ? html`<p>They come from captures and uploads.</p><div class="actions"><${Link} class="button primary" to="/console/captures/new">Start a capture</${Link}><${Link} class="button" to="/console/upload">Upload pictures</${Link}></div>` : 'None was stored, or your key includes none of them.'}</${Empty}>`;
  }
  const last = frames.at(-1);
  return html`
    <${Tiles} frames=${frames} more=${more} choose=${choose} />
    <p class="pager muted" role="status">
      ${full ? html`<span>${MOST.toLocaleString()} frames are shown.</span><button type="button" onClick=${() => { setQuery({ at: last.timestamp }); scrollTo(0, 0); }}>Go on with older ones</button>`
    : ended ? `${frames.length.toLocaleString()} ${frames.length === 1 ? 'frame' : 'frames'}, all there are` : loading ? 'Reading more …' : `${frames.length.toLocaleString()} frames so far`}
    </p>
    <${ErrorBox} error=${error} retry=${more} />`;
}
