// Pairs, newest first, and making many of two sessions.
import { html, useState } from '../lib/html.js';
import { can, post } from '../lib/api.js';
import { Suggestions, Thumbnail, cameraIds } from '../lib/frames.js';
import { AlignmentBadge } from '../lib/pairs.js';
import { Link, link, queried, setQuery } from '../lib/router.js';
import { Time, duration, fromLocalInput } from '../lib/time.js';
import { Card, Empty, ErrorBox, Field, Page, Pager, Waiting, useAction, useList, useLive, useLoad } from '../lib/ui.js';

const NAMES = ['label', 'subject', 'session', 'camera_id'];
const PHASES = [['', 'any'], ['before', 'before'], ['after', 'after']];
const BY = [['camera_id', 'camera'], ['camera_angle', 'camera angle']];
const CHOOSE = [['nearest', 'the two that are closest in time'], ['sharpest', 'the sharpest around these']];
const UNMATCHED = {
  no_frame: 'has no frame on this side', same_frame: 'has the same frame on both sides', no_camera_angle: 'frames without a camera angle',
};
const BLANK = { session: '', subject: '', phase: '', from: '', to: '', cameras: '' };

const side = ({ session, subject, phase, from, to, cameras }) => {
  const ids = cameras.split(/[\s,]+/).filter(Boolean);
  const all = { session: session.trim(), subject: subject.trim(), phase, from: fromLocalInput(from), to: fromLocalInput(to), camera_ids: ids.length > 0 ? ids : null };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value));
};

function Side({ name, title, value, change, problem }) {
  const field = (part) => ({ name: `${name}_${part}`, pointer: `/${name}/${part}`, value: value[part], problem, onInput: (text) => change({ ...value, [part]: text }) });
  return html`
    <fieldset class="side"><legend>${title}</legend>
      <div class="form-row">
        <${Field} label="Session" placeholder="FP1" ...${field('session')} />
        <${Field} label="Subject" placeholder="car-44" ...${field('subject')} />
        <${Field} label="Phase" type="select" options=${PHASES} ...${field('phase')} />
      </div>
      <details><summary>Times and cameras</summary><div class="form-row">
        <${Field} label="From" type="datetime-local" step="1" ...${field('from')} />
        <${Field} label="To" type="datetime-local" step="1" ...${field('to')} />
        <${Field} label="Cameras" placeholder="all" hint="Ids, with commas between" ...${field('cameras')} pointer=${`/${name}/camera_ids`} />
      </div></details>
    </fieldset>`;
}

function Match({ done }) {
  const [before, setBefore] = useState({ ...BLANK, phase: 'before' });
  const [after, setAfter] = useState({ ...BLANK, phase: 'after' });
  const [by, setBy] = useState('camera_id');
  const [chosen, setChosen] = useState('nearest');
  const [label, setLabel] = useState('');
  const [found, setFound] = useState(null);
  const matching = useAction(async () => {
    const body = { before: side(before), after: side(after), by, choose: chosen, ...(label.trim() ? { label: label.trim() } : {}) };
    setFound(await post('/pairs/match', body, { idempotent: true }));
    done();
  });
  return html`
    <${Card} title="Match two sessions">
      <p class="muted">For each camera, or each angle, that has frames on both sides, one pair of frames.</p>
      <form class="form space" onSubmit=${(event) => { event.preventDefault(); matching.run(); }}>
        <${ErrorBox} error=${matching.problem} />
        <div class="columns">
          <${Side} name="before" title="Before" value=${before} change=${setBefore} problem=${matching.problem} />
          <${Side} name="after" title="After" value=${after} change=${setAfter} problem=${matching.problem} />
        </div>
        <div class="form-row">
          <${Field} label="One pair for each" name="by" type="select" options=${BY} value=${by} onInput=${setBy} />
          <${Field} label="Of" name="choose" type="select" options=${CHOOSE} value=${chosen} onInput=${setChosen} problem=${matching.problem} />
          <${Field} label="Label" name="label" value=${label} onInput=${setLabel} problem=${matching.problem} maxlength="200" placeholder="car-44 FP1" />
        </div>
        <div><button type="submit" class="primary" disabled=${matching.busy}>${matching.busy ? 'Matching …' : 'Match'}</button></div>
      </form>
      <div role="status">${found && html`
        <div class=${`notice ${found.items.length > 0 ? 'good' : ''}`}>
          <p><strong>${found.items.length === 0 ? 'No pair was made.' : `${found.items.length} ${found.items.length === 1 ? 'pair' : 'pairs'}.`}</strong> ${found.items.length > 0 && 'They are compared in the background.'}</p>
          ${found.items.length === 0 && found.unmatched.length === 0 && html`<p>No frame fits either side.</p>`}
          ${found.unmatched.length > 0 && html`<details open=${found.unmatched.length < 10}><summary>${found.unmatched.length} without the other side</summary>
            <ul class="plain">${found.unmatched.map((one, index) => html`<li key=${index}><span class="breaks">${one.key ?? ''}</span> ${UNMATCHED[one.code] ?? one.code} (${one.side})</li>`)}</ul></details>`}
        </div>`}</div>
    </${Card}>`;
}

