// What several views show of stored frames: small pictures, the picture itself, where it comes from in sentences.
import { html, useLayoutEffect, useRef, useState } from './html.js';
import { can, get, url } from './api.js';
import { Link, link } from './router.js';
import { Time, duration, number, timeText } from './time.js';
import { Badge } from './ui.js';

const SETTLED = 120; // ms that a small picture must stay in view before it is asked for: what flies past is not
const SHOWN_BY_BROWSERS = ['jpg', 'png', 'bmp', 'webp', 'avif'];

const thumbnailUrl = (frameId, width = 320) => url(`/frames/${frameId}/thumbnail`, { width });

/** The stored bytes, or, where no browser shows their kind, the same picture as JPEG. */
export const pictureUrl = (frame) => url(`/frames/${frame.frame_id}/content`, SHOWN_BY_BROWSERS.includes(frame.format) ? { proxy: true } : { as: 'jpeg' });

export const contentUrl = (frame) => url(`/frames/${frame.frame_id}/content`, { proxy: true });

/** A small picture that is asked for once it stays in view; words where there is none. */
export function Thumbnail({ frame, width = 320, alt = '' }) {
  const [state, setState] = useState('waiting');
  const image = useRef(null);
  useLayoutEffect(() => { // its end comes while the element is still known
    setState('waiting');
    const timer = setTimeout(() => setState('asked'), SETTLED);
    return () => {
      clearTimeout(timer);
      image.current?.removeAttribute('src'); // a browser goes on loading for an element that is gone
    };
  }, [frame.frame_id, width]);
  return html`
    <span class="thumbnail">
      ${state === 'asked' && html`<img ref=${image} fetchpriority="low" src=${thumbnailUrl(frame.frame_id, width)} alt=${alt} decoding="async" draggable=${false} onError=${() => setState('none')} />`}
      ${state === 'none' && html`<span class="small">No preview</span>`}
    </span>`;
}

export const frameTitle = (frame) => `${frame.camera_id}, ${timeText(frame.timestamp, { ms: true, date: true })}`;

const VERDICT = { good: 'good', suspect: 'warn', bad: 'bad' };
const REASON = {
  blurred: 'blurred', dark: 'too dark', bright: 'too bright', flat: 'without contrast', covered: 'covered',
  frozen: 'frozen: the camera shows the same picture', moved: 'the camera was moved',
};

export function Verdict({ quality, quiet = false }) {
  if (!quality || (quiet && quality.verdict === 'good')) return null;
  return html`<${Badge} kind=${VERDICT[quality.verdict]}>${quality.verdict}${quality.reasons.length > 0 ? `: ${quality.reasons.map((reason) => REASON[reason] ?? reason).join(', ')}` : ''}</${Badge}>`;
}

const CLOCK = {
  rtp: 'by the camera’s clock, which came with the picture',
  rtcp: 'by the camera’s clock, from its reports',
  receipt: 'by the service’s clock, when the picture came',
  exif: 'by the time that the file states (EXIF)',
  client: 'by the time that the sender gave',
  upload: 'as far as is known: that is when the file came',
};

const INTEGRITY = {
  verified: 'It was decoded whole before it was stored.',
  unknown: 'Parts of the picture may be missing.',
  undecoded: 'It was stored as the camera sent it, and nobody has decoded it yet.',
};

const utcTime = (at) => new Date(at).toISOString().slice(11, 23);

/** Where a frame comes from: a list of sentences. */
export function provenance(frame) {
  const spread = frame.timestamp_uncertainty_ms;
  const sure = spread === null ? 'how exact that is, is not known' : `± ${spread < 1000 ? `${number(spread, spread < 10 ? 1 : 0)} ms` : duration(spread / 1000)}`;
  const later = (new Date(frame.stored_at) - new Date(frame.timestamp)) / 1000;
  return [
    html`Taken <strong><${Time} at=${frame.timestamp} ms date /></strong> (${utcTime(frame.timestamp)} UTC) ${CLOCK[frame.timestamp_source] ?? frame.timestamp_source}, ${sure}.`,
    frame.source_type === 'upload'
      ? html`Uploaded as ${frame.filename ? html`<q class="breaks">${frame.filename}</q>` : 'a file without a name'}, and stored unchanged ${later >= 0 && later < 60 ? `${duration(later)} later` : html`at <${Time} at=${frame.stored_at} />`}.`
      : html`Picture ${number(frame.sequence)} of ${can('ingest:read') ? html`<${Link} to=${link('captures', frame.request_id)}>its capture</${Link}>` : 'its capture'}, stored ${later >= 0 ? `${duration(later)} later` : html`<${Time} at=${frame.stored_at} />`}.`,
    INTEGRITY[frame.integrity],
    frame.duplicate_of && html`The camera’s <${Link} to=${link('frames', frame.duplicate_of)}>first frame with the same bytes</${Link}> is another one${frame.quality?.frozen_s ? `; the picture has not changed for ${duration(frame.quality.frozen_s)}` : ''}.`,
    frame.held_at && html`On hold since <${Time} at=${frame.held_at} />${frame.hold_reason ? html`: <q class="breaks">${frame.hold_reason}</q>` : ''}. Nobody can delete it until it is released.`,
  ].filter(Boolean);
}

/** Ids for an input's suggestions; [] where cameras may not be read. */
export async function cameraIds(abort) {
  if (!can('cameras:read')) return [];
  const { items } = await get('/cameras', { limit: 200 }, { signal: abort });
  return items.map((camera) => camera.camera_id);
}

/** Suggestions for an input whose `list` is `id`. */
export const Suggestions = ({ id, of }) => html`<datalist id=${id}>${(of ?? []).map((value) => html`<option key=${value} value=${value} />`)}</datalist>`;
