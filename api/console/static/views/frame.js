// One frame: the picture, where it comes from, what is known of it, and what can be done with it.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { can, del, get, post } from '../lib/api.js';
import { Verdict, contentUrl, frameTitle, pictureUrl, provenance } from '../lib/frames.js';
import { Link, link, navigate } from '../lib/router.js';
import { Stage, ZoomButtons, useZoom } from '../lib/stage.js';
import { Age, bytes, duration, number } from '../lib/time.js';
import { Card, ErrorBox, Facts, Field, Page, Waiting, confirm, notify, useAction, useLoad } from '../lib/ui.js';

/** The camera's frames right before and after this one. */
async function neighbours(frame, abort) {
  const near = { camera_id: frame.camera_id };
  const [earlier, since] = await Promise.all([
    get('/frames', { ...near, to: frame.timestamp, order: 'desc', limit: 1 }, { signal: abort }),
    get('/frames', { ...near, from: frame.timestamp, order: 'asc', limit: 50 }, { signal: abort }),
  ]);
  const own = since.items.findIndex((item) => item.frame_id === frame.frame_id); // others may be of the same moment
  return { previous: since.items[own - 1] ?? earlier.items[0] ?? null, next: own < 0 ? null : since.items[own + 1] ?? null };
}

function Verified({ frame }) {
  const verifying = useAction(async () => ({ ...await post(`/frames/${frame.frame_id}/verify`), at: new Date().toISOString() }));
  const [found, setFound] = useState(null);
  const run = async () => {
    const result = await verifying.run();
    if (result) setFound(result);
  };
  return html`
    <div class="verified">
      <p>SHA-256 <code>${frame.sha256}</code></p>
      <p role="status">${found && (found.ok
    ? html`<strong class="yes">Verified <${Age} at=${found.at} />:</strong> all ${bytes(found.size_bytes)} were read from the store and are those that were stored.`
    : html`<strong class="no">Not the same:</strong> ${found.sha256 === null ? 'the object is missing in the store.' : html`the store has ${bytes(found.size_bytes)} with <code>${found.sha256}</code>.`} Tell the administrator.`)}</p>
      <${ErrorBox} error=${verifying.problem} />
      <button type="button" onClick=${run} disabled=${verifying.busy}>${verifying.busy ? 'Reading the bytes …' : 'Verify now'}</button>
    </div>`;
}

function shownValue(value) {
  if (value === null || value === undefined || value === '') return null;
  if (typeof value === 'object') return html`<code>${JSON.stringify(value)}</code>`;
  return String(value);
}

const listed = (object) => Object.entries(object ?? {}).map(([name, value]) => [name.replaceAll('_', ' '), shownValue(value)]).filter(([, value]) => value !== null);

function Hold({ frame, set }) {
  const [reason, setReason] = useState('');
  const holding = useAction(async (event) => {
    event.preventDefault();
    set(await post(`/frames/${frame.frame_id}/hold`, { reason: reason.trim() || null }));
    notify('The frame is on hold.');
  });
  const releasing = useAction(async () => {
    await del(`/frames/${frame.frame_id}/hold`);
    set((old) => ({ ...old, held_at: null, hold_reason: null }));
    notify('The frame is released.');
  });
  if (frame.held_at) {
    return html`<${ErrorBox} error=${releasing.problem} /><p>Held since <${Age} at=${frame.held_at} />${frame.hold_reason ? html`: <span class="breaks">${frame.hold_reason}</span>` : ''}.</p>
      <button type="button" class="space" onClick=${releasing.run} disabled=${releasing.busy}>Release</button>`;
  }
  return html`
    <${ErrorBox} error=${holding.problem} />
    <form class="form" onSubmit=${holding.run}>
      <${Field} label="Reason" name="reason" value=${reason} onInput=${setReason} problem=${holding.problem} maxlength="200" placeholder="protest of car 44" hint="On hold, nobody can delete it: neither retention nor a person." />
      <div><button type="submit" disabled=${holding.busy}>Put on hold</button></div>
    </form>`;
}

function Actions({ frame, gone }) {
  const deleting = useAction(async () => {
    if (!await confirm({ title: 'Delete this frame?', text: 'The picture and its row are removed for good.', action: 'Delete', danger: true })) return;
    try {
      await del(`/frames/${frame.frame_id}`);
    } catch (problem) {
      if (problem.code !== 'frame_in_pair') throw problem;
      if (!await confirm({ title: 'It belongs to a pair', text: 'A frame in a pair is kept. You can delete it together with its pairs; the other frames of the pairs stay.', action: 'Delete with its pairs', danger: true })) return;
      await del(`/frames/${frame.frame_id}`, { force: true });
    }
    notify('The frame is deleted.');
    gone();
  });
  return html`
    <a class="button" href=${contentUrl(frame)} download=${frame.filename ?? `${frame.camera_id}-${frame.timestamp.replaceAll(':', '')}.${frame.format}`}>Download</a>
    ${can('ingest:write') && html`<${Link} class="button" to=${`/console/frames?camera_id=${encodeURIComponent(frame.camera_id)}&pair=${frame.frame_id}`}>Pair with …</${Link}>`}
    ${can('frames:delete') && html`<button type="button" class="danger" onClick=${deleting.run} disabled=${deleting.busy || frame.held_at !== null} title=${frame.held_at ? 'On hold: release it first' : undefined}>Delete</button>`}
    <${ErrorBox} error=${deleting.problem} />`;
}

