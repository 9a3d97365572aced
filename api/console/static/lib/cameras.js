// What several views show of a camera: its newest picture, its state in words, its gaps.
import { html, useCallback, useEffect, useRef, useState } from './html.js';
import { ask, can, get, problemOf } from './api.js';
import { Time, bytes, duration, number, secondsSince, timeText } from './time.js';
import { Badge, Facts } from './ui.js';
import { DROPPED, STREAM, wordsOf } from './words.js';

const KINDS = { live: 'good', connecting: 'info', stalled: 'warn', backing_off: 'bad', closed: 'plain' };

export function StateBadge({ camera }) {
  if (!camera.enabled) return html`<${Badge} title="No captures and snapshots are taken">disabled</${Badge}>`;
  const { stream } = camera;
  if (!stream) return html`<${Badge} title="No capture runs, and the stream is not kept open">idle</${Badge}>`;
  const error = stream.state !== 'live' && stream.last_error ? wordsOf(stream.last_error.code, stream.last_error.message).what : undefined;
  return html`<${Badge} kind=${KINDS[stream.state]} title=${error}>${STREAM[stream.state]}</${Badge}>`;
}

/** The verdict on a frame's quality, with its reasons; nothing where the service has none. */
export function QualityBadge({ quality, always = false }) {
  if (!quality || (quality.verdict === 'good' && !always)) return null;
  const kind = { good: 'good', suspect: 'warn', bad: 'bad' }[quality.verdict] ?? 'plain';
  return html`<${Badge} kind=${kind} title="Quality of the newest stored picture">${[quality.verdict === 'good' ? 'good picture' : null, ...(quality.reasons ?? [])].filter(Boolean).join(', ') || quality.verdict}</${Badge}>`;
}

/** The newest picture: {src, at, source, problem, refresh}. `refresh` asks with If-None-Match, and never twice at once. */
export function useLatest(cameraId, wanted = true) {
  const [state, setState] = useState({ src: null, at: null, source: null, problem: null, asked: false });
  const kept = useRef({ etag: null, src: null, busy: false, gone: false });
  const refresh = useCallback(async () => {
    const own = kept.current;
    if (own.busy || own.gone) return;
    own.busy = true;
    try {
      const headers = own.etag ? { 'If-None-Match': own.etag, Accept: 'image/jpeg' } : { Accept: 'image/jpeg' };
      const answer = await ask('GET', `/cameras/${encodeURIComponent(cameraId)}/latest.jpg`, { headers });
      if (answer.status === 304) {
        if (!own.gone) setState((old) => (old.problem ? { ...old, problem: null } : old));
        return;
      }
      if (!answer.ok) throw await problemOf(answer);
      const src = URL.createObjectURL(await answer.blob());
      if (own.gone) {
        URL.revokeObjectURL(src);
        return;
      }
      const old = own.src;
      own.src = src;
      own.etag = answer.headers.get('ETag');
      setState({ src, at: answer.headers.get('X-Picture-Timestamp'), source: answer.headers.get('X-Picture-Source'), problem: null, asked: true });
      if (old) setTimeout(() => URL.revokeObjectURL(old), 2000); // the page may be drawing it still
    } catch (problem) {
      if (!own.gone) setState((old) => ({ ...old, problem, asked: true }));
    } finally {
      own.busy = false;
    }
  }, [cameraId]);
  useEffect(() => {
    kept.current.gone = false;
    if (wanted) refresh();
    return () => { kept.current.gone = true; };
  }, [wanted, refresh]);
  useEffect(() => () => { if (kept.current.src) URL.revokeObjectURL(kept.current.src); }, []);
  return { ...state, refresh };
}

/** A place of 16:9 for a picture, with words where there is none. */
export function Picture({ src, alt, children, none = 'No picture yet' }) {
  return html`<div class="picture">${src ? html`<img src=${src} alt=${alt} />` : html`<p>${none}</p>`}${children}</div>`;
}

export const noPicture = () => (can('frames:read') ? 'No picture yet' : 'Your key does not include pictures');

