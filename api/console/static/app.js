// The shell: who looks, the menu, the view that the address names, and whether the service answers.
import { html, render, signal, useEffect, useRef, useState } from './lib/html.js';
import { can, me } from './lib/api.js';
import { identify, loginNeeded, logout, started } from './lib/auth.js';
import { connection } from './lib/live.js';
import { Link, match, menu, navigate, place, routes } from './lib/router.js';
import { ErrorBox, Loading, Overlays, notify } from './lib/ui.js';
import Login from './views/login.js';

const startError = signal(null);

async function start() {
  try {
    startError.value = null;
    await identify();
  } catch (problem) {
    startError.value = problem;
    setTimeout(start, 2000);
  }
}

const offered = () => menu.map((title) => routes.find((route) => route[2] === title)).filter((route) => can(route[3]));

function Connection() {
  const state = connection.value;
  const [shown, setShown] = useState('live');
  useEffect(() => { // a WebSocket that opens at once is not worth a word
    const timer = setTimeout(() => setShown(state), state === 'waiting' ? 2500 : 0);
    return () => clearTimeout(timer);
  }, [state]);
  const text = { away: 'The service does not answer; trying again', waiting: 'Connecting …', live: '' }[shown];
  return html`<div class="connection-place" role="status" aria-live="polite">
    ${text && html`<p class=${`connection ${shown}`}>${text}</p>`}</div>`;
}

function Navigation({ path }) {
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);
  const who = me.value;
  const leave = async () => {
    try {
      await logout();
      navigate('/console');
    } catch (problem) {
      notify(problem.message);
    }
  };
  return html`
    <header class="bar">
      <${Link} to="/console" class="brand"><span class="mark" aria-hidden="true"></span>TrackShift</${Link}>
      <button type="button" class="menu-button" aria-expanded=${open ? 'true' : 'false'} aria-controls="menu"
        onClick=${() => setOpen(!open)}>Menu</button>
      <div id="menu" class=${open ? 'menu open' : 'menu'}>
        <nav aria-label="Views">
          ${offered().map(([to, , title]) => html`
            <${Link} key=${to} to=${to} aria-current=${path === to || path.startsWith(`${to}/`) ? 'page' : undefined}>${title}</${Link}>`)}
        </nav>
        <div class="who">
          <p title=${who.scopes.join(', ')}>${who.kind === 'anonymous' ? 'Access is off' : who.subject}</p>
          ${loginNeeded.value && html`<button type="button" class="quiet" onClick=${leave}>Log out</button>`}
          <a href="/docs" class="quiet-link">API</a>
        </div>
      </div>
    </header>`;
}

/** The view of the address, fetched when it is looked at first. */
function View({ found }) {
  const [loaded, setLoaded] = useState({ pattern: null, view: null, error: null });
  useEffect(() => {
    let current = true;
    found.load().then(
      (module) => current && setLoaded({ pattern: found.pattern, view: module.default, error: null }),
      (error) => current && setLoaded({ pattern: found.pattern, view: null, error }),
    );
    return () => { current = false; };
  }, [found.pattern]);
  if (loaded.pattern !== found.pattern) return html`<${Loading} />`;
  if (loaded.error) {
    return html`<div class="page"><h1>${found.title}</h1><div class="error" role="alert">
      <p><strong>This view could not be loaded.</strong> The service may have been updated or does not answer.</p>
      <button type="button" onClick=${() => location.reload()}>Load the page again</button></div></div>`;
  }
  // Another id is another view: nothing of the one before stays.
  return html`<${loaded.view} key=${JSON.stringify(found.params)} params=${found.params} />`;
}

function Nowhere() {
  return html`<div class="page"><h1>There is no such page</h1><p><${Link} to="/console">To the beginning</${Link}></p></div>`;
}

function NotAllowed({ title }) {
  return html`<div class="page"><h1>${title}</h1><p>Your key does not include this. Ask an administrator for a key with the scope.</p></div>`;
}

function Shell() {
  const { path } = place.value;
  const main = useRef(null);
  const before = useRef(null);
  const home = offered()[0];
  const found = path === '/console' ? null : match(path);
  useEffect(() => {
    if (path === '/console' && home) navigate(home[0], { replace: true });
    if (before.current !== null && before.current !== path) {
      scrollTo(0, 0);
      main.current?.focus(); // a screen reader goes on at the new view
    }
    before.current = path === '/console' ? null : path;
  }, [path, home?.[0]]);
  let view = null;
  if (found) view = can(found.scope) ? html`<${View} found=${found} />` : html`<${NotAllowed} title=${found.title} />`;
  else if (path !== '/console') view = html`<${Nowhere} />`;
  else if (!home) view = html`<${NotAllowed} title="Nothing to show" />`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current?.focus(); }}>To the content</a>
    <${Navigation} path=${path} />
    <${Connection} />
    <main id="main" tabindex="-1" ref=${main}>${view}</main>
    <${Overlays} />`;
}

function App() {
  useEffect(() => { start(); }, []);
  if (!started.value) {
    return startError.value
      ? html`<main class="alone"><${ErrorBox} error=${startError.value} /></main>`
      : html`<main class="alone"><${Loading} what="TrackShift is loading" /></main>`;
  }
  if (me.value === null) return html`<${Login} />`;
  return html`<${Shell} />`;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
