// Captures and uploads, newest first, with bars that move while they run.
import { html } from '../lib/html.js';
import { can } from '../lib/api.js';
import { Legend, RequestList } from '../lib/captures.js';
import { Link, queried, setQuery } from '../lib/router.js';
import { Empty, Field, Page } from '../lib/ui.js';

const STATES = [['', 'any state'], ['in_progress', 'running'], ['pending', 'waiting'], ['completed', 'completed'], ['failed', 'failed'], ['cancelled', 'cancelled']];
const MODES = [['', 'any kind'], ['continuous', 'continuous'], ['single_frame', 'one picture'], ['event_driven', 'around events']];
const SOURCES = [['', 'cameras and uploads'], ['rtsp', 'cameras'], ['upload', 'uploads']];
const NAMES = ['camera_id', 'status', 'capture_mode', 'source_type', 'session'];

export default function Captures() {
  const filter = Object.fromEntries(NAMES.map((name) => [name, queried(name)]).filter(([, value]) => value));
  const chosen = (name) => ({ name, value: queried(name), onInput: (value) => setQuery({ [name]: value }) });
  const typed = (name) => ({ name, value: queried(name), onChange: (event) => setQuery({ [name]: event.currentTarget.value.trim() }) });
  const start = can('ingest:write') && html`<${Link} class="button primary" to=${`/console/captures/new${filter.camera_id ? `?camera_id=${encodeURIComponent(filter.camera_id)}` : ''}`}>Start a capture</${Link}>`;
  const narrowed = Object.keys(filter).length > 0;
  return html`
    <${Page} title="Captures" wide actions=${start}>
      <div class="toolbar">
        <${Field} label="State" type="select" options=${STATES} ...${chosen('status')} />
        <${Field} label="Kind" type="select" options=${MODES} ...${chosen('capture_mode')} />
        <${Field} label="From" type="select" options=${SOURCES} ...${chosen('source_type')} />
        <${Field} label="Camera" type="search" placeholder="id" ...${typed('camera_id')} />
        <${Field} label="Session" type="search" placeholder="FP1" ...${typed('session')} />
        <${Legend} />
      </div>
      <${RequestList} filter=${filter} pages none=${narrowed
    ? html`<${Empty} title="No capture fits"><button type="button" onClick=${() => setQuery(Object.fromEntries(NAMES.map((name) => [name, null])))}>Show all</button></${Empty}>`
    : html`<${Empty} title="No captures yet">${can('ingest:write') ? html`<p>A capture takes pictures from a camera and stores them.</p><div class="actions">${start}</div>` : 'None was made, or your key includes none of them.'}</${Empty}>`} />
    </${Page}>`;
}
