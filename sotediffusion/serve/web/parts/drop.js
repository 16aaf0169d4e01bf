// A picture dropped on the page: take its settings, or start from it. Pasted ones too.
import { html, useEffect, useState } from "../vendor/ui.js";
import { recallSettings, startFrom } from "../state/pictures.js";
import { open, shut } from "../state/view.js";
import { Dialog } from "./dialog.js";
import { Icon } from "./icons.js";

const picturesIn = (data) => [...(data?.files || [])].filter((file) => file.type.startsWith("image/"));

export function DropZone() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const events = {
      dragover: (event) => {
        if (!event.dataTransfer.types.includes("Files")) return;
        event.preventDefault();
        setOver(true);
      },
      dragleave: (event) => !event.relatedTarget && setOver(false),
      drop: (event) => {
        if (!event.dataTransfer.types.includes("Files")) return;
        event.preventDefault();
        setOver(false);
        const way = document.elementFromPoint(event.clientX, event.clientY)?.closest(".drop-half")?.dataset.way;
        const [file] = picturesIn(event.dataTransfer);
        if (file && way) (way === "recall" ? recallSettings : startFrom)(file);
        else if (file) open({ kind: "dropped", file });
      },
      paste: (event) => {
        if (event.clipboardData.getData("text/plain")) return; // office programs add a picture of the text
        const [file] = picturesIn(event.clipboardData);
        if (file) open({ kind: "dropped", file });
      },
    };
    Object.entries(events).forEach(([name, run]) => addEventListener(name, run));
    return () => Object.entries(events).forEach(([name, run]) => removeEventListener(name, run));
  }, []);
  return over && html`<div class="drop" aria-hidden="true">
    <div class="drop-half" data-way="recall"><${Icon} name="reuse" /><strong>Take its settings</strong><span>ours, A1111, ComfyUI, InvokeAI, SD.Next and others</span></div>
    <div class="drop-half" data-way="start"><${Icon} name="image" /><strong>Start from it</strong><span>image to image</span></div>
  </div>`;
}

// For a picture that came without a word on what to do with it.
export function Dropped({ file }) {
  const run = (work) => () => {
    shut();
    work(file);
  };
  return html`<${Dialog} kind="small-dialog" title="What shall be done with this picture?">
    <p>${file.name}</p>
    <div class="pair"><button type="button" class="primary" onClick=${run(recallSettings)}>Take its settings</button>
    <button type="button" onClick=${run(startFrom)}>Start from it</button></div>
  </${Dialog}>`;
}

export function OpenFile() {
  return html`<label class="icon-button open-file" title="Take the settings of a picture file"><${Icon} name="reuse" /><span class="hidden">Take the settings of a picture file</span>
    <input type="file" class="hidden-file" accept="image/png,image/jpeg,image/webp" onChange=${(event) => { if (event.target.files[0]) recallSettings(event.target.files[0]); event.target.value = ""; }} /></label>`;
}
