// Pictures from disk: many at once, each with its own progress and result.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { can } from '../lib/api.js';
import { Suggestions, Thumbnail, cameraIds } from '../lib/frames.js';
import { Link, link, queried } from '../lib/router.js';
import { LARGE, sendFile } from '../lib/send.js';
import { bytes, fromLocalInput } from '../lib/time.js';
import { Badge, Card, Field, Page, useLoad } from '../lib/ui.js';
import { wordsOf } from '../lib/words.js';

const AT_ONCE = 3;
const MOST = 500; // files in the list
const PHASES = [['', 'none'], ['before', 'before'], ['after', 'after']];
const WAY = { store: 'straight to the object store', instead: 'through the service: this browser does not reach the object store' };
const WORD = { ready: 'ready', waiting: 'waiting', sending: 'sending', checking: 'being checked', stored: 'stored', refused: 'refused', stopped: 'stopped' };
const KIND = { stored: 'good', refused: 'bad', sending: 'info', checking: 'info' };

let made = 0;

/** Files of a drop, those in dropped folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...transfer.files];
  const found = [];
  const walk = async (entry) => {
    if (found.length >= MOST) return;
    if (entry.isFile) found.push(await new Promise((done, failed) => entry.file(done, failed)));
    else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (some.length === 0) return;
        for (const inner of some) await walk(inner);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return found;
}

function Item({ item, remove, again }) {
  const share = item.file.size ? item.sent / item.file.size : 0;
  const words = item.problem && wordsOf(item.problem.code, item.problem.detail || item.problem.message);
  return html`
    <li class="file">
      <div class="file-picture">${item.frame && can('frames:read') ? html`<${Thumbnail} frame=${item.frame} width=${160} />` : html`<span class="thumbnail"></span>`}</div>
      <div class="file-text">
        <p class="breaks"><strong>${item.file.name}</strong> <span class="muted small">${bytes(item.file.size)}${WAY[item.way] ? `, ${WAY[item.way]}` : ''}</span></p>
        ${['sending', 'checking'].includes(item.state) && html`<progress max="100" value=${Math.round(share * 100)} aria-label=${`${item.file.name} sent`}>${Math.round(share * 100)} %</progress>`}
        ${item.frame && html`<p>${can('frames:read') ? html`<${Link} to=${link('frames', item.frame.frame_id)}>See the frame</${Link}>, ` : ''}${item.frame.width} × ${item.frame.height}, ${item.frame.format}${item.frame.duplicate_of && can('frames:read') ? html`; <${Link} to=${link('frames', item.frame.duplicate_of)}>the camera had these bytes before</${Link}>` : ''}</p>`}
        ${words && html`<p class="no">${words.what} ${words.todo}</p><p class="small"><code>${item.problem.code}</code>${item.problem.traceId && html` trace id <code>${item.problem.traceId}</code>`}</p>`}
      </div>
      <div class="file-state"><${Badge} kind=${KIND[item.state]}>${WORD[item.state]}${item.state === 'sending' ? ` ${Math.round(share * 100)} %` : ''}</${Badge}>
        ${['refused', 'stopped'].includes(item.state) && html`<button type="button" onClick=${() => again(item)} aria-label=${`Try ${item.file.name} again`}>Again</button>`}
        ${item.state !== 'stored' && item.state !== 'checking' && html`<button type="button" class="quiet" onClick=${() => remove(item)} aria-label=${`Remove ${item.file.name}`}>${item.state === 'sending' ? 'Stop' : 'Remove'}</button>`}</div>
    </li>`;
}

export default function Upload() {
  const [cameraId, setCameraId] = useState(queried('camera_id'));
  const [meta, setMeta] = useState({ session: '', subject: '', phase: '', timestamp_ref: '' });
  const [over, setOver] = useState(false);
  const [note, setNote] = useState('');
  const items = useRef([]);
  const running = useRef(0);
  const input = useRef(null);
  const [, redraw] = useState(0);
  const cameras = useLoad(cameraIds);
  const draw = () => redraw((count) => count + 1);
  useEffect(() => () => { for (const item of items.current) item.abort?.abort(); }, []);
  const change = (name) => (value) => setMeta((old) => ({ ...old, [name]: value }));
  const add = (files) => {
    const room = MOST - items.current.length;
    setNote(files.length > room ? `At most ${MOST} files at once; ${files.length - room} were left out.` : '');
    items.current = [...items.current, ...files.slice(0, room).map((file) => {
      made += 1;
      return { id: made, key: crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random()}`, file, state: 'ready', sent: 0, way: null, frame: null, problem: null };
    })];
    draw();
  };
  const next = () => {
    while (running.current < AT_ONCE) {
      const item = items.current.find((one) => one.state === 'waiting');
      if (!item) return;
      run(item);
    }
  };
  const run = async (item) => {
    running.current += 1;
    item.abort = new AbortController();
    Object.assign(item, { state: 'sending', sent: 0, problem: null });
    draw();
    const told = (sent, way) => {
      Object.assign(item, { sent, way, state: sent >= item.file.size ? 'checking' : 'sending' });
      draw();
    };
    try {
      item.frame = await sendFile(item.file, { ...item.target, key: item.key, told, abort: item.abort.signal });
      item.state = 'stored';
    } catch (problem) {
      if (problem.name === 'AbortError') item.state = 'stopped';
      else Object.assign(item, { state: 'refused', problem });
    }
    running.current -= 1;
    draw();
    next();
  };
  const wait = (some) => {
    const given = { session: meta.session.trim(), subject: meta.subject.trim(), phase: meta.phase, timestamp_ref: fromLocalInput(meta.timestamp_ref) };
    const target = { cameraId: cameraId.trim(), meta: Object.fromEntries(Object.entries(given).filter(([, value]) => value)) };
    for (const item of some) {
      if (item.target) item.key = crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random()}`; // what is asked now may differ
      Object.assign(item, { state: 'waiting', problem: null, target });
    }
    draw();
    next();
  };
  const submit = (event) => {
    event.preventDefault();
    const ready = items.current.filter((item) => ['ready', 'stopped'].includes(item.state));
    if (ready.length === 0) {
      setNote('Choose pictures first.');
      input.current.focus();
      return;
    }
    setNote('');
    wait(ready);
  };
  const remove = (item) => {
    if (item.state === 'sending') item.abort.abort();
    else {
      items.current = items.current.filter((one) => one !== item);
      draw();
    }
  };
  const drop = async (event) => {
    event.preventDefault();
    setOver(false);
    add(await dropped(event.dataTransfer));
  };
  const count = (...states) => items.current.filter((item) => states.includes(item.state)).length;
  const ready = count('ready', 'stopped');
  const busy = count('waiting', 'sending', 'checking');
  const total = items.current.length;
  return html`
    <${Page} title="Upload" hint=${`Pictures are stored unchanged. Files from ${bytes(LARGE)} on go straight to the object store, if this browser reaches it.`}>
      <form class="stack" onSubmit=${submit}>
        <${Card}>
          <div class="form">
            <div class="form-row roomy">
              <${Field} label="Camera" name="camera_id" value=${cameraId} onInput=${setCameraId} required maxlength="100" pattern="[A-Za-z0-9._\\-]+" list="upload-cameras" autocomplete="off" hint="It need not be registered" />
              <${Suggestions} id="upload-cameras" of=${cameras.data} />
              <${Field} label="Session" name="session" value=${meta.session} onInput=${change('session')} placeholder="FP1" />
              <${Field} label="Subject" name="subject" value=${meta.subject} onInput=${change('subject')} placeholder="car-44" />
              <${Field} label="Phase" name="phase" type="select" options=${PHASES} value=${meta.phase} onInput=${change('phase')} />
              <${Field} label="Taken" name="timestamp_ref" type="datetime-local" step="1" value=${meta.timestamp_ref} onInput=${change('timestamp_ref')} hint="Empty: what the file says" />
            </div>
            <div class=${over ? 'drop over-it' : 'drop'} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${drop}>
              <p><strong>Drop pictures here</strong>, folders too, or choose them:</p>
              <input ref=${input} type="file" name="files" multiple accept="image/*,.tif,.tiff,.heic,.heif,.avif" aria-label="Pictures"
                onChange=${(event) => { add([...event.currentTarget.files]); event.currentTarget.value = ''; }} />
            </div>
            <div class="actions"><button type="submit" class="primary">${ready > 0 ? `Upload ${ready} ${ready === 1 ? 'picture' : 'pictures'}` : 'Upload'}</button>
              ${count('stored', 'refused') > 0 && busy === 0 && html`<button type="button" class="quiet" onClick=${() => { items.current = items.current.filter((item) => !['stored', 'refused'].includes(item.state)); draw(); }}>Clear the list</button>`}
              <span role="status" class="muted">${note || (total > 0 ? `${count('stored')} of ${total} stored${count('refused') ? `, ${count('refused')} refused` : ''}` : '')}</span></div>
          </div>
        </${Card}>
      </form>
      ${total > 0 && html`<ul class="files space" aria-label="Files">${items.current.map((item) => html`<${Item} key=${item.id} item=${item} remove=${remove} again=${(one) => wait([one])} />`)}</ul>`}
    </${Page}>`;
}
