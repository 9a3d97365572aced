// The login: a key or a token becomes a session, which the browser keeps in a cookie that no script can read.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { ended } from '../lib/api.js';
import { login } from '../lib/auth.js';
import { ErrorBox, useAction } from '../lib/ui.js';

export default function Login() {
  const [credential, setCredential] = useState('');
  const field = useRef(null);
  const opening = useAction(login);
  useEffect(() => {
    document.title = 'Log in · TrackShift';
    field.current?.focus();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    if (!credential.trim()) {
      field.current.focus();
      return;
    }
    await opening.run(credential.trim());
    setCredential('');
    field.current?.focus();
  };
  const wrong = opening.problem?.status === 401;
  return html`
    <main class="alone">
      <form class="login" onSubmit=${submit}>
        <h1><span class="mark" aria-hidden="true"></span>TrackShift</h1>
        ${ended.value && html`<p class="notice" role="alert">${ended.value}</p>`}
        <div class="field">
          <label for="credential">API key or token</label>
          <input id="credential" ref=${field} type="password" name="credential" autocomplete="current-password" required
            spellcheck="false" maxlength="8192" value=${credential} onInput=${(event) => setCredential(event.currentTarget.value)}
            aria-invalid=${wrong ? 'true' : undefined} aria-describedby="credential-hint credential-error" />
          <p class="hint" id="credential-hint">A key begins with <code>tsk_</code>. An administrator makes one under Keys, or on the
            service's machine: <code>python -m services.commands keys create NAME</code></p>
          <p class="field-error" id="credential-error" role="alert">
            ${wrong && 'This key or token is wrong, has expired or was revoked.'}</p>
        </div>
        ${!wrong && html`<${ErrorBox} error=${opening.problem} />`}
        <button type="submit" class="primary" disabled=${opening.busy}>${opening.busy ? 'Logging in …' : 'Log in'}</button>
      </form>
    </main>`;
}
