// One camera: live, its stream's facts, what was lost in a day, its captures and newest frames, and all that can be done with it.
import { html, useRef, useState } from '../lib/html.js';
import { can, del, get, patch, post } from '../lib/api.js';
import { Findings, GapStrip, Picture, QualityBadge, StateBadge, StreamTrouble, clockText, gapsOf, noPicture, useLatest } from '../lib/cameras.js';
import { RequestList } from '../lib/captures.js';
import { Link, link, navigate } from '../lib/router.js';
import { Age, Time, bytes, duration, number } from '../lib/time.js';
import { Card, Empty, ErrorBox, Facts, Field, Page, Waiting, confirm, notify, useAction, useList, useLive, useLoad, usePoll } from '../lib/ui.js';
import { TRANSPORTS } from './camera_new.js';

const STATUS_EVERY = 3000; // ms
const GAPS_EVERY = 60000;
const FRAMES_PAUSE = 2000;
const RATES = [['1', 'once a second'], ['2', 'twice a second'], ['5', '5 times a second'], ['0', 'stopped']];
const DEFAULT_RATE = '2';

function Live({ camera }) {
  const [rate, setRate] = useState(DEFAULT_RATE);
  const latest = useLatest(camera.camera_id, can('frames:read') && (camera.stream?.state === 'live' || camera.seen));
  const open = camera.stream?.state === 'live';
  usePoll(latest.refresh, rate === '0' || !can('frames:read') || !(open || camera.seen) ? 0 : 1000 / Number(rate) * (open ? 1 : 4));
  const missing = latest.problem?.code === 'frame_not_found';
  return html`
    <section class="live" aria-label="Live view">
      <${Picture} src=${latest.src} alt=${`Newest picture of ${camera.name || camera.camera_id}`} none=${noPicture()} />
      <div class="live-bar">
        <p class="small muted">${latest.at ? html`Taken <${Age} at=${latest.at} />${latest.source === 'frame' ? ', the newest stored frame' : ''}` : ''}</p>
        <${Field} label="Refresh" name="rate" type="select" value=${rate} options=${RATES} onInput=${setRate} />
      </div>
      ${latest.problem && !missing && latest.problem.code !== 'no_answer' && html`<${ErrorBox} error=${latest.problem} retry=${latest.refresh} />`}
    </section>`;
}

function Stream({ camera }) {
  const { stream } = camera;
  return html`
    <${Card} title="Stream" actions=${html`<${StateBadge} camera=${camera} />`}>
      ${!stream ? html`<p class="muted">No connection is open: nothing captures, and the stream is not kept open.</p>` : html`
        <${Facts} items=${[
    ['Since', html`<${Time} at=${stream.since} />`],
    ['Picture', stream.width && `${stream.width} × ${stream.height}, ${stream.codec}`],
    ['Rate', stream.fps && `${number(stream.fps, 2)} pictures a second`],
    ['Last packet', stream.last_packet_at && html`<${Age} at=${stream.last_packet_at} />`],
    ['Ring', stream.ring_seconds ? `the last ${duration(stream.ring_seconds)}, ${bytes(stream.ring_bytes)}` : 'empty'],
    ['Clock', clockText(stream.clock)],
    ['Captures', number(stream.jobs)],
    ['Reconnects', number(stream.reconnects)],
  ]} />`}
    </${Card}>`;
}

function Settings({ camera, reload }) {
  return html`
    <${Card} title="Settings">
      <${Facts} items=${[
    ['Id', html`<code>${camera.camera_id}</code>`],
    ['Address', html`<code>${camera.rtsp_url}</code>`],
    ['Transport', camera.transport.toUpperCase()],
    ['Location', camera.location],
    ['Angle', camera.camera_angle],
    ['Site', camera.site],
    ['Frames a second', camera.default_fps && number(camera.default_fps, 3)],
    ['Kept open', camera.keep_open ? 'yes' : 'no'],
    ['Frames kept', camera.retention_days ? `${number(camera.retention_days, 1)} days` : 'as the service’s policy says'],
    ['Reader', camera.reader],
    ['Registered', html`<${Time} at=${camera.created_at} />`],
    ['Description', camera.description],
  ]} />
    </${Card}>`;
}

