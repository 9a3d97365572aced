// The public JSON API, as any other client calls it. Paths are those after /api/v1, or whole ones that begin with
// /api/ or /health. Errors are thrown as Problem.
import { signal } from './html.js';

export const me = signal(null); // {subject, kind, scopes, cameras, csrf_token}, null while nobody is logged in
export const reachable = signal(true); // whether the service answered the last time it was asked
export const ended = signal(null); // why the session ended, in words, for the login

export class Problem extends Error {
  constructor(body, retryAfter = null) {
    super(body.detail || body.title || 'The service refused this.');
    this.status = body.status ?? 0;
    this.code = body.code ?? 'unknown';
    this.title = body.title ?? '';
    this.detail = body.detail ?? '';
    this.errors = body.errors ?? [];
    this.traceId = body.trace_id ?? null;
    this.retryAfter = retryAfter;
    this.rejected = body.rejected ?? null;
  }
}

export const can = (scope) => {
  const scopes = me.value?.scopes ?? [];
  return !scope || scopes.includes('admin') || scopes.includes(scope);
};

export function sessionEnded() {
  if (me.value === null) return;
  ended.value = 'Your key was revoked or has expired. Log in again to go on.';
  me.value = null;
}

export function url(path, params) {
  const whole = path.startsWith('/api/') || path.startsWith('/health') ? path : `/api/v1${path}`;
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    if (value !== null && value !== undefined && value !== '') query.append(name, String(value));
  }
  return query.size ? `${whole}?${query}` : whole;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** One HTTP request; the Response whatever its status, after a 401 has ended the session. Throws Problem when nothing answers. */
export async function ask(method, path, { params, body, headers = {}, signal: abort, quiet = false } = {}) {
  const sent = { Accept: 'application/json', ...headers };
  if (body !== undefined && !(body instanceof FormData)) sent['Content-Type'] = 'application/json';
  if (method !== 'GET' && me.value?.csrf_token) sent['X-CSRF-Token'] = me.value.csrf_token;
  const options = { method, headers: sent, signal: abort, credentials: 'same-origin', cache: 'no-store' };
  if (body !== undefined) options.body = body instanceof FormData ? body : JSON.stringify(body);
  for (let tries = 0; ; tries += 1) {
    try {
      const answer = await fetch(url(path, params), options);
      reachable.value = true;
      if (answer.status === 401 && !quiet) sessionEnded();
      return answer;
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      if (method === 'GET' && tries < 2) { // a read changes nothing: it may be asked again
        await pause(200 * 4 ** tries);
        continue;
      }
      reachable.value = false;
      throw new Problem({ code: 'no_answer', title: 'No answer', detail: 'The service does not answer.' });
    }
  }
}

export async function problemOf(answer) {
  const after = Number(answer.headers.get('Retry-After'));
  let body;
  try {
    body = await answer.json();
  } catch {
    body = { detail: `The service answered ${answer.status}.`, trace_id: answer.headers.get('X-Request-ID') };
  }
  return new Problem({ ...body, status: answer.status }, after || null);
}

/** The JSON of a 2xx answer, null of an empty one; else throws Problem. */
export async function call(method, path, options) {
  const answer = await ask(method, path, options);
  if (!answer.ok) throw await problemOf(answer);
  if (answer.status === 204) return null;
  return answer.json();
}

export const get = (path, params, options = {}) => call('GET', path, { params, ...options });
export const patch = (path, body) => call('PATCH', path, { body });
export const del = (path, params) => call('DELETE', path, { params });

/** `idempotent`: true, or a key of one's own, where the operation takes an Idempotency-Key. */
export function post(path, body, { idempotent = false, headers = {}, ...options } = {}) {
  const key = idempotent === true ? crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` : idempotent;
  const more = key ? { ...headers, 'Idempotency-Key': key } : headers;
  return call('POST', path, { body, headers: more, ...options });
}
