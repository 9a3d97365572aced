// A pair: before and after under a slider, side by side, blinking, and what changed drawn over.
import '../vendor/img-comparison-slider.js';
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { can, del, get, url } from '../lib/api.js';
import { frameTitle } from '../lib/frames.js';
import { AlignmentBadge, alignmentText } from '../lib/pairs.js';
import { Link, link, navigate } from '../lib/router.js';
import { Stage, ZoomButtons, useZoom } from '../lib/stage.js';
import { Time, duration, number } from '../lib/time.js';
import { Card, ErrorBox, Facts, Page, Waiting, confirm, notify, useAction, useLive, useLoad, usePoll } from '../lib/ui.js';

const MODES = [['slider', 'Slider'], ['side', 'Side by side'], ['blink', 'Blink'], ['difference', 'Difference']];
const BLINK = 700; // ms; less than three a second
const WIDTH = 1920;
const WITHOUT_LIVE = 3000; // ms

const shows = (pair, kind) => url(`/pairs/${pair.pair_id}/view`, { kind, width: WIDTH });
const compared = (pair) => ['aligned', 'same_size'].includes(pair.alignment.status);

/** An <img> that says so when there is no picture. */
function View({ src, alt, ...rest }) {
  const [failed, setFailed] = useState(false);
  useEffect(() => setFailed(false), [src]);
  if (failed) return html`<p class="stage-none" ...${rest}>This picture cannot be shown now.</p>`;
  return html`<img src=${src} alt=${alt} draggable=${false} onError=${() => setFailed(true)} ...${rest} />`;
}

function Slider({ pair, before, after }) {
  return html`
    <img-comparison-slider class="slider" tabindex="0" role="slider" aria-label="Before and after: left and right arrows move the line" aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"
      onSlide=${(event) => event.currentTarget.setAttribute('aria-valuenow', String(Math.round(event.currentTarget.value)))}>
      <${View} slot="first" src=${before} alt=${`Before: ${frameTitle(pair.before)}`} />
      <${View} slot="second" src=${after} alt=${`After: ${frameTitle(pair.after)}`} />
    </img-comparison-slider>`;
}

function Blink({ pair, before, after, running, second }) {
  return html`
    <${View} src=${before} alt=${`Before: ${frameTitle(pair.before)}`} />
    <span class=${second ? 'over' : 'over away'}><${View} src=${after} alt=${`After: ${frameTitle(pair.after)}`} /></span>
    <span class="corner" role=${running ? undefined : 'status'}>${second ? 'After' : 'Before'}</span>`;
}

function Regions({ pair, chosen }) {
  const { width, height } = pair.before;
  return html`
    <svg class="regions" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
      ${pair.alignment.regions.map((region, index) => html`
        <rect key=${index} class=${index === chosen ? 'chosen' : ''} x=${region.x} y=${region.y} width=${region.width} height=${region.height}><title>${`Change ${index + 1}`}</title></rect>`)}
    </svg>`;
}

function Changes({ pair, chosen, choose }) {
  const { alignment } = pair;
  if (!compared(pair)) return null;
  return html`
    <${Card} title="What changed">
      <${Facts} items=${[
    ['Changed', `${number(alignment.changed_share * 100, 2)} % of what both show`],
    ['Both show', `${number(alignment.overlap * 100, 1)} %`],
    ['Likeness', `${number(alignment.ssim, 3)} (SSIM; 1 is the same)`],
    ['Moved by', alignment.shift_px !== null && `${number(alignment.shift_px, 1)} px`],
    ['Method', alignment.method],
  ]} />
      ${alignment.regions.length === 0 ? html`<p class="space">Nothing stands out.</p>` : html`
        <ol class="regions-list space" aria-label="Places that changed">${alignment.regions.map((region, index) => html`
          <li key=${index}><button type="button" aria-pressed=${index === chosen ? 'true' : 'false'} onClick=${() => choose(index === chosen ? null : index)}>
            ${index + 1}. ${region.width} × ${region.height} px at ${region.x}, ${region.y} <span class="small">score ${number(region.score, 2)}</span></button></li>`)}</ol>`}
    </${Card}>`;
}

const side = (title, frame) => [title, html`<${Link} to=${link('frames', frame.frame_id)}>${frame.camera_id}</${Link}>, <${Time} at=${frame.timestamp} ms date />${frame.filename && html`<br /><span class="breaks muted">${frame.filename}</span>`}`];

