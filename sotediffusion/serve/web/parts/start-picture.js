// Image to image: the picture to start from, and how much of it is redrawn.
import { html, useEffect, useRef } from "../vendor/ui.js";
import { init, model, startWithout } from "../state/form.js";
import { startFrom } from "../state/pictures.js";
import { size } from "../state/words.js";
import { Fold, Problem, Slider } from "./fields.js";
import { Icon, IconButton } from "./icons.js";

export function StartPicture() {
  const chosen = init.value;
  if (model.value?.init === false && !chosen) return null;
  return html`<${Fold} name=${chosen ? "start-with" : "start"} key=${chosen ? "with" : "without"} title="Start from a picture" note=${chosen ? "on" : "off"} open=${Boolean(chosen)}>
    ${chosen ? html`<${Chosen} picture=${chosen} />` : html`<${Choose} />`}
    <${Problem} name="init" />
  </${Fold}>`;
}

function Choose() {
  return html`<label class="choose-file">
    <${Icon} name="image" /><span>Drop a picture on the page, paste one, or <u>choose a file</u></span>
    <input type="file" accept="image/png,image/jpeg,image/webp" class="hidden-file" onChange=${(event) => event.target.files[0] && startFrom(event.target.files[0])} />
  </label>`;
}

function Chosen({ picture }) {
  return html`<div class="start-picture">
    <${Thumb} bitmap=${picture.bitmap} />
    <div class="start-words"><strong>${picture.name}</strong><span class="hint">${size(picture.width, picture.height)}</span></div>
    <${IconButton} icon="close" name="Start from nothing" onClick=${startWithout} />
  </div>
  <${Slider} name="strength" text="Denoise" min=${0.01} max=${1} step=${0.01} hint="How much is redrawn: little keeps the picture, 1 draws it anew" />`;
}

function Thumb({ bitmap }) {
  const canvas = useRef(null);
  useEffect(() => {
    const scale = 144 / Math.max(bitmap.width, bitmap.height);
    Object.assign(canvas.current, { width: bitmap.width * scale, height: bitmap.height * scale });
    canvas.current.getContext("2d").drawImage(bitmap, 0, 0, canvas.current.width, canvas.current.height);
  }, [bitmap]);
  return html`<canvas class="start-thumb" ref=${canvas} role="img" aria-label="The picture to start from"></canvas>`;
}