export default function Frame({ params }) {
  const frame = useLoad((abort) => get(`/frames/${params.frame_id}`, null, { signal: abort }));
  const found = frame.data;
  const near = useLoad((abort) => (found ? neighbours(found, abort) : null), [found?.frame_id]);
  const zoom = useZoom();
  const list = found ? `/console/frames?camera_id=${encodeURIComponent(found.camera_id)}` : '/console/frames';
  const { previous = null, next = null } = near.data ?? {};
  const places = useRef({});
  places.current = { ArrowLeft: previous && link('frames', previous.frame_id), ArrowRight: next && link('frames', next.frame_id), Escape: list };
  const scale = useRef(1);
  scale.current = zoom.scale;
  useEffect(() => {
    const key = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.('input, select, textarea, dialog, summary, pre')) return;
      if (event.key !== 'Escape' && scale.current > 1) return; // there arrows move the picture
      const to = places.current[event.key];
      if (to) navigate(to);
    };
    addEventListener('keydown', key);
    return () => removeEventListener('keydown', key);
  }, []);
  const [failed, setFailed] = useState(false);
  if (!found) return html`<${Page} title="Frame"><${Waiting} of=${frame} what="Reading the frame" /></${Page}>`;
  const step = (to, text, symbol) => (to ? html`<${Link} class="button" to=${link('frames', to.frame_id)} title=${frameTitle(to)}>${symbol === '←' ? `← ${text}` : `${text} →`}</${Link}>`
    : html`<span class="button off" aria-disabled="true">${symbol === '←' ? `← ${text}` : `${text} →`}</span>`);
  const exif = listed(found.exif);
  const meta = listed(found.meta);
  const { quality } = found;
  return html`
    <${Page} title=${frameTitle(found)} wide actions=${html`<${Actions} frame=${found} gone=${() => navigate(list)} />`}>
      <div class="columns wide-left frame-page">
        <div class="stack">
          <div class="viewer">
            <${Stage} zoom=${zoom} label="The picture" shape=${found.width / found.height}>
              ${failed ? html`<p class="stage-none">This picture cannot be shown. Its bytes can be downloaded.</p>`
    : html`<img src=${pictureUrl(found)} alt=${`Frame of ${frameTitle(found)}`} width=${found.width} height=${found.height} draggable=${false} onError=${() => setFailed(true)} />`}
            </${Stage}>
            <div class="viewer-bar"><${ZoomButtons} zoom=${zoom} />
              <nav class="actions" aria-label="Neighbours">${step(previous, 'Earlier', '←')}${step(next, 'Later', '→')}</nav></div>
          </div>
          <p class="muted small">Keys: ← earlier, → later, Esc to the list; on the picture + and − zoom, 0 fits.</p>
          <div class="pair-of-cards">
            ${quality && html`<${Card} title="Quality" actions=${html`<${Verdict} quality=${quality} />`}>
              <${Facts} items=${[
      ['Sharpness', number(quality.sharpness, 1)],
      ['Brightness', `${number(quality.brightness)} of 255`],
      ['Contrast', number(quality.contrast, 1)],
      ['Dark', `${number(quality.dark_share * 100, 1)} %`],
      ['Bright', `${number(quality.bright_share * 100, 1)} %`],
      ['Frozen for', quality.frozen_s ? duration(quality.frozen_s) : null],
    ]} /><p class="muted small">Judged against this camera’s own recent frames.</p></${Card}>`}
            ${meta.length > 0 && html`<${Card} title="Given with it"><${Facts} items=${meta} /></${Card}>`}
            ${exif.length > 0 && html`<${Card} title="EXIF"><${Facts} items=${exif} /></${Card}>`}
          </div>
        </div>
        <div class="stack">
          <${Card} title="Where it comes from">
            <ul class="sentences">${provenance(found).map((sentence, index) => html`<li key=${index}>${sentence}</li>`)}</ul>
            <${Verified} frame=${found} />
          </${Card}>
          <${Card} title="Picture">
            <${Facts} items=${[
    ['Size', `${found.width} × ${found.height}, ${found.format}, ${bytes(found.size_bytes)}`],
    ['Camera', can('cameras:read') ? html`<${Link} to=${link('cameras', found.camera_id)}>${found.camera_id}</${Link}>` : found.camera_id],
    ['File', found.filename],
    ['Object', html`<code>${found.storage_path}</code>`],
    ['Frame', html`<code>${found.frame_id}</code>`],
  ]} />
          </${Card}>
          ${can('frames:delete') && html`<${Card} title="Hold"><${Hold} frame=${found} set=${frame.set} /></${Card}>`}
        </div>
      </div>
    </${Page}>`;
}