function Edit({ camera, done }) {
  const [form, setForm] = useState({
    name: camera.name ?? '', description: camera.description ?? '', rtsp_url: camera.rtsp_url, transport: camera.transport, location: camera.location ?? '',
    camera_angle: camera.camera_angle ?? '', default_fps: camera.default_fps ?? '', keep_open: camera.keep_open, site: camera.site,
    retention_days: camera.retention_days ?? '', exif_timezone: camera.exif_timezone ?? '',
  });
  const change = (name) => (value) => setForm((old) => ({ ...old, [name]: value }));
  const saving = useAction(() => {
    const body = {};
    for (const [name, value] of Object.entries(form)) {
      const text = typeof value === 'string' ? value.trim() : value;
      const wanted = text === '' ? null : ['default_fps', 'retention_days'].includes(name) ? Number(text) : text;
      if (wanted !== (camera[name] ?? null)) body[name] = wanted;
    }
    return Object.keys(body).length ? patch(`/cameras/${encodeURIComponent(camera.camera_id)}`, body) : camera;
  });
  const submit = async (event) => {
    event.preventDefault();
    const changed = await saving.run();
    if (!changed) return;
    notify('Saved.');
    done(true);
  };
  const { problem } = saving;
  return html`
    <form class="card form" onSubmit=${submit} autocomplete="off" aria-label="Change the camera">
      <div class="form-row">
        <${Field} label="Name" name="name" value=${form.name} onInput=${change('name')} maxlength="200" problem=${problem} />
        <${Field} label="Location" name="location" value=${form.location} onInput=${change('location')} maxlength="200" problem=${problem} />
        <${Field} label="Angle" name="camera_angle" value=${form.camera_angle} onInput=${change('camera_angle')} maxlength="200" problem=${problem} />
      </div>
      <${Field} label="RTSP URL" name="rtsp_url" value=${form.rtsp_url} onInput=${change('rtsp_url')} required maxlength="2048" problem=${problem} spellcheck="false"
        hint="Shown without login and query. Left as it is, both stay; write another URL with its login to replace them." />
      <div class="form-row">
        <${Field} label="Transport" name="transport" type="select" value=${form.transport} onInput=${change('transport')} options=${TRANSPORTS} problem=${problem} />
        <${Field} label="Frames a second" name="default_fps" type="number" min="0.001" max="30" step="any" value=${form.default_fps} onInput=${change('default_fps')} problem=${problem} hint="Empty: the service's." />
        <${Field} label="Time zone of its clock" name="exif_timezone" value=${form.exif_timezone} onInput=${change('exif_timezone')} problem=${problem} placeholder="Europe/Rome" hint="For uploaded pictures whose EXIF has none." />
      </div>
      <${Field} label="Description" name="description" type="textarea" rows="3" value=${form.description} onInput=${change('description')} maxlength="4000" problem=${problem} />
      ${can('admin') && html`
        <div class="form-row">
          <${Field} label="Site" name="site" value=${form.site} onInput=${change('site')} problem=${problem} />
          <${Field} label="Days that frames are kept" name="retention_days" type="number" min="0.001" step="any" value=${form.retention_days} onInput=${change('retention_days')} problem=${problem} hint="Empty: the service's policy." />
        </div>
        <${Field} label="Keep its stream open" name="keep_open" type="checkbox" value=${form.keep_open} onInput=${change('keep_open')} problem=${problem} />`}
      <${ErrorBox} error=${problem} />
      <div class="actions">
        <button type="submit" class="primary" disabled=${saving.busy}>${saving.busy ? 'Saving …' : 'Save'}</button>
        <button type="button" onClick=${() => done(false)}>Leave as it was</button>
      </div>
    </form>`;
}

function Newest({ cameraId }) {
  const frames = useList('/frames', { camera_id: cameraId, order: 'desc' }, { limit: 8 });
  const wait = useRef(null);
  useLive({ types: ['frame.stored'], camera_ids: [cameraId] }, () => {
    if (wait.current !== null || document.hidden) return;
    wait.current = setTimeout(() => { wait.current = null; frames.reload(); }, FRAMES_PAUSE);
  });
  return html`
    <${Card} title="Newest frames" actions=${html`<${Link} to=${`/console/frames?camera_id=${encodeURIComponent(cameraId)}`}>All frames</${Link}>`}>
      <${Waiting} of=${frames} what="Reading the frames" />
      ${frames.items?.length === 0 && html`<p class="muted">None is stored yet.</p>`}
      <ul class="thumbs">${(frames.items ?? []).map((frame) => html`
        <li key=${frame.frame_id}><${Link} to=${link('frames', frame.frame_id)}>
          <img src=${`/api/v1/frames/${frame.frame_id}/thumbnail?width=320`} alt=${`Frame of ${frame.timestamp}`} width="320" height="180" loading="lazy" />
          <span class="small"><${Time} at=${frame.timestamp} /></span></${Link}><${QualityBadge} quality=${frame.quality} /></li>`)}</ul>
    </${Card}>`;
}