function Shown({ pair }) {
  const [mode, setMode] = useState('slider');
  const [share, setShare] = useState(60);
  const [outlines, setOutlines] = useState(true);
  const [running, setRunning] = useState(false);
  const [second, setSecond] = useState(false);
  const [chosen, setChosen] = useState(null);
  const zoom = useZoom();
  const together = useRef(new Set());
  useEffect(() => {
    if (mode !== 'blink' || !running) return undefined;
    const timer = setInterval(() => { if (!document.hidden) setSecond((old) => !old); }, BLINK);
    return () => clearInterval(timer);
  }, [mode, running]);
  const before = shows(pair, 'before');
  const after = shows(pair, pair.alignment.status === 'aligned' ? 'aligned' : 'after');
  const shape = pair.before.width / pair.before.height;
  const afterShape = compared(pair) ? shape : pair.after.width / pair.after.height;
  const choose = (index) => {
    setChosen(index);
    if (index !== null) {
      setMode('difference');
      setOutlines(true);
    }
  };
  const pictures = { pair, before, after };
  return html`
    <div class="columns wide-left">
      <div class="stack">
        <div class="viewer">
          <div class="viewer-bar top"><div class="modes" role="group" aria-label="How they are shown">${MODES.map(([key, text]) => html`
            <button key=${key} type="button" aria-pressed=${mode === key ? 'true' : 'false'} disabled=${key === 'difference' && !compared(pair)} onClick=${() => setMode(key)}>${text}</button>`)}</div></div>
          ${mode === 'slider' && html`<${Stage} zoom=${zoom} label="Before and after" shape=${shape} drag=${false}><${Slider} ...${pictures} /></${Stage}>`}
          ${mode === 'side' && html`<div class="sides">
            <figure><figcaption>Before</figcaption><${Stage} zoom=${zoom} label="Before" shape=${shape} together=${together}><${View} src=${before} alt=${`Before: ${frameTitle(pair.before)}`} /></${Stage}></figure>
            <figure><figcaption>After</figcaption><${Stage} zoom=${zoom} label="After" shape=${afterShape} together=${together}><${View} src=${after} alt=${`After: ${frameTitle(pair.after)}`} /></${Stage}></figure></div>`}
          ${mode === 'blink' && html`<${Stage} zoom=${zoom} label="Before and after by turns" shape=${shape}><${Blink} ...${pictures} running=${running} second=${second} /></${Stage}>`}
          ${mode === 'difference' && html`<${Stage} zoom=${zoom} label="What changed" shape=${shape}>
            <${View} src=${before} alt=${`Before: ${frameTitle(pair.before)}`} />
            <span class="over" style=${{ opacity: share / 100 }}><${View} src=${shows(pair, 'difference')} alt="What changed, as heat" /></span>
            ${outlines && html`<${Regions} pair=${pair} chosen=${chosen} />`}</${Stage}>`}
          <div class="viewer-bar">
            <${ZoomButtons} zoom=${zoom} />
            ${mode === 'slider' && html`<span class="muted small">Drag the line, or focus it and use ← and →. Left of it is before.</span>`}
            ${mode === 'blink' && html`<div class="actions"><button type="button" aria-pressed=${running ? 'true' : 'false'} onClick=${() => setRunning(!running)}>${running ? 'Stop' : 'Blink'}</button>
              <button type="button" onClick=${() => { setRunning(false); setSecond(!second); }}>Show ${second ? 'before' : 'after'}</button></div>`}
            ${mode === 'difference' && html`<div class="actions"><label class="range"><span>Heat</span><input type="range" min="0" max="100" value=${share} aria-valuetext=${`${share} %`} onInput=${(event) => setShare(Number(event.currentTarget.value))} /></label>
              <label class="check"><input type="checkbox" checked=${outlines} onChange=${(event) => setOutlines(event.currentTarget.checked)} /> Outlines</label></div>`}
          </div>
        </div>
        <p role="status">${alignmentText(pair)}</p>
      </div>
      <div class="stack">
        <${Card} title="The pair" actions=${html`<${AlignmentBadge} pair=${pair} />`}>
          <${Facts} items=${[side('Before', pair.before), side('After', pair.after), ['Apart', duration(pair.seconds_apart)], ['Subject', pair.subject], ['Label', pair.label],
    ['Session', pair.before.meta?.session ?? pair.after.meta?.session], ['Made', html`<${Time} at=${pair.created_at} />`], ...Object.entries(pair.meta).map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)])]} />
        </${Card}>
        <${Changes} pair=${pair} chosen=${chosen} choose=${choose} />
      </div>
    </div>`;
}

export default function PairView({ params }) {
  const pair = useLoad((abort) => get(`/pairs/${params.pair_id}`, null, { signal: abort }));
  useLive({ types: ['pair.aligned'] }, (message) => { if (message.op === 'missed' || message.event?.subject === params.pair_id) pair.reload(); });
  const waits = pair.data?.alignment.status === 'pending' && !can('events:read');
  usePoll(pair.reload, waits ? WITHOUT_LIVE : 0);
  const deleting = useAction(async () => {
    if (!await confirm({ title: 'Delete this pair?', text: 'Its two frames stay.', action: 'Delete', danger: true })) return;
    await del(`/pairs/${params.pair_id}`);
    notify('The pair is deleted.');
    navigate('/console/pairs');
  });
  const found = pair.data;
  const title = found ? found.label ?? found.subject ?? `${found.before.camera_id}, before and after` : 'Pair';
  return html`
    <${Page} title=${title} wide actions=${found && html`
      <a class="button" href=${url(`/pairs/${found.pair_id}/view`, { kind: 'side', width: WIDTH })} download=${`pair-${found.pair_id}.jpg`}>Download side by side</a>
      ${can('frames:delete') && html`<button type="button" class="danger" onClick=${deleting.run} disabled=${deleting.busy}>Delete</button>`}`}>
      <${ErrorBox} error=${deleting.problem} />
      <${Waiting} of=${pair} what="Reading the pair" />
      ${found && html`<${Shown} pair=${found} />`}
    </${Page}>`;
}
