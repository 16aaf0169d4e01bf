// Asking for a key, where the server wants one; it is exchanged for a cookie that no script can read.
import { html, useState } from "../vendor/ui.js";
import { signIn } from "../state/about.js";
import { Icon } from "./icons.js";

export function SignIn() {
  const [told, setTold] = useState(null);
  const go = async (event) => {
    event.preventDefault();
    try {
      await signIn(new FormData(event.target).get("key").trim());
    } catch (error) {
      setTold(error.message);
    }
  };
  return html`<main class="sign-in"><form onSubmit=${go}>
    <${Icon} name="key" /><h1>SoteDiffusion</h1>
    <p>This server asks for a key. Its operator makes one with <code>sote serve keys add</code>.</p>
    <label for="key">Key</label>
    <input id="key" name="key" type="password" autocomplete="current-password" required ref=${(box) => box && !told && box.focus()} aria-invalid=${told ? "true" : undefined} aria-describedby="key-told" />
    <p class="problem" id="key-told" role="alert">${told}</p>
    <button type="submit" class="primary">Sign in</button>
  </form></main>`;
}
