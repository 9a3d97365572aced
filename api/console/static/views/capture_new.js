// Starting a capture, by a form that says what each choice means and how many frames come of it.
import { html, useState } from '../lib/html.js';
import { can, get, post } from '../lib/api.js';
import { Link, link, navigate, queried } from '../lib/router.js';
import { duration, fromLocalInput, number } from '../lib/time.js';
import { Card, ErrorBox, Field, Page, notify, useAction, useLoad } from '../lib/ui.js';

const MODES = [
  ['continuous', 'Continuous: a frame every so often'],
  ['single_frame', 'One picture'],
  ['event_driven', 'Around events: motion, and triggers that you send'],
];
const SAMPLING = [
  ['auto', 'Automatic: a keyframe when one is near, else exact'],
  ['exact', 'Exact: the picture nearest to each moment'],
  ['keyframe', 'Keyframes only: the least work, less exact'],
];

export default function NewCapture() {
  const cameras = useLoad(async (abort) => (can('cameras:read') ? (await get('/cameras', { limit: 200 }, { signal: abort })).items : []));
  const [form, setForm] = useState({
    camera_id: queried('camera_id'), rtsp_url: '', capture_mode: 'continuous', fps: '', capture_duration: '60', max_frames: '', sampling: 'auto', jpeg_quality: '90',
    frame_timestamp: '', pre_roll: '2', post_roll: '5', motion: true, sharpest: false, pick_of: '5', pick_within: '0.5', session: '', subject: '', phase: '',
  });
  const change = (name) => (value) => setForm((old) => ({ ...old, [name]: value }));
  const mode = form.capture_mode;
  const many = mode !== 'single_frame';
  const starting = useAction(() => {
    const meta = Object.fromEntries(['session', 'subject', 'phase'].filter((name) => form[name].trim()).map((name) => [name, form[name].trim()]));
    const numbers = (...names) => Object.fromEntries(names.filter((name) => form[name] !== '').map((name) => [name, Number(form[name])]));
    return post('/ingest/rtsp', {
      camera_id: form.camera_id.trim(), capture_mode: mode, ...numbers('jpeg_quality'),
      ...(form.rtsp_url.trim() ? { rtsp_url: form.rtsp_url.trim() } : {}),
      ...(many ? { ...numbers('fps', 'capture_duration', 'max_frames'), sampling: form.sampling } : {}),
      ...(mode === 'single_frame' && form.frame_timestamp ? { frame_timestamp: fromLocalInput(form.frame_timestamp) } : {}),
      ...(mode === 'event_driven' ? { ...numbers('pre_roll', 'post_roll'), motion: { enabled: form.motion } } : {}),
      ...(form.sharpest && mode !== 'event_driven' ? { pick: { of: Number(form.pick_of), within_s: Number(form.pick_within), best: 'sharpest' } } : {}),
      ...(Object.keys(meta).length ? { meta } : {}),
    }, { idempotent: true });
  });
  const submit = async (event) => {
    event.preventDefault();
    const request = await starting.run();
    if (!request) return;
    notify('The capture is accepted.');
    navigate(link('captures', request.request_id));
  };
  const { problem } = starting;
  const known = (cameras.data ?? []).find((camera) => camera.camera_id === form.camera_id.trim());
  const fps = Number(form.fps) || known?.default_fps || null;
  const seconds = Number(form.capture_duration) || null;
  const expected = fps && seconds ? Math.ceil(fps * seconds) : null;
  return html`
    <${Page} title="Start a capture" hint="It takes pictures from a camera, stores them, and accounts for every one that should have come.">
      <div class="columns wide-left">
        <form class="card form" onSubmit=${submit}>
          <${Field} label="Camera" name="camera_id" value=${form.camera_id} onInput=${change('camera_id')} required maxlength="100" list="known-cameras" autocomplete="off" problem=${problem} spellcheck="false" />
          <datalist id="known-cameras">${(cameras.data ?? []).map((camera) => html`<option key=${camera.camera_id} value=${camera.camera_id}>${camera.name ?? ''}</option>`)}</datalist>
          ${known && !known.enabled && html`<p class="notice">This camera is disabled: enable it first.</p>`}
          ${form.camera_id && cameras.data && !known && can('cameras:write') && html`<${Field} label="RTSP URL" name="rtsp_url" value=${form.rtsp_url} onInput=${change('rtsp_url')} problem=${problem}
            maxlength="2048" spellcheck="false" autocomplete="off" hint="Needed, since no camera of this id is registered." placeholder="rtsp://user:password@camera/stream1" />`}
          <${Field} label="Kind" name="capture_mode" type="select" value=${mode} onInput=${change('capture_mode')} options=${MODES} problem=${problem} />
          ${many && html`
            <div class="form-row">
              <${Field} label="Frames a second" name="fps" type="number" min="0.001" max="30" step="any" value=${form.fps} onInput=${change('fps')} problem=${problem}
                placeholder=${known?.default_fps ?? ''} hint="0.1 is one in 10 seconds. Empty: the camera's own, else the service's." />
              <${Field} label="Seconds" name="capture_duration" type="number" min="0.001" max="3600" step="any" value=${form.capture_duration} onInput=${change('capture_duration')} problem=${problem}
                hint="At most 3,600. Empty: until you cancel it." />
              <${Field} label="At most frames" name="max_frames" type="number" min="1" max="100000" step="1" value=${form.max_frames} onInput=${change('max_frames')} problem=${problem} hint="Empty: no limit." />
            </div>
            <${Field} label="Which pictures" name="sampling" type="select" value=${form.sampling} onInput=${change('sampling')} options=${SAMPLING} problem=${problem} />`}
          ${mode === 'single_frame' && html`<${Field} label="Moment" name="frame_timestamp" type="datetime-local" step="1" value=${form.frame_timestamp} onInput=${change('frame_timestamp')} problem=${problem}
            hint="Empty: now. A moment ahead waits; one that has passed needs a stream that was open then." />`}
          ${mode === 'event_driven' && html`
            <div class="form-row">
              <${Field} label="Seconds before" name="pre_roll" type="number" min="0" max="30" step="any" value=${form.pre_roll} onInput=${change('pre_roll')} problem=${problem} />
              <${Field} label="Seconds after" name="post_roll" type="number" min="0" max="30" step="any" value=${form.post_roll} onInput=${change('post_roll')} problem=${problem} />
            </div>
            <${Field} label="Motion makes events, too" name="motion" type="checkbox" value=${form.motion} onInput=${change('motion')} hint="Without it only triggers do, and nothing is decoded between them." />`}
          ${mode !== 'event_driven' && html`
            <${Field} label="Of several pictures take the sharpest" name="sharpest" type="checkbox" value=${form.sharpest} onInput=${change('sharpest')} hint="Looks at pictures around each moment, and costs a decode for each." />
            ${form.sharpest && html`<div class="form-row">
              <${Field} label="Pictures to compare" name="pick_of" type="number" min="2" max="25" step="1" value=${form.pick_of} onInput=${change('pick_of')} problem=${problem} pointer="/pick/of" />
              <${Field} label="Within seconds" name="pick_within" type="number" min="0" max="5" step="any" value=${form.pick_within} onInput=${change('pick_within')} problem=${problem} pointer="/pick/within_s" />
            </div>`}`}
          <div class="form-row">
            <${Field} label="Session" name="session" value=${form.session} onInput=${change('session')} placeholder="FP1" problem=${problem} pointer="/meta/session" />
            <${Field} label="What is shown" name="subject" value=${form.subject} onInput=${change('subject')} placeholder="car-44" problem=${problem} pointer="/meta/subject" />
            <${Field} label="Phase" name="phase" type="select" value=${form.phase} onInput=${change('phase')} options=${[['', '–'], ['before', 'before'], ['after', 'after']]} problem=${problem} pointer="/meta/phase" />
          </div>
          <details><summary>More</summary>
            <${Field} label="JPEG quality" name="jpeg_quality" type="number" min="50" max="100" step="1" value=${form.jpeg_quality} onInput=${change('jpeg_quality')} problem=${problem} hint="50 to 100; 90 is the usual." />
          </details>
          <${ErrorBox} error=${problem} />
          <div class="actions">
            <button type="submit" class="primary" disabled=${starting.busy}>${starting.busy ? 'Starting …' : 'Start'}</button>
            <${Link} to="/console/captures">Back</${Link}>
          </div>
        </form>
        <${Card} title="What comes of it">
          ${mode === 'single_frame' && html`<p>One picture, ${form.frame_timestamp ? 'the one nearest to that moment' : 'the newest that the camera sends'}.</p>`}
          ${mode === 'continuous' && html`<p>${expected ? html`<strong>${number(expected)} frames</strong> in ${duration(seconds)}: one every ${duration(1 / fps)}.`
    : fps ? html`One frame every ${duration(1 / fps)}${seconds ? ` for ${duration(seconds)}` : ', until you cancel it'}.` : 'As many frames a second as the camera’s settings say.'}</p>
            <p class="muted">The moments form a grid that begins with the first picture. A picture fills at most one slot, the nearest. A slot without
            a picture is counted as dropped, with its reason. When the camera is away, the service tries again until the end.</p>`}
          ${mode === 'event_driven' && html`<p>Frames only around events: ${form.pre_roll || 0} s before to ${form.post_roll || 0} s after each${fps ? `, ${number(fps, 3)} a second` : ''}.</p>
            <p class="muted">What was before comes from the ring that the service keeps of the open stream. Trigger events from the capture's page, or by the API.</p>`}
        </${Card}>
      </div>
    </${Page}>`;
}
