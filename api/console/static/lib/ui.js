// What the views are made of. Every text is a child or an attribute, never markup.
import { html, signal, useCallback, useEffect, useId, useRef, useState } from './html.js';
import { can, get } from './api.js';
import { returned, subscribe } from './live.js';
import { wordsOf } from './words.js';

// -- reading ----------------------------------------------------------------------------------------------------

/** What `read(abortSignal)` gives: {data, error, loading, reload, set}. Read again when `deps` change and when the service
 * came back; what was there stays while it is read again. */
export function useLoad(read, deps = []) {
  const [state, setState] = useState({ data: null, error: null, loading: true });
  const running = useRef(null);
  const gone = useRef(false);
  const latest = useRef(read);
  latest.current = read;
  const reload = useCallback(async () => {
    if (gone.current) return; // a timer of a view that was left
    running.current?.abort();
    const own = running.current = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    try {
      const data = await latest.current(own.signal);
      if (!own.signal.aborted) setState({ data, error: null, loading: false });
    } catch (error) {
      if (!own.signal.aborted) setState((old) => ({ ...old, error, loading: false }));
    }
  }, []);
  useEffect(() => () => { gone.current = true; }, []);
  const back = returned.value;
  useEffect(() => {
    reload();
    return () => running.current?.abort();
  }, [...deps, back]);
  const set = useCallback((change) => setState((old) => ({ ...old, data: typeof change === 'function' ? change(old.data) : change })), []);
  return { ...state, reload, set };
}

/** A list by cursor: {items, error, loading, reload, more, hasMore, set}. `more` appends the next page. */
export function useList(path, params = {}, { limit = 50, pause = false } = {}) {
  const key = JSON.stringify([path, params, limit]);
  const [extra, setExtra] = useState({ key, items: [], cursor: undefined, loading: false, error: null });
  const first = useLoad((abort) => (pause ? { items: [], next_cursor: null } : get(path, { ...params, limit }, { signal: abort })), [key, pause]);
  useEffect(() => { setExtra({ key, items: [], cursor: undefined, loading: false, error: null }); }, [first.data?.next_cursor, key]);
  const own = extra.key === key ? extra : { items: [], cursor: undefined, loading: false, error: null };
  const cursor = own.cursor === undefined ? first.data?.next_cursor ?? null : own.cursor;
  const more = async () => {
    if (!cursor || own.loading) return;
    setExtra({ ...own, key, loading: true, error: null });
    try {
      const page = await get(path, { ...params, limit, cursor });
      setExtra({ key, items: [...own.items, ...page.items], cursor: page.next_cursor, loading: false, error: null });
    } catch (error) {
      setExtra({ ...own, key, loading: false, error });
    }
  };
  return {
    items: first.data ? [...first.data.items, ...own.items] : null, error: first.error ?? own.error,
    loading: first.loading || own.loading, reload: first.reload, more, hasMore: Boolean(cursor),
    set: (change) => first.set((data) => data && { ...data, items: change(data.items) }),
  };
}

/** Calls `act` every so many ms while the page is looked at, and when it is looked at again. */
export function usePoll(act, ms) {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    if (!ms) return undefined;
    const tick = () => { if (!document.hidden) latest.current(); };
    const timer = setInterval(tick, ms);
    document.addEventListener('visibilitychange', tick);
    return () => {
      clearInterval(timer);
      document.removeEventListener('visibilitychange', tick);
    };
  }, [ms]);
}

/** Events and progress while the view is there, as live.js's subscribe has them; nothing without events:read. */
export function useLive(wanted, told) {
  const latest = useRef(told);
  latest.current = told;
  useEffect(() => {
    if (!wanted || !can('events:read')) return undefined;
    return subscribe(wanted, (message) => latest.current(message));
  }, [JSON.stringify(wanted)]);
}

/** Something that a button does: {run, busy, problem, clear}. `run` gives the result, or undefined after a problem. */
export function useAction(act) {
  const [state, setState] = useState({ busy: false, problem: null });
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const run = async (...args) => {
    setState({ busy: true, problem: null });
    try {
      const result = await act(...args);
      if (alive.current) setState({ busy: false, problem: null });
      return result;
    } catch (problem) {
      if (alive.current) setState({ busy: false, problem });
      return undefined;
    }
  };
  return { run, ...state, clear: () => setState({ busy: false, problem: null }) };
}

// -- states -----------------------------------------------------------------------------------------------------

export const Loading = ({ what = 'Loading' }) => html`<p class="loading" role="status">${what} …</p>`;

export const Empty = ({ title, children }) => html`
  <div class="empty"><p class="empty-title">${title}</p>${children && html`<div class="muted">${children}</div>`}</div>`;

/** What went wrong and what to do, with the code and trace id for whoever looks it up. */
export function ErrorBox({ error, retry, title }) {
  if (!error) return null;
  const { what, todo } = wordsOf(error.code, error.detail || error.message);
  const said = error.detail || error.message;
  return html`
    <div class="error" role="alert">
      <p><strong>${title ? `${title} ` : ''}${what}</strong>${todo && html` ${todo}`}</p>
      ${said && said !== what && error.code !== 'no_answer' && html`<p>${said}</p>`}
      <p class="small">
        ${error.code && html`<code>${error.code}</code>`}
        ${error.traceId && html` trace id <code>${error.traceId}</code>`}
        ${error.retryAfter && html` try again in ${error.retryAfter} s`}
      </p>
      ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
    </div>`;
}

/** The state of a useLoad or useList: its loading, its error, or nothing. */
export function Waiting({ of, what }) {
  if (of.error && of.error.code !== 'no_answer') return html`<${ErrorBox} error=${of.error} retry=${of.reload} />`;
  const got = of.data ?? of.items ?? null;
  return got === null ? html`<${Loading} what=${what} />` : null;
}

