// Notes that pass; shown on the page, and in the dialog that lies over it.
import { html } from "../vendor/ui.js";
import { dismiss, notices } from "../state/notices.js";
import { IconButton } from "./icons.js";

export function Notices() {
  return html`<div class="notices">${notices.value.map((note) => html`<div class=${`notice ${note.kind}`} key=${note.id}>
    <span>${note.text}</span>
    ${note.action && html`<button type="button" class="link" onClick=${() => { dismiss(note.id, true); note.action.run(); }}>${note.action.label}</button>`}
    <${IconButton} icon="close" name="Dismiss" onClick=${() => dismiss(note.id)} />
  </div>`)}</div>`;
}
