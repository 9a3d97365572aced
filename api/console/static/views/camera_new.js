// Registering a camera: by its address, with what a probe finds beside the form, or from a search of the network.
import { html, useState } from '../lib/html.js';
import { can, post } from '../lib/api.js';
import { Findings } from '../lib/cameras.js';
import { Link, link, navigate } from '../lib/router.js';
import { number } from '../lib/time.js';
import { Badge, Card, Empty, ErrorBox, Field, Page, notify, useAction } from '../lib/ui.js';

export const TRANSPORTS = [['tcp', 'TCP (reliable, the usual)'], ['udp', 'UDP (pictures may be damaged)']];

/** A camera's name as an id: letters, digits, . _ - */
const asId = (text) => text.trim().toLowerCase().replace(/[^a-z0-9._-]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 100);

function Profile({ profile, use }) {
  const size = profile.width ? `${profile.width} × ${profile.height}` : 'size not told';
  return html`
    <li class="row">
      <div><strong>${profile.name || profile.token}</strong>
        <p class="small muted">${[size, profile.codec, profile.fps && `${number(profile.fps, 1)} a second`].filter(Boolean).join(', ')}</p>
        ${profile.code && html`<p class="field-error">Its address is not allowed or not told (${profile.code}).</p>`}</div>
      ${profile.rtsp_ref && html`<button type="button" onClick=${() => use(profile)}>Use this stream</button>`}
    </li>`;
}

function Device({ device, site, use }) {
  const [user, setUser] = useState('');
  const [password, setPassword] = useState('');
  const asking = useAction(() => post('/cameras/discover', {
    address: device.xaddr ?? device.address, site, ...(user ? { username: user, password } : {}),
  }));
  const [profiles, setProfiles] = useState(device.profiles);
  const ask = async () => {
    const found = await asking.run();
    if (found) setProfiles(found.items[0]?.profiles ?? []);
  };
  return html`
    <li class="card">
      <div class="card-head"><h3>${device.name || device.hardware || device.address}</h3>
        ${device.registered_as && html`<${Badge} kind="info">registered as ${device.registered_as}</${Badge}>`}</div>
      <p class="small muted">${[device.address, device.hardware, !device.onvif && 'does not say that it is a camera'].filter(Boolean).join(' · ')}</p>
      ${profiles ? html`
        ${profiles.length === 0 && html`<p>It tells no streams.</p>`}
        <ul>${profiles.map((profile) => html`<${Profile} key=${profile.token} profile=${profile} use=${(chosen) => use(chosen, device)} />`)}</ul>`
    : html`
        <div class="form-row">
          <${Field} label="User" name="username" value=${user} onInput=${setUser} autocomplete="off" problem=${asking.problem} />
          <${Field} label="Password" name="device-password" type="password" value=${password} onInput=${setPassword} autocomplete="new-password" />
        </div>
        <button type="button" onClick=${ask} disabled=${asking.busy}>${asking.busy ? 'Asking …' : 'Ask for its streams'}</button>
        <${ErrorBox} error=${asking.problem} />`}
    </li>`;
}

function Discovery({ site, use }) {
  const [network, setNetwork] = useState('');
  const [address, setAddress] = useState('');
  const [found, setFound] = useState(null);
  const search = useAction(() => post('/cameras/discover', { site, ...(network.trim() ? { networks: [network.trim()] } : {}) }));
  const look = async () => {
    const answer = await search.run();
    if (answer) setFound(answer.items);
  };
  const add = () => {
    if (address.trim()) setFound([{ address: address.trim(), xaddr: null, name: null, hardware: null, onvif: true, registered_as: null, profiles: null }, ...(found ?? [])]);
  };
  return html`
    <${Card} title="Find on the network">
      <div class="form">
        <p class="muted">Cameras that know ONVIF answer a search and tell their streams, so that nobody needs to know the URL.</p>
        <div class="form-row ended">
          <${Field} label="Network, if you like" name="networks" value=${network} onInput=${setNetwork} placeholder="192.168.1.0/24" problem=${search.problem} pointer="/networks/0" />
          <button type="button" onClick=${look} disabled=${search.busy}>${search.busy ? 'Looking …' : 'Look for cameras'}</button>
        </div>
        <div class="form-row ended">
          <${Field} label="Or one address" name="address" value=${address} onInput=${setAddress} placeholder="192.168.1.20" />
          <button type="button" onClick=${add}>Add to the list</button>
        </div>
        <${ErrorBox} error=${search.problem} />
        ${found && found.length === 0 && html`<${Empty} title="Nothing answered">Is ONVIF switched on in the camera, and is it in the service's own
          network? Searches do not pass routers: name its network or address.</${Empty}>`}
        <ul class="stack">${(found ?? []).map((device) => html`<${Device} key=${device.address} device=${device} site=${site} use=${use} />`)}</ul>
      </div>
    </${Card}>`;
}