function Tile({ pair }) {
  const name = pair.label ?? pair.subject ?? pair.before.camera_id;
  return html`
    <li class="tile pair-tile">
      <${Link} class="tile-link" to=${link('pairs', pair.pair_id)}>
        <span class="two"><${Thumbnail} frame=${pair.before} /><${Thumbnail} frame=${pair.after} /></span>
        <h2>${name}</h2>
      </${Link}>
      <p class="tile-facts"><${AlignmentBadge} pair=${pair} />
        <span class="small muted">${pair.before.camera_id === pair.after.camera_id ? pair.before.camera_id : `${pair.before.camera_id} and ${pair.after.camera_id}`}, ${duration(pair.seconds_apart)} apart</span></p>
      <p class="tile-facts small muted">before <${Time} at=${pair.before.timestamp} /></p>
    </li>`;
}

export default function Pairs() {
  const filter = Object.fromEntries(NAMES.map((name) => [name, queried(name)]).filter(([, value]) => value));
  const list = useList('/pairs', filter, { limit: 48 });
  const cameras = useLoad(cameraIds);
  const [open, setOpen] = useState(false);
  useLive({ types: ['pair.created', 'pair.aligned'] }, (message) => { if (message.op !== 'progress') list.reload(); });
  const typed = (name) => ({ name, type: 'search', value: queried(name), onChange: (event) => setQuery({ [name]: event.currentTarget.value.trim() }) });
  const makes = can('ingest:write');
  const narrowed = Object.keys(filter).length > 0;
  return html`
    <${Page} title="Pairs" wide hint="Before and after: how two frames lie on each other, and what changed."
      actions=${makes && html`<button type="button" class=${open ? '' : 'primary'} aria-expanded=${open ? 'true' : 'false'} onClick=${() => setOpen(!open)}>${open ? 'Close the form' : 'Match two sessions'}</button>`}>
      ${makes && open && html`<div class="below"><${Match} done=${list.reload} /></div>`}
      <div class="toolbar">
        <${Field} label="Label" ...${typed('label')} />
        <${Field} label="Subject" placeholder="car-44" ...${typed('subject')} />
        <${Field} label="Session" placeholder="FP1" ...${typed('session')} />
        <${Field} label="Camera" placeholder="id" list="pair-cameras" ...${typed('camera_id')} />
        <${Suggestions} id="pair-cameras" of=${cameras.data} />
      </div>
      <${Waiting} of=${list} what="Reading the pairs" />
      ${list.items && (list.items.length === 0
    ? html`<${Empty} title=${narrowed ? 'No pair fits' : 'No pairs yet'}>${narrowed
      ? html`<button type="button" onClick=${() => setQuery(Object.fromEntries(NAMES.map((name) => [name, null])))}>Show all</button>`
      : makes ? 'Match two sessions, or look at a frame and choose “Pair with …”.' : 'None was made, or your key does not include both cameras.'}</${Empty}>`
    : html`<ul class="wall">${list.items.map((pair) => html`<${Tile} key=${pair.pair_id} pair=${pair} />`)}</ul><${Pager} list=${list} noun=${list.items.length === 1 ? 'pair' : 'pairs'} />`)}
    </${Page}>`;
}
