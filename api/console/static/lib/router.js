// Addresses of views: the path names the view, the query its filters, so that an address can be sent to somebody.
import { html, signal } from './html.js';

/** [path, module, title, scope]. A path's `:name` becomes params.name. Order matters: the first that fits is taken. */
export const routes = [
  ['/console/cameras', () => import('../views/cameras.js'), 'Cameras', 'cameras:read'],
  ['/console/cameras/new', () => import('../views/camera_new.js'), 'Register a camera', 'cameras:write'],
  ['/console/cameras/:camera_id', () => import('../views/camera.js'), 'Camera', 'cameras:read'],
  ['/console/captures', () => import('../views/captures.js'), 'Captures', 'ingest:read'],
  ['/console/captures/new', () => import('../views/capture_new.js'), 'Start a capture', 'ingest:write'],
  ['/console/captures/:request_id', () => import('../views/capture.js'), 'Capture', 'ingest:read'],
  ['/console/frames', () => import('../views/frames.js'), 'Frames', 'frames:read'],
  ['/console/frames/:frame_id', () => import('../views/frame.js'), 'Frame', 'frames:read'],
  ['/console/pairs', () => import('../views/pairs.js'), 'Pairs', 'frames:read'],
  ['/console/pairs/:pair_id', () => import('../views/pair.js'), 'Pair', 'frames:read'],
  ['/console/upload', () => import('../views/upload.js'), 'Upload', 'ingest:write'],
  ['/console/events', () => import('../views/events.js'), 'Events', 'events:read'],
  ['/console/keys', () => import('../views/keys.js'), 'Keys', 'admin'],
  ['/console/audit', () => import('../views/audit.js'), 'Audit', 'admin'],
  ['/console/workers', () => import('../views/workers.js'), 'Workers', 'admin'],
  ['/console/health', () => import('../views/health.js'), 'Health', 'metrics:read'],
];

export const menu = ['Cameras', 'Captures', 'Frames', 'Pairs', 'Upload', 'Events', 'Keys', 'Audit', 'Workers', 'Health'];

const here = () => ({ path: location.pathname.replace(/\/+$/, '') || '/console', query: new URLSearchParams(location.search) });
export const place = signal(here());
addEventListener('popstate', () => { place.value = here(); });

export function match(path) {
  for (const [pattern, load, title, scope] of routes) {
    const params = fits(pattern, path);
    if (params) return { pattern, load, title, scope, params };
  }
  return null;
}

function fits(pattern, path) {
  const want = pattern.split('/');
  const got = path.split('/');
  if (want.length !== got.length) return null;
  const params = {};
  for (const [index, part] of want.entries()) {
    if (part.startsWith(':')) {
      try {
        params[part.slice(1)] = decodeURIComponent(got[index]);
      } catch {
        return null;
      }
    } else if (part !== got[index]) return null;
  }
  return params;
}

export function navigate(to, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  place.value = here();
}

/** A query parameter of the address, '' when absent. Read in a component, it is drawn again when that changes. */
export const queried = (name) => place.value.query.get(name) ?? '';

/** Changes query parameters: {camera_id: 'a', from: null}. Null and '' remove one. */
export function setQuery(changes, { replace = true } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === '') query.delete(name);
    else query.set(name, value);
  }
  navigate(query.size ? `${location.pathname}?${query}` : location.pathname, { replace });
}

export const link = (...parts) => `/console/${parts.map(encodeURIComponent).join('/')}`;

/** An <a> that changes the view without loading the page; with a modifier key it is an ordinary one. */
export function Link({ to, children, ...rest }) {
  const go = (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    navigate(to);
  };
  return html`<a href=${to} onClick=${go} ...${rest}>${children}</a>`;
}
