// One WebSocket for the page, whoever subscribes, and whether the service answers at all.
import { effect, signal } from './html.js';
import { can, get, me, post, reachable, sessionEnded } from './api.js';

export const connection = signal('waiting'); // 'live', 'waiting' (for the WebSocket), 'away' (nothing answers)
export const returned = signal(0); // counts how often the service came back: views read again what they show

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5000;
const CREDENTIAL_GONE = 4401;
const SESSION_CHECK = 15000; // ms, where there is no WebSocket to tell that a session has ended

const subscriptions = new Map(); // id → {wanted, told, cursor}
let socket = null;
let opening = false;
let timer = null;
let pauseMs = FIRST_PAUSE;
let made = 0;
let lost = false;

/** `told` gets {op: 'event', cursor, event}, {op: 'progress', request_id, status, progress}, and {op: 'missed'} when events
 * were lost for good and everything is to be read again. Returns the function that ends it. */
export function subscribe({ types = null, camera_ids = null, request_ids = null, progress = false } = {}, told) {
  made += 1;
  const id = `s${made}`;
  const wanted = { types, camera_ids, request_ids, progress };
  for (const name of Object.keys(wanted)) if (wanted[name] === null || wanted[name] === false) delete wanted[name];
  subscriptions.set(id, { wanted, told, cursor: null });
  if (socket?.readyState === WebSocket.OPEN) say(id);
  return () => {
    if (subscriptions.delete(id) && socket?.readyState === WebSocket.OPEN) {
      socket.send(JSON.stringify({ op: 'unsubscribe', id }));
    }
  };
}

function say(id) {
  const { wanted, cursor } = subscriptions.get(id);
  socket.send(JSON.stringify({ op: 'subscribe', id, ...wanted, ...(cursor ? { after: cursor } : {}) }));
}

function heard({ data }) {
  const message = JSON.parse(data);
  const subscription = subscriptions.get(message.id);
  if (!subscription) return;
  if (message.cursor) subscription.cursor = message.cursor;
  if (message.op === 'event' || message.op === 'progress') subscription.told(message);
  else if (message.op === 'error' && message.code === 'cursor_expired') {
    subscription.cursor = null;
    say(message.id);
    subscription.told({ op: 'missed' });
  }
}

async function open() {
  timer = null;
  if (opening || socket || me.value === null) return;
  opening = true;
  try {
    if (!can('events:read')) {
      await poll();
      return;
    }
    const { ticket } = await post('/ws/tickets');
    if (me.value === null) return;
    const origin = location.origin.replace(/^http/, 'ws');
    socket = new WebSocket(`${origin}/api/v1/ws?ticket=${encodeURIComponent(ticket)}`, 'trackshift.v1');
    socket.onopen = () => {
      pauseMs = FIRST_PAUSE;
      answers('live');
      for (const id of subscriptions.keys()) say(id);
    };
    socket.onmessage = heard;
    socket.onclose = closed;
  } catch (problem) {
    if (problem.status === 0) away();
    again();
  } finally {
    opening = false;
  }
}

/** Without events:read there is no WebSocket: asks now and then whether the session holds. */
async function poll() {
  const { login, caller } = await get('/session');
  if (login && caller === null) sessionEnded();
  else answers('live');
  if (me.value !== null) timer = setTimeout(open, SESSION_CHECK);
}

async function closed({ code }) {
  socket = null;
  if (me.value === null) return;
  if (connection.value === 'live') connection.value = 'waiting';
  lost = true;
  if (code === CREDENTIAL_GONE) {
    sessionEnded();
    return;
  }
  again();
}

function again() {
  if (me.value === null || timer !== null) return;
  timer = setTimeout(check, pauseMs);
  pauseMs = Math.min(pauseMs * 1.6, LONGEST_PAUSE);
}

/** Before a ticket is asked for: does it answer, and does it still know this session? */
async function check() {
  timer = null;
  try {
    const { login, caller } = await get('/session');
    if (login && caller === null) sessionEnded();
    else open();
  } catch (problem) {
    if (problem.status === 0) away();
    again();
  }
}

function away() {
  lost = true;
  connection.value = 'away';
}

function answers(state) {
  connection.value = state;
  if (lost) {
    lost = false;
    returned.value += 1;
  }
}

// A request that nobody answered tells as much as the socket's end, and sooner where the network only drops packets.
effect(() => {
  if (!reachable.value && me.peek() !== null) {
    away();
    if (!socket) again();
  }
});

effect(() => {
  const who = me.value;
  if (who !== null) {
    pauseMs = FIRST_PAUSE;
    open();
    return;
  }
  clearTimeout(timer);
  timer = null;
  connection.value = 'waiting';
  lost = false;
  const old = socket;
  socket = null;
  if (old) {
    old.onclose = null;
    old.close();
  }
});