export default function Camera({ params: { camera_id: cameraId } }) {
  const path = `/cameras/${encodeURIComponent(cameraId)}`;
  const [editing, setEditing] = useState(false);
  const [probed, setProbed] = useState(null);
  const found = useLoad((abort) => get(path, null, { signal: abort }), [cameraId]);
  const seen = useLoad(async (abort) => can('frames:read') && (await get('/frames', { camera_id: cameraId, limit: 1 }, { signal: abort })).items.length > 0, [cameraId]);
  const gaps = useLoad((abort) => gapsOf(cameraId, 86400, abort), [cameraId]);
  usePoll(found.reload, editing ? 0 : STATUS_EVERY);
  usePoll(gaps.reload, GAPS_EVERY);
  useLive({ types: ['camera.gap_opened', 'camera.gap_closed'], camera_ids: [cameraId] }, gaps.reload);

  const snapshot = useAction(() => post(`${path}/snapshot`, {}, { idempotent: true }));
  const probing = useAction(() => post(`${path}/probe`));
  const changing = useAction(() => patch(path, { enabled: !found.data.enabled }));
  const deleting = useAction(() => del(path));
  const [taken, setTaken] = useState(null);

  const takeSnapshot = async () => {
    const frame = await snapshot.run();
    if (!frame) return;
    setTaken(frame);
    seen.set(true);
  };
  const probe = async () => {
    setProbed(null);
    setProbed(await probing.run() ?? null);
  };
  const remove = async () => {
    const yes = await confirm({ title: `Delete ${cameraId}?`, text: 'The camera is no longer registered. Its frames stay.', action: 'Delete', danger: true });
    if (!yes || (await deleting.run()) === undefined) return;
    notify(`${cameraId} is deleted; its frames stay.`);
    navigate('/console/cameras');
  };
  const toggle = async () => { if (await changing.run()) found.reload(); };

  if (!found.data) return html`<${Page} title=${cameraId}><${Waiting} of=${found} what="Reading the camera" /></${Page}>`;
  const camera = { ...found.data, seen: seen.data };
  const actions = html`
    ${can('ingest:write') && html`<button type="button" class="primary" onClick=${takeSnapshot} disabled=${snapshot.busy || !camera.enabled}>${snapshot.busy ? 'Taking it …' : 'Take a snapshot'}</button>
      ${camera.enabled && html`<${Link} class="button" to=${`/console/captures/new?camera_id=${encodeURIComponent(cameraId)}`}>Start a capture</${Link}>`}`}
    ${can('cameras:write') && html`
      <button type="button" onClick=${probe} disabled=${probing.busy}>${probing.busy ? 'Trying …' : 'Try the camera'}</button>
      <button type="button" onClick=${() => setEditing(!editing)} aria-expanded=${editing ? 'true' : 'false'}>Edit</button>
      <button type="button" onClick=${toggle} disabled=${changing.busy}>${camera.enabled ? 'Disable' : 'Enable'}</button>
      <button type="button" class="danger" onClick=${remove} disabled=${deleting.busy}>Delete</button>`}`;
  return html`
    <${Page} title=${camera.name || camera.camera_id} hint=${[camera.name && camera.camera_id, camera.location].filter(Boolean).join(' · ')} actions=${actions} wide>
      ${[snapshot, probing, changing, deleting].map((action, index) => html`<${ErrorBox} key=${index} error=${action.problem} />`)}
      ${!camera.enabled && html`<p class="notice">The camera is disabled: captures and snapshots are refused; those that run go on.</p>`}
      <${StreamTrouble} stream=${camera.stream} />
      ${taken && html`<p class="notice good" role="status">Stored: <${Link} to=${link('frames', taken.frame_id)}>the frame of <${Time} at=${taken.timestamp} ms /></${Link}>.</p>`}
      <div class="stack">
        ${editing && html`<${Edit} camera=${found.data} done=${(saved) => { setEditing(false); if (saved) found.reload(); }} />`}
        <div class="columns wide-left">
          <div class="stack">
            <${Live} camera=${camera} />
            <${Card} title="Gaps in captures, 24 hours">
              ${gaps.error && gaps.error.code !== 'no_answer' && html`<${ErrorBox} error=${gaps.error} retry=${gaps.reload} />`}
              ${gaps.data && html`<${GapStrip} gaps=${gaps.data} />`}
              ${!gaps.data && !gaps.error && html`<p class="muted">Reading the gaps …</p>`}
            </${Card}>
            ${can('frames:read') && html`<${Newest} cameraId=${cameraId} />`}
          </div>
          <div class="stack">
            ${(probed || probing.busy) && html`<${Card} title="What the camera sends" actions=${probed && html`<button type="button" class="quiet" onClick=${() => setProbed(null)}>Close</button>`}>
              ${probed ? html`<${Findings} found=${probed} />` : html`<p class="muted" role="status">Connecting and reading some seconds of pictures …</p>`}</${Card}>`}
            <${Stream} camera=${camera} />
            <${Settings} camera=${camera} />
          </div>
        </div>
        ${can('ingest:read') && html`<${Card} title="Captures" actions=${html`<${Link} to=${`/console/captures?camera_id=${encodeURIComponent(cameraId)}`}>All captures</${Link}>`}>
          <${RequestList} filter=${{ camera_id: cameraId }} limit=${8} camera=${false} none=${html`<${Empty} title="No captures yet" />`} /></${Card}>`}
      </div>
    </${Page}>`;
}