/** The camera's newest stored frame, or null. */
export async function newestFrame(cameraId, abort) {
  if (!can('frames:read')) return null;
  const { items } = await get('/frames', { camera_id: cameraId, order: 'desc', limit: 1 }, { signal: abort });
  return items[0] ?? null;
}

/** Gaps of the last `seconds`: [{from, to, reason, request_id}], at most some hundred. */
export async function gapsOf(cameraId, seconds, abort) {
  const to = new Date();
  const params = { from: new Date(to.getTime() - seconds * 1000).toISOString(), to: to.toISOString(), limit: 200 };
  const items = [];
  for (let pages = 0, cursor = null; pages < 3; pages += 1) {
    const page = await get(`/cameras/${encodeURIComponent(cameraId)}/gaps`, { ...params, cursor }, { signal: abort });
    items.push(...page.items);
    cursor = page.next_cursor;
    if (!cursor) break;
  }
  return items;
}

/** Slots that captures of the camera lost in the last hour, in thirty parts. */
export async function lossesOf(cameraId, abort) {
  const to = new Date();
  const params = { from: new Date(to.getTime() - 3600_000).toISOString(), to: to.toISOString(), bucket_s: 120 };
  return (await get(`/cameras/${encodeURIComponent(cameraId)}/losses`, params, { signal: abort })).buckets;
}

/** The last hour in thirty bars: how many slots of each two minutes were dropped; why, in words. */
export function Sparkline({ losses }) {
  const parts = losses.map(({ dropped }) => Object.values(dropped).reduce((sum, count) => sum + count, 0));
  const lost = parts.reduce((sum, part) => sum + part, 0);
  const most = Math.max(1, ...parts);
  const reasons = {};
  for (const { dropped } of losses) for (const [reason, count] of Object.entries(dropped)) reasons[reason] = (reasons[reason] ?? 0) + count;
  const why = Object.entries(reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => `${count}: ${DROPPED[reason] ?? reason}`);
  const text = lost === 0 ? 'No picture dropped in the last hour' : `${lost} pictures dropped in the last hour. ${why.join('; ')}`;
  return html`
    <span class="spark">
      <svg viewBox="0 0 120 16" preserveAspectRatio="none" role="img" aria-label=${text}>
        <title>${text}</title>
        ${parts.map((part, index) => html`<rect key=${index} class=${part > 0 ? 'lost' : 'kept'} x=${index * 4} width="3"
          y=${part > 0 ? 16 - Math.max(4, (part / most) * 16) : 14} height=${part > 0 ? Math.max(4, (part / most) * 16) : 2} />`)}
      </svg>
      <span class="small muted">${lost === 0 ? 'nothing dropped' : `${lost} dropped`}, 1 h</span>
    </span>`;
}

/** Gaps of 24 hours on a strip, and the same in a list for whoever cannot see or point. */
export function GapStrip({ gaps, hours = 24 }) {
  const to = Date.now();
  const from = to - hours * 3600_000;
  const at = (ms) => ((ms - from) / (to - from)) * 960;
  const ticks = [];
  const first = new Date(from);
  first.setMinutes(0, 0, 0);
  for (let ms = first.getTime() + 3600_000; ms < to; ms += 3600_000) if (new Date(ms).getHours() % 4 === 0) ticks.push(ms);
  return html`
    <div class="strip">
      <svg viewBox="0 0 960 40" preserveAspectRatio="none" role="img" aria-label=${`${gaps.length} gaps in the last ${hours} hours`}>
        <rect class="base" x="0" y="0" width="960" height="40" />
        ${ticks.map((ms) => html`<rect key=${ms} class="tick" x=${at(ms)} y="0" width="1" height="40" />`)}
        ${gaps.map((gap, index) => {
    const start = Math.max(from, new Date(gap.from).getTime());
    const end = gap.to ? new Date(gap.to).getTime() : to;
    const text = `${timeText(gap.from)}, ${gap.to ? duration((end - new Date(gap.from)) / 1000) : 'goes on'}: ${DROPPED[gap.reason] ?? gap.reason}`;
    return html`<rect key=${index} class="lost" x=${at(start)} y="0" width=${Math.max(2, at(end) - at(start))} height="40"><title>${text}</title></rect>`;
  })}
      </svg>
      <div class="strip-scale small muted"><span>${timeText(from)}</span>
        ${ticks.length > 2 && html`<span>${timeText(ticks[Math.floor(ticks.length / 2)], { date: false }).slice(0, 5)}</span>`}<span>now</span></div>
    </div>
    ${gaps.length === 0 ? html`<p class="muted">No gaps.</p>` : html`
      <details><summary>${gaps.length === 1 ? 'One gap' : `${gaps.length} gaps`}</summary>
        <ul class="plain">${gaps.map((gap, index) => html`<li key=${index}><${Time} at=${gap.from} />: ${`${DROPPED[gap.reason] ?? gap.reason}, ${gap.to ? duration((new Date(gap.to) - new Date(gap.from)) / 1000) : 'goes on'}`}</li>`)}</ul></details>`}`;
}

