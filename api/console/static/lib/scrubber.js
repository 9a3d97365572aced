// Where a camera has frames, over time: bars of a histogram, a slider over them, and closer looks at a part.
import { html, useEffect, useState } from './html.js';
import { get } from './api.js';
import { duration, timeText } from './time.js';
import { Loading, useLoad } from './ui.js';

const MOST_BARS = 240;
const STEPS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400]; // seconds
const SHORT = { 1: 'a second', 60: 'a minute', 1800: 'half an hour', 3600: 'an hour', 86400: 'a day', 604800: 'a week', 2419200: 'four weeks' };

async function edge(cameraId, order, abort) {
  const { items } = await get('/frames', { camera_id: cameraId, order, limit: 1 }, { signal: abort });
  return items[0] ? new Date(items[0].timestamp).getTime() : null;
}

/** {buckets, step} of [from, to] (RFC 3339 or ''); of all of the camera's frames where these are not given. null: no frames. */
async function read(cameraId, from, to, abort) {
  const [first, last] = await Promise.all([from ? new Date(from).getTime() : edge(cameraId, 'asc', abort), to ? new Date(to).getTime() : edge(cameraId, 'desc', abort)]);
  if (first === null || last === null) return null;
  const span = Math.max(1, (last - first) / 1000 + (to ? 0 : 1));
  const step = STEPS.find((seconds) => span / seconds <= MOST_BARS) ?? Math.ceil(span / MOST_BARS);
  const offset = new Date(first).getTimezoneOffset() * 60_000; // days begin at the viewer's midnight
  const begin = from ? first : Math.floor((first - offset) / (step * 1000)) * step * 1000 + offset;
  const end = begin + Math.ceil((last + (to ? 0 : 1) - begin) / (step * 1000)) * step * 1000;
  const { buckets } = await get('/frames/histogram', { camera_id: cameraId, from: new Date(begin).toISOString(), to: new Date(end).toISOString(), bucket_s: step }, { signal: abort });
  return { buckets, step, end };
}

/** `at`: the moment (ms) from which the list goes back, or null; `go(ms)` chooses it, `look(from, to)` shows a part only. */
export function Scrubber({ cameraId, from, to, at, go, look }) {
  const found = useLoad((abort) => (cameraId ? read(cameraId, from, to, abort) : null), [cameraId, from, to]);
  const [chosen, setChosen] = useState(null);
  useEffect(() => setChosen(null), [cameraId, from, to]);
  if (!cameraId) return html`<p class="muted scrubber-none">Choose a camera to see when it has frames.</p>`;
  if (found.error) return html`<p class="muted scrubber-none">When this camera has frames cannot be shown: ${found.error.message}</p>`;
  if (found.loading && !found.data) return html`<${Loading} what="Looking when it has frames" />`;
  if (!found.data?.buckets.length) return html`<p class="muted scrubber-none">This camera has no frames${from || to ? ' in this time' : ''}.</p>`;
  const { buckets, step, end } = found.data;
  const most = Math.max(1, ...buckets.map((bucket) => bucket.frames));
  const index = chosen ?? (at ? Math.max(0, buckets.findLastIndex((bucket) => new Date(bucket.at).getTime() < at)) : buckets.length - 1);
  const bucket = buckets[Math.min(index, buckets.length - 1)];
  const starts = new Date(bucket.at).getTime();
  const text = `${timeText(bucket.at, { date: true })}: ${bucket.frames} ${bucket.frames === 1 ? 'frame' : 'frames'}${bucket.bad ? `, ${bucket.bad} bad` : ''}`;
  const height = (count) => (count === 0 ? 0 : Math.max(2, Math.sqrt(count / most) * 44)); // a lonely frame beside thousands is seen, too
  const total = buckets.reduce((sum, one) => sum + one.frames, 0);
  return html`
    <div class="scrubber">
      <svg viewBox=${`0 0 ${buckets.length} 48`} preserveAspectRatio="none" aria-hidden="true">
        ${buckets.map((one, number) => one.frames > 0 && html`
          <g key=${number}><rect class="kept" x=${number + 0.08} width="0.84" y=${48 - height(one.frames)} height=${height(one.frames)} />
            ${one.bad > 0 && html`<rect class="lost" x=${number + 0.08} width="0.84" y=${48 - height(one.frames) * (one.bad / one.frames)} height=${height(one.frames) * (one.bad / one.frames)} />`}</g>`)}
        <rect class="chosen" x=${index} width="1" y="0" height="48" />
      </svg>
      <input type="range" min="0" max=${buckets.length - 1} step="1" value=${index} aria-label="Moment" aria-valuetext=${text}
        onInput=${(event) => setChosen(Number(event.currentTarget.value))}
        onChange=${(event) => { const number = Number(event.currentTarget.value); go(number >= buckets.length - 1 ? null : new Date(buckets[number].at).getTime() + step * 1000); }} />
      <div class="strip-scale small muted"><span>${timeText(buckets[0].at, { date: true })}</span><span>${timeText(end, { date: true })}</span></div>
      <div class="scrubber-bar">
        <p><strong>${text}</strong> <span class="muted">in ${SHORT[step] ?? duration(step)}; ${total.toLocaleString()} in all</span></p>
        <div class="actions">
          ${step > 1 && bucket.frames > 0 && html`<button type="button" onClick=${() => look(new Date(starts).toISOString(), new Date(starts + step * 1000).toISOString())}>Closer</button>`}
          ${(from || to) && html`<button type="button" onClick=${() => look(null, null)}>All times</button>`}
        </div>
      </div>
    </div>`;
}