export default function NewCamera() {
  const [form, setForm] = useState({ camera_id: '', name: '', rtsp_url: '', rtsp_ref: null, told: null, transport: 'tcp', location: '', default_fps: '', site: 'default', keep_open: false });
  const change = (name) => (value) => setForm((old) => ({ ...old, [name]: value }));
  const [found, setFound] = useState(null);
  const probing = useAction(() => post('/cameras/probe', { rtsp_url: form.rtsp_url.trim(), transport: form.transport, ...(form.site !== 'default' ? { site: form.site } : {}) }));
  const saving = useAction(() => post('/cameras', {
    camera_id: form.camera_id.trim(), transport: form.transport,
    ...(form.rtsp_ref ? { rtsp_ref: form.rtsp_ref } : { rtsp_url: form.rtsp_url.trim() }),
    ...(form.name.trim() ? { name: form.name.trim() } : {}),
    ...(form.location.trim() ? { location: form.location.trim() } : {}),
    ...(form.default_fps ? { default_fps: Number(form.default_fps) } : {}),
    ...(form.site !== 'default' ? { site: form.site.trim() } : {}),
    ...(form.keep_open ? { keep_open: true } : {}),
  }));
  const probe = async () => {
    setFound(null);
    const answer = await probing.run();
    if (answer) setFound(answer);
  };
  const use = (profile, device) => {
    const name = device.name || device.hardware || '';
    setFound(null);
    setForm((old) => ({ ...old, rtsp_ref: profile.rtsp_ref, told: profile.rtsp_url, name: old.name || name, camera_id: old.camera_id || asId(name) }));
    scrollTo(0, 0);
  };
  const submit = async (event) => {
    event.preventDefault();
    const camera = await saving.run();
    if (!camera) return;
    notify(`${camera.camera_id} is registered.`);
    navigate(link('cameras', camera.camera_id));
  };
  const { problem } = saving;
  return html`
    <${Page} title="Register a camera" hint="The service connects to it when a capture wants it, or always, as you like.">
      <div class="columns wide-left">
        <form class="card form" onSubmit=${submit} autocomplete="off">
          <div class="form-row">
            <${Field} label="Id" name="camera_id" value=${form.camera_id} onInput=${change('camera_id')} required maxlength="100" pattern="[A-Za-z0-9._\\-]+"
              hint="Letters, digits, . _ -; it cannot change later." problem=${problem} placeholder="pit-lane-1" spellcheck="false" />
            <${Field} label="Name" name="name" value=${form.name} onInput=${change('name')} maxlength="200" problem=${problem} placeholder="Pit lane, entry" />
          </div>
          ${form.rtsp_ref ? html`
            <div class="notice info"><p>The stream that was found at <code>${form.told}</code>, with the login that it was found with.</p>
              <button type="button" class="quiet" onClick=${() => setForm({ ...form, rtsp_ref: null, told: null })}>Type a URL instead</button></div>`
    : html`
            <${Field} label="RTSP URL" name="rtsp_url" value=${form.rtsp_url} onInput=${change('rtsp_url')} required maxlength="2048" spellcheck="false"
              problem=${problem} placeholder="rtsp://user:password@camera/stream1"
              hint="With user and password where the camera asks for them. It is kept encrypted and never shown again with the login." />`}
          <div class="form-row">
            <${Field} label="Transport" name="transport" type="select" value=${form.transport} onInput=${change('transport')} options=${TRANSPORTS} problem=${problem} />
            <${Field} label="Frames a second" name="default_fps" type="number" min="0.001" max="30" step="any" value=${form.default_fps} onInput=${change('default_fps')}
              hint="Of captures that say none; empty: the service's." problem=${problem} />
          </div>
          <${Field} label="Location" name="location" value=${form.location} onInput=${change('location')} maxlength="200" problem=${problem} placeholder="garage 7" />
          ${can('admin') && html`
            <${Field} label="Site" name="site" value=${form.site} onInput=${change('site')} pattern="[a-z0-9\\-]{1,40}" problem=${problem} hint="Whose workers capture it." />
            <${Field} label="Keep its stream open" name="keep_open" type="checkbox" value=${form.keep_open} onInput=${change('keep_open')}
              hint="Snapshots come at once, and pictures of the last seconds can be had; the camera always has one viewer more." />`}
          <${ErrorBox} error=${problem} />
          <div class="actions">
            <button type="submit" class="primary" disabled=${saving.busy}>${saving.busy ? 'Registering …' : 'Register'}</button>
            ${!form.rtsp_ref && html`<button type="button" onClick=${probe} disabled=${probing.busy || !form.rtsp_url.trim()}>${probing.busy ? 'Trying the camera …' : 'Try it first'}</button>`}
            <${Link} to="/console/cameras">Back</${Link}>
          </div>
        </form>
        <div class="stack">
          <${Card} title="What the camera sends">
            ${probing.busy && html`<p class="muted" role="status">Connecting and reading some seconds of pictures …</p>`}
            <${ErrorBox} error=${probing.problem} />
            ${found ? html`<${Findings} found=${found} />` : !probing.busy && html`<p class="muted">“Try it first” connects to the camera, reads 3 to 12 seconds and
              says what it sends: size, rate, keyframes, clock, and what to change. Nothing is stored.</p>`}
          </${Card}>
          <${Discovery} site=${form.site} use=${use} />
        </div>
      </div>
    </${Page}>`;
}
