// One file to the service: through it by a form, or, when it is large, straight to the object store by an upload session.
import { Problem, get, me, post, problemOf, sessionEnded, url } from './api.js';

export const LARGE = 8_000_000; // bytes; from here on a file goes to the store directly, in parts that may be sent again
const TRIES = 4;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** XMLHttpRequest, since fetch tells nothing of what has been sent. Resolves to a Response; throws Problem `no_answer`. */
function send(method, to, body, { headers = {}, told, abort, credentials = false }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, to);
    request.withCredentials = credentials;
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => told(event.loaded);
    const stop = () => request.abort();
    abort.addEventListener('abort', stop);
    request.onloadend = () => {
      abort.removeEventListener('abort', stop);
      if (abort.aborted) reject(new DOMException('Stopped', 'AbortError'));
      else if (request.status === 0) reject(new Problem({ code: 'no_answer', detail: 'The connection broke off, or nothing answers.' }));
      else {
        const found = new Headers();
        for (const name of credentials ? ['Retry-After', 'X-Request-ID'] : []) found.set(name, request.getResponseHeader(name) ?? '');
        resolve(new Response([204, 304].includes(request.status) ? null : request.responseText, { status: request.status, headers: found }));
      }
    };
    request.send(body);
  });
}

async function byForm(file, { cameraId, meta, key, told, abort }) {
  const form = new FormData();
  form.append('camera_id', cameraId);
  form.append('meta', JSON.stringify(meta));
  form.append('files', file, file.name);
  const headers = { Accept: 'application/json', 'Idempotency-Key': key };
  if (me.value?.csrf_token) headers['X-CSRF-Token'] = me.value.csrf_token;
  const answer = await send('POST', url('/ingest/upload'), form, { headers, told: (sent) => told(Math.min(sent, file.size)), abort, credentials: true });
  if (answer.status === 401) sessionEnded();
  if (!answer.ok) throw await problemOf(answer);
  return (await answer.json()).frames[0];
}

/** What the session still wants: [{offset, size, url}]. */
const wanted = (session) => (session.upload_url ? [{ offset: 0, size: session.size_bytes, url: session.upload_url }] : (session.parts ?? []).filter((part) => part.url));

async function bySession(file, { cameraId, meta, key, told, abort }) {
  let session = await post('/ingest/upload/sessions', { camera_id: cameraId, filename: file.name, size_bytes: file.size, meta }, { idempotent: key, signal: abort });
  for (let tries = 0; ; tries += 1) {
    if (tries > 0 || (!session.upload_url && !session.parts)) session = await get(`/ingest/upload/sessions/${session.session_id}`, null, { signal: abort });
    let done = session.received_bytes;
    try {
      for (const part of wanted(session)) {
        const answer = await send('PUT', part.url, file.slice(part.offset, part.offset + part.size), { told: (sent) => told(done + sent), abort });
        if (!answer.ok) throw new Problem({ code: 'no_answer', status: answer.status, detail: `The object store answered ${answer.status}.` });
        done += part.size;
      }
      const request = await post(`/ingest/upload/sessions/${session.session_id}/complete`, undefined, { signal: abort });
      return request.frames[0];
    } catch (problem) {
      const again = problem.code === 'no_answer' || problem.code === 'upload_incomplete' || problem.status >= 500;
      if (!again) throw problem;
      if (problem.code === 'no_answer' && problem.status === 0 && done === 0) throw new Unreachable();
      if (tries + 1 >= TRIES) throw problem;
      await pause(500 * 2 ** tries);
    }
  }
}

class Unreachable extends Error {}

/** The stored frame. `told(bytes, way)`: way is 'form', 'store' or 'instead' (the store cannot be reached from here).
 * Throws Problem, or AbortError when it was stopped. */
export async function sendFile(file, { cameraId, meta, key, told, abort }) {
  const common = { cameraId, meta, key, abort };
  if (file.size >= LARGE) {
    try {
      return await bySession(file, { ...common, told: (sent) => told(sent, 'store') });
    } catch (problem) {
      if (!(problem instanceof Unreachable)) throw problem;
    }
  }
  const way = file.size >= LARGE ? 'instead' : 'form';
  for (let tries = 0; ; tries += 1) {
    told(0, way);
    try {
      return await byForm(file, { ...common, key: `${key}-form`, told: (sent) => told(sent, way) });
    } catch (problem) { // the same key: what was stored already is not stored again
      const again = [429, 503].includes(problem.status) || problem.code === 'no_answer' || problem.code === 'request_in_progress';
      if (!again || tries + 1 >= TRIES) throw problem;
      await pause(Math.min(10_000, problem.retryAfter ? problem.retryAfter * 1000 : 500 * 2 ** tries));
    }
  }
}
