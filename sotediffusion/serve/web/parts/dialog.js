// The frame of every dialog: the browser's own <dialog>, which keeps the focus inside and gives it back.
import { html, useEffect, useRef } from "../vendor/ui.js";
import { shut } from "../state/view.js";
import { IconButton } from "./icons.js";
import { Notices } from "./notices.js";

export function Dialog({ title, kind, children, onKeyDown }) {
  const frame = useRef(null);
  useEffect(() => {
    frame.current.showModal();
    frame.current.focus();
    return () => frame.current?.close();
  }, []);
  const cancelled = (event) => {
    event.preventDefault();
    shut();
  };
  const outside = (event) => event.target === frame.current && shut();
  return html`<dialog ref=${frame} tabindex="-1" class=${`dialog ${kind}`} aria-label=${title} onCancel=${cancelled} onMouseDown=${outside} onKeyDown=${onKeyDown}>
    <div class="dialog-head"><h2>${title}</h2><${IconButton} icon="close" name="Close" onClick=${shut} /></div>
    <div class="dialog-body">${children}</div>
    <${Notices} />
  </dialog>`;
}