export const Badge = ({ kind = 'plain', children, title }) => html`<span class=${`badge ${kind}`} title=${title}>${children}</span>`;

// -- layout -----------------------------------------------------------------------------------------------------

/** A view: its heading, what can be done, its body. */
export function Page({ title, hint, actions, children, wide = false }) {
  useEffect(() => { document.title = `${title} · TrackShift`; }, [title]);
  return html`
    <div class=${wide ? 'page wide' : 'page'}>
      <header class="page-head">
        <div><h1 tabindex="-1">${title}</h1>${hint && html`<p class="muted">${hint}</p>`}</div>
        ${actions && html`<div class="actions">${actions}</div>`}
      </header>
      ${children}
    </div>`;
}

export const Card = ({ title, actions, children, kind = '' }) => {
  const id = useId();
  return html`
    <section class=${`card ${kind}`} aria-labelledby=${title ? id : undefined}>
      ${(title || actions) && html`<div class="card-head">${title && html`<h2 id=${id}>${title}</h2>`}<div class="actions">${actions}</div></div>`}
      ${children}
    </section>`;
};

/** Names and values: [[name, value], …]; pairs without a value are left out. */
export const Facts = ({ items }) => html`
  <dl class="facts">
    ${items.filter((item) => item && item[1] !== null && item[1] !== undefined && item[1] !== '' && item[1] !== false)
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;

/** columns: [{name, cell(row), kind?: 'number'}]; it scrolls sideways by itself on a narrow screen. */
export function Table({ caption, columns, rows, rowKey = (row, index) => index }) {
  return html`
    <div class="table-scroll" tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="hidden">${caption}</caption>
        <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.kind}>${column.name}</th>`)}</tr></thead>
        <tbody>
          ${rows.map((row, index) => html`
            <tr key=${rowKey(row, index)}>${columns.map((column) => html`<td class=${column.kind}>${column.cell(row)}</td>`)}</tr>`)}
        </tbody>
      </table>
    </div>`;
}

export function Pager({ list, noun = 'entries' }) {
  if (!list.items?.length) return null;
  return html`
    <div class="pager">
      <span class="muted">${list.items.length} ${noun}${list.hasMore ? '' : ', all there are'}</span>
      ${list.hasMore && html`<button type="button" onClick=${list.more} disabled=${list.loading}>${list.loading ? 'Loading …' : 'Show more'}</button>`}
    </div>`;
}

// -- forms ------------------------------------------------------------------------------------------------------

/** What a Problem says about one field, by JSON pointer ("/meta/session") or the name of a form's or query's field. */
function errorFor(problem, pointer) {
  const name = pointer.replace(/^\//, '');
  const found = (problem?.errors ?? []).find((error) => error.pointer === pointer || error.pointer === `/${name}` || error.name === name);
  return found?.message ?? null;
}

/** A labelled input. type: text, password, number, select (options: [[value, text]]), checkbox, textarea, datetime-local … */
export function Field({ label, name, hint, problem, pointer = `/${name}`, type = 'text', value, onInput, options, ...rest }) {
  const id = useId();
  const error = errorFor(problem, pointer);
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ') || undefined;
  const common = { id, name, 'aria-describedby': described, 'aria-invalid': error ? 'true' : undefined, ...rest };
  const told = (event) => onInput?.(type === 'checkbox' ? event.currentTarget.checked : event.currentTarget.value);
  let input;
  if (type === 'select') {
    input = html`<select ...${common} value=${value} onChange=${told}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select>`;
  } else if (type === 'textarea') input = html`<textarea ...${common} value=${value} onInput=${told} />`;
  else if (type === 'checkbox') input = html`<input ...${common} type="checkbox" checked=${value} onChange=${told} />`;
  else input = html`<input ...${common} type=${type} value=${value} onInput=${told} />`;
  return html`
    <div class=${`field ${type}`}>
      ${type === 'checkbox' ? html`<label for=${id}>${input} ${label}</label>` : html`<label for=${id}>${label}</label>${input}`}
      ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
      ${error && html`<p class="field-error" id=${`${id}-error`}>${error}</p>`}
    </div>`;
}

// -- talking to the person ----------------------------------------------------------------------------------------

const asked = signal(null);
const said = signal('');

/** Opens the page's one dialog; true when the person says yes. */
export function confirm({ title, text, action = 'Yes', danger = false }) {
  return new Promise((answer) => { asked.value = { title, text, action, danger, answer }; });
}

/** A line at the bottom that screen readers are told of; it goes after some seconds. */
let saying = null;
export function notify(text) {
  said.value = text;
  clearTimeout(saying);
  saying = setTimeout(() => { said.value = ''; }, 6000);
}

/** For the shell: the dialog of `confirm` and the line of `notify`. */
export function Overlays() {
  const dialog = useRef(null);
  const question = asked.value;
  useEffect(() => { if (question) dialog.current?.showModal(); }, [question]);
  const close = (yes) => {
    dialog.current?.close(); // gives the focus back to what had it
    question?.answer(yes);
    asked.value = null;
  };
  return html`
    ${question && html`
      <dialog ref=${dialog} aria-labelledby="asked-title" onCancel=${() => close(false)}>
        <h2 id="asked-title">${question.title}</h2>
        ${question.text && html`<p>${question.text}</p>`}
        <div class="actions">
          <button type="button" onClick=${() => close(false)}>No, go back</button>
          <button type="button" class=${question.danger ? 'danger' : 'primary'} onClick=${() => close(true)}>${question.action}</button>
        </div>
      </dialog>`}
    <div class="toast-place" role="status" aria-live="polite">${said.value && html`<p class="toast">${said.value}</p>`}</div>`;
}
