// The wall: every camera's newest picture, how old it is, how the stream stands, what was lost.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { can } from '../lib/api.js';
import { QualityBadge, Picture, Sparkline, StateBadge, lossesOf, newestFrame, noPicture, useLatest } from '../lib/cameras.js';
import { Link, link, queried, setQuery } from '../lib/router.js';
import { Age } from '../lib/time.js';
import { wordsOf } from '../lib/words.js';
import { Badge, Empty, Field, Page, Pager, Waiting, useList, useLive, useLoad, usePoll } from '../lib/ui.js';

const LIST_EVERY = 5000; // ms: how the streams stand
const PICTURE_PAUSE = 2000; // ms between two pictures of one camera, however many are stored
const OPEN_EVERY = 5000; // ms: a stream that is open without a capture stores nothing, and has new pictures all the same
const LOSSES_EVERY = 60000;

// The page's one subscription hands each event to the camera's card.
const listeners = new Map();

function Tile({ camera }) {
  const newest = useLoad((abort) => newestFrame(camera.camera_id, abort), [camera.camera_id]);
  const losses = useLoad((abort) => lossesOf(camera.camera_id, abort), [camera.camera_id]);
  const open = camera.stream?.state === 'live';
  const latest = useLatest(camera.camera_id, can('frames:read') && (open || Boolean(newest.data)));
  const wait = useRef({ last: 0, timer: null });

  const refresh = useRef(null);
  refresh.current = () => {
    const own = wait.current;
    if (own.timer !== null || document.hidden) return;
    own.timer = setTimeout(() => {
      own.timer = null;
      own.last = Date.now();
      latest.refresh();
    }, Math.max(0, own.last + PICTURE_PAUSE - Date.now()));
  };
  useEffect(() => {
    listeners.set(camera.camera_id, ({ data }) => {
      newest.set((old) => ({ ...old, timestamp: data.timestamp ?? old?.timestamp, quality: data.quality === undefined ? old?.quality : data.quality }));
      refresh.current();
    });
    return () => {
      listeners.delete(camera.camera_id);
      clearTimeout(wait.current.timer);
    };
  }, [camera.camera_id]);
  usePoll(() => refresh.current(), open && can('frames:read') ? OPEN_EVERY : 0);
  usePoll(losses.reload, LOSSES_EVERY);

  const name = camera.name || camera.camera_id;
  const error = camera.enabled && camera.stream?.state !== 'live' ? camera.stream?.last_error : null;
  const trouble = error && wordsOf(error.code, error.message).what;
  const at = latest.at ?? newest.data?.timestamp;
  return html`
    <li class="tile">
      <${Link} to=${link('cameras', camera.camera_id)} class="tile-link">
        <${Picture} src=${latest.src} alt=${`Newest picture of ${name}`} none=${newest.loading && !newest.data ? 'Loading …' : noPicture()} />
        <h2>${name}</h2>
      </${Link}>
      <div class="tile-facts">
        <${StateBadge} camera=${camera} />
        <${QualityBadge} quality=${newest.data?.quality} />
        ${camera.site !== 'default' && html`<${Badge}>${camera.site}</${Badge}>`}
        <span class="small muted tile-age">${at && html`<${Age} at=${at} />`}</span>
      </div>
      <div class="tile-facts">
        ${losses.data && html`<${Sparkline} losses=${losses.data} />`}
        ${!losses.data && losses.error && html`<span class="small muted" title=${losses.error.message}>losses unknown</span>`}
        <span class="small muted tile-age">${camera.stream?.jobs ? `${camera.stream.jobs} capture${camera.stream.jobs > 1 ? 's' : ''}` : ''}</span>
      </div>
      ${trouble && html`<p class="small tile-trouble">${trouble}</p>`}
    </li>`;
}

export default function Cameras() {
  const list = useList('/cameras', {}, { limit: 60 });
  const [typed, setTyped] = useState(queried('find'));
  const site = queried('site');
  usePoll(list.reload, LIST_EVERY);
  useLive({ types: ['frame.stored'] }, (message) => {
    if (message.op === 'event') listeners.get(message.event.cameraid)?.(message.event);
  });
  const all = list.items ?? [];
  const sites = [...new Set(all.map((camera) => camera.site))].sort();
  const wanted = typed.trim().toLowerCase();
  const shown = all.filter((camera) => (!site || camera.site === site)
    && (!wanted || [camera.camera_id, camera.name, camera.location].some((text) => text?.toLowerCase().includes(wanted))));
  const live = all.filter((camera) => camera.stream?.state === 'live').length;
  const register = can('cameras:write') && html`<${Link} to="/console/cameras/new" class="button primary">Register a camera</${Link}>`;
  return html`
    <${Page} title="Cameras" wide hint=${list.items && all.length > 0 && `${all.length}${list.hasMore ? ' or more' : ''} registered, ${live} live`} actions=${register}>
      <${Waiting} of=${list} what="Reading the cameras" />
      ${all.length > 3 && html`
        <div class="toolbar">
          <${Field} label="Find" name="find" type="search" value=${typed} onInput=${(text) => { setTyped(text); setQuery({ find: text }); }} placeholder="name, id, location" />
          ${sites.length > 1 && html`<${Field} label="Site" name="site" type="select" value=${site} onInput=${(value) => setQuery({ site: value })}
            options=${[['', 'all sites'], ...sites.map((name) => [name, name])]} />`}
        </div>`}
      ${list.items && all.length === 0 && html`
        <${Empty} title="No cameras yet">
          ${can('cameras:write') ? html`<p>Register the first by its address, or let the service look for cameras on the network.</p>
            <div class="actions">${register}</div>` : html`<p>None is registered, or your key includes none of them.</p>`}
        </${Empty}>`}
      ${all.length > 0 && shown.length === 0 && html`<${Empty} title="No camera fits"><button type="button" onClick=${() => { setTyped(''); setQuery({ find: null, site: null }); }}>Show all</button></${Empty}>`}
      <ul class=${shown.length <= 4 ? 'wall few' : 'wall'}>${shown.map((camera) => html`<${Tile} key=${camera.camera_id} camera=${camera} />`)}</ul>
      ${list.hasMore && html`<${Pager} list=${list} noun="cameras" />`}
    </${Page}>`;
}
