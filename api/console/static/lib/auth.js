// Who looks at the page. The session's cookie is HttpOnly: no script sees a credential after the login.
import { batch, signal } from './html.js';
import { call, del, ended, get, me } from './api.js';

export const started = signal(false); // whether it is known who looks
export const loginNeeded = signal(true); // false with AUTH__MODE=off

/** Asks who this is. Throws Problem when the service does not answer. */
export async function identify() {
  const { login, caller } = await get('/session');
  batch(() => {
    loginNeeded.value = login;
    me.value = caller;
    started.value = true;
  });
  return caller;
}

/** Throws Problem: 401 for a wrong credential, 429 after too many. */
export async function login(credential) {
  await call('POST', '/session', { body: { credential }, quiet: true });
  ended.value = null;
  await identify();
}

export async function logout() {
  await del('/session');
  batch(() => {
    ended.value = null;
    me.value = null;
  });
}
