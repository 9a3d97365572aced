// What the list of pairs and a pair share: how the alignment stands, in words.
import { html } from './html.js';
import { number } from './time.js';
import { Badge } from './ui.js';

const REASON = {
  one_colour: 'a picture is of one colour', too_few_inliers: 'the pictures have too little in common', image_too_large: 'a picture is too large',
  invalid_image: 'a picture cannot be read', timeout: 'it took too long', crashed: 'the comparison broke off, three times',
};

export const changed = ({ alignment }) => (alignment.changed_share === null ? null : `${number(alignment.changed_share * 100, 2)} % changed`);

export function AlignmentBadge({ pair }) {
  const { status, changed_share: share } = pair.alignment;
  if (status === 'pending') return html`<${Badge}>being compared …</${Badge}>`;
  if (status === 'failed') return html`<${Badge} kind="bad">cannot be compared</${Badge}>`;
  if (status === 'off') return html`<${Badge}>not compared</${Badge}>`;
  return html`<${Badge} kind=${share >= 0.01 ? 'warn' : 'good'}>${changed(pair)}</${Badge}>`;
}

/** A sentence. */
export function alignmentText({ alignment }) {
  const { status, reason } = alignment;
  if (status === 'pending') return 'The pictures are being compared; this page tells when that is done.';
  if (status === 'failed') return `The pictures could not be laid on each other: ${REASON[reason] ?? reason ?? 'the reason is not known'}. They are shown as they are.`;
  if (status === 'off') return 'The pictures were not compared, as was asked. They are shown as they are.';
  if (status === 'same_size') return 'The camera did not move: the pictures lie on each other as they are.';
  return `The later picture was laid on the earlier one, moved by ${number(alignment.shift_px, 1)} pixels in the middle.`;
}
