// A picture, or several, that can be looked at closely: zoom by buttons, keys, wheel and double click, moved by drag.
import { html, useCallback, useEffect, useRef, useState } from './html.js';

const STEPS = [1, 1.5, 2, 3, 4, 6, 8, 12, 16];

/** {scale, set, closer, farther, fit}: one for all stages that go in step. */
export function useZoom() {
  const [scale, setScale] = useState(1);
  const closer = useCallback(() => setScale((old) => STEPS.find((step) => step > old + 0.01) ?? old), []);
  const farther = useCallback(() => setScale((old) => STEPS.findLast((step) => step < old - 0.01) ?? 1), []);
  return { scale, set: setScale, closer, farther, fit: () => setScale(1) };
}

export function ZoomButtons({ zoom }) {
  return html`
    <div class="zoom" role="group" aria-label="Zoom">
      <button type="button" onClick=${zoom.farther} disabled=${zoom.scale <= 1} aria-label="Smaller">−</button>
      <output aria-live="polite">${Math.round(zoom.scale * 100)} %</output>
      <button type="button" onClick=${zoom.closer} disabled=${zoom.scale >= STEPS.at(-1)} aria-label="Larger">+</button>
      <button type="button" onClick=${zoom.fit} disabled=${zoom.scale <= 1}>Fit</button>
    </div>`;
}

/** `together`: a ref with the stages that move with this one ({current: Set}). `drag`: false where a drag means something else.
 * `shape`: width / height, so that the page does not jump when the picture comes. */
export function Stage({ zoom, label, shape = 16 / 9, together, drag = true, children }) {
  const box = useRef(null);
  const kept = useRef({ scale: 1, x: 0.5, y: 0.5, echo: false });
  useEffect(() => {
    const element = box.current;
    if (!together) return undefined;
    together.current.add(element);
    return () => together.current.delete(element);
  }, [together]);
  useEffect(() => { // the point in the middle, or under the pointer, stays where it is
    const element = box.current;
    const own = kept.current;
    if (own.scale === zoom.scale) return;
    const ratio = zoom.scale / own.scale;
    const x = own.x * element.clientWidth;
    const y = own.y * element.clientHeight;
    element.scrollLeft = (element.scrollLeft + x) * ratio - x;
    element.scrollTop = (element.scrollTop + y) * ratio - y;
    Object.assign(own, { scale: zoom.scale, x: 0.5, y: 0.5 });
  }, [zoom.scale]);
  useEffect(() => {
    const element = box.current;
    const wheel = (event) => {
      if (!(event.ctrlKey || event.metaKey)) return; // the plain wheel moves
      event.preventDefault();
      aim(event);
      if (event.deltaY < 0) zoom.closer();
      else zoom.farther();
    };
    element.addEventListener('wheel', wheel, { passive: false });
    return () => element.removeEventListener('wheel', wheel);
  }, []);
  const aim = (event) => {
    const place = box.current.getBoundingClientRect();
    kept.current.x = (event.clientX - place.left) / place.width;
    kept.current.y = (event.clientY - place.top) / place.height;
  };
  const follow = () => {
    for (const other of together?.current ?? []) {
      if (other === box.current) continue;
      if (Math.abs(other.scrollLeft - box.current.scrollLeft) > 1) other.scrollLeft = box.current.scrollLeft;
      if (Math.abs(other.scrollTop - box.current.scrollTop) > 1) other.scrollTop = box.current.scrollTop;
    }
  };
  const press = (event) => {
    if (!drag || event.button !== 0 || event.pointerType !== 'mouse' || zoom.scale <= 1) return;
    event.preventDefault();
    box.current.focus();
    let { clientX, clientY } = event;
    const move = (to) => {
      box.current.scrollLeft -= to.clientX - clientX;
      box.current.scrollTop -= to.clientY - clientY;
      ({ clientX, clientY } = to);
    };
    const end = () => {
      removeEventListener('pointermove', move);
      removeEventListener('pointerup', end);
    };
    addEventListener('pointermove', move);
    addEventListener('pointerup', end);
  };
  const twice = (event) => {
    if (!drag) return;
    aim(event);
    if (zoom.scale > 1) zoom.fit();
    else zoom.set(3);
  };
  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { '+': zoom.closer, '=': zoom.closer, '-': zoom.farther, 0: zoom.fit }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  };
  return html`
    <div class=${`stage ${zoom.scale > 1 && drag ? 'closer' : ''}`} ref=${box} tabindex="0" role="group" aria-label=${`${label}. Plus and minus zoom, 0 fits, arrows move.`}
      style=${{ aspectRatio: String(shape) }} onScroll=${follow} onPointerDown=${press} onDblClick=${twice} onKeyDown=${key}>
      <div class="stage-inside" style=${{ width: `${zoom.scale * 100}%`, height: `${zoom.scale * 100}%` }}>${children}</div>
    </div>`;
}