/** How far the camera's clock is from the service's, in words. */
export function clockText(clock) {
  if (!clock) return null;
  if (clock.source === 'receipt' || clock.offset_ms === null) return 'not known; pictures are stamped when they arrive';
  const off = Math.abs(clock.offset_ms);
  if (off < 1) return 'the same as the service’s';
  const size = off < 1000 ? `${number(off, off < 10 ? 1 : 0)} ms` : duration(off / 1000);
  return `${size} ${clock.offset_ms > 0 ? 'ahead of' : 'behind'} the service’s`;
}

/** What a probe has found. */
export function Findings({ found }) {
  if (!found.reachable) {
    const { what, todo } = wordsOf(found.code, found.detail);
    return html`<div class="error" role="status"><p><strong>${what}</strong> ${todo}</p>
      ${found.detail && html`<p>${found.detail}</p>`}<p class="small"><code>${found.code}</code></p></div>`;
  }
  return html`
    <div role="status">
      <p class="notice good">The camera answers and its pictures are whole.</p>
      <${Facts} items=${[
    ['Picture', found.width && `${found.width} × ${found.height}, ${found.codec}`],
    ['Rate', found.fps && `${number(found.fps, 2)} pictures a second`],
    ['Keyframe every', found.keyframe_interval_s && duration(found.keyframe_interval_s)],
    ['Bit rate', found.bitrate_bps && `${number(found.bitrate_bps / 1e6, 2)} Mbit/s`],
    ['Clock', clockText(found.clock)],
    ['Answered in', found.connect_ms !== null && `${number(found.connect_ms)} ms`],
    ['First picture in', found.first_frame_ms !== null && `${number(found.first_frame_ms)} ms`],
    ['Stored', found.mb_per_day_at_1fps && `${bytes(found.mb_per_day_at_1fps * 1e6)} a day at 1 frame a second`],
  ]} />
      ${found.warnings.map((warning) => html`<p class="notice" key=${warning}>${warning}</p>`)}
    </div>`;
}

/** What is wrong with the stream now and what to do; nothing while it is well. */
export function StreamTrouble({ stream }) {
  if (!stream?.last_error || stream.state === 'live') return null;
  const { what, todo } = wordsOf(stream.last_error.code, stream.last_error.message);
  return html`
    <div class="error" role="alert">
      <p><strong>${what}</strong> ${todo}</p>
      <p class="small">${stream.last_error.message} · <code>${stream.last_error.code}</code> · <${Time} at=${stream.last_error.at} />
        ${stream.retry_at && secondsSince(stream.retry_at) < 0 && html` · tried again in ${duration(-secondsSince(stream.retry_at))}`}</p>
      ${stream.refused_logins >= 3 && html`<p>The login was refused ${stream.refused_logins} times; the service now waits long between attempts, so
        that the camera does not lock the user out. A corrected URL is tried at once.</p>`}
    </div>`;
}
