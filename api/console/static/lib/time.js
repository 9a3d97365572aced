// Times in the viewer's zone, with UTC on hover; durations and ages in words.
import { html, signal } from './html.js';

export const now = signal(Date.now()); // ms; moves once a second while somebody looks
setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 1000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) now.value = Date.now(); });

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });
const dayOfYear = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', year: 'numeric' });

const utc = (at) => new Date(at).toISOString().replace('T', ' ').replace('Z', ' UTC');

const sameDay = (a, b) => a.toDateString() === b.toDateString();

/** "14:03:21", with the day when it is not today's, with milliseconds on demand. */
export function timeText(at, { ms = false, date = null } = {}) {
  const when = new Date(at);
  const today = new Date();
  const time = clock.format(when) + (ms ? `.${String(when.getMilliseconds()).padStart(3, '0')}` : '');
  if (date === false || (date === null && sameDay(when, today))) return time;
  return `${(when.getFullYear() === today.getFullYear() ? day : dayOfYear).format(when)}, ${time}`;
}

/** "4 May, ", or '' of today. */
export const dayText = (at) => (sameDay(new Date(at), new Date()) ? '' : `${timeText(at, { date: true }).replace(/,[^,]*$/, '')}, `);

/** Seconds as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 days". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–';
  const s = Math.abs(seconds);
  if (s < 10) return `${Math.round(s * 10) / 10} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return whole(Math.round(s), 60, 'min', 's');
  if (s < 86400 * 2) return whole(Math.round(s / 60), 60, 'h', 'min');
  return `${Math.round(s / 86400)} days`;
}

function whole(count, base, large, small) {
  const rest = count % base;
  return `${Math.floor(count / base)} ${large}${rest ? ` ${rest} ${small}` : ''}`;
}

export const secondsSince = (at, from = now.value) => (from - new Date(at).getTime()) / 1000;

/** "just now", "12 s ago", "in 3 min". */
function ageText(at, from = now.value) {
  const s = secondsSince(at, from);
  if (s < -1) return `in ${duration(-s)}`;
  if (s < 2) return 'just now';
  return `${duration(Math.floor(s))} ago`;
}

/** A time: `at` is RFC 3339 or null. */
export function Time({ at, ms = false, date = null, none = '–' }) {
  if (!at) return html`<span class="muted">${none}</span>`;
  return html`<time datetime=${at} title=${utc(at)}>${timeText(at, { ms, date })}</time>`;
}

/** How long ago that was; it counts on. */
export function Age({ at, none = 'never' }) {
  if (!at) return html`<span class="muted">${none}</span>`;
  return html`<time datetime=${at} title=${`${timeText(at, { ms: true, date: true })}; ${utc(at)}`}>${ageText(at)}</time>`;
}

/** For <input type="datetime-local" step="1">, in the viewer's zone, and back to RFC 3339 in UTC ('' gives null). */
export function toLocalInput(at) {
  if (!at) return '';
  const when = new Date(at);
  return new Date(when.getTime() - when.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

export const fromLocalInput = (text) => (text ? new Date(text).toISOString() : null);

export function bytes(count) {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const number = (value, digits = 0) =>
  value === null || value === undefined ? '–' : Number(value).toLocaleString(undefined, { maximumFractionDigits: digits });
