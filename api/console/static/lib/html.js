// What views are written with, in one place: Preact, its hooks, signals, and htm bound to Preact.
// htm makes elements, never markup: whatever stands in ${…} is text.
import { h } from '../vendor/preact.js';
import htm from '../vendor/htm.js';

export { h, render, Fragment } from '../vendor/preact.js';
export { useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from '../vendor/preact-hooks.js';
export { batch, computed, effect, signal, untracked, useComputed, useSignal } from '../vendor/preact-signals.js';
export const html = htm.bind(h);
