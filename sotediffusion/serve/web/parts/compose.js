// The left panel: what to draw, from the prompt down to the button.
import { html, useEffect, useRef, useState } from "../vendor/ui.js";
import { about, sizesOf } from "../state/about.js";
import { cancelFirst } from "../state/acts.js";
import { allStyles, form, measures, model, reset, usual } from "../state/form.js";
import { queue } from "../state/jobs.js";
import { note } from "../state/notices.js";
import { chooseTag, tagsOf } from "../state/prompt-text.js";
import { PRESETS, SAMPLERS, SCHEDULES, sentence, size } from "../state/words.js";
import { draw } from "../state/draw.js";
import { view } from "../state/view.js";
import { Choice, Fold, NumberInput, Problem, Slider, blamed } from "./fields.js";
import { IconButton } from "./icons.js";
import { StartPicture } from "./start-picture.js";
import { Loras } from "./loras.js";
import { PromptBox } from "./prompt-box.js";

export function Compose() {
  return html`<section class="compose" aria-label="What to draw">
    <div class="compose-scroll">
      <${PromptBox} name="prompt" label="Prompt" rows=${5} placeholder="1girl, solo, cat ears, smile, living room" />
      <div class="chips"><${Chips} /><${Styles} /></div>
      <${PromptBox} name="negative" label="Negative prompt" rows=${2} placeholder="What to avoid" />
      <${Sizes} />
      <${Numbers} />
      <${Stages} />
      <${StartPicture} />
      <${Loras} />
      <${Advanced} />
    </div>
    <${Go} />
  </section>`;
}

const GROUPS = [["date", "Date"], ["aesthetic", "Aesthetic"], ["quality", "Quality"]];

function Chips() {
  const chips = about.value.prompts.chips || {};
  const now = new Set(tagsOf(form.prompt.value ?? ""));
  return GROUPS.filter(([name]) => chips[name]?.length).map(([name, title]) => html`
    <div class="chip-row" role="group" aria-label=${`${title} tags`} key=${name}>
      <span class="chip-title" aria-hidden="true">${title}</span>
      <div class="chip-line">${chips[name].map((tag) => html`<${Chip} tag=${tag} on=${now.has(tag)} group=${chips[name]} />`)}</div>
    </div>`);
}

function Chip({ tag, on, group }) {
  const toggle = () => (form.prompt.value = chooseTag(form.prompt.value ?? "", group, tag));
  return html`<button type="button" class="chip" aria-pressed=${String(on)} onClick=${toggle}>${tag}</button>`;
}

function Styles() {
  const [naming, setNaming] = useState(false);
  const chosen = form.chosenStyles.value;
  const toggle = (name) => (form.chosenStyles.value = chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]);
  const drop = (name) => {
    form.styles.value = form.styles.value.filter((style) => style.name !== name);
    form.chosenStyles.value = chosen.filter((one) => one !== name);
  };
  return html`<div class="chip-row styles" role="group" aria-label="Styles">
    <span class="chip-title" aria-hidden="true">Styles</span>
    <div class="chip-line">
      ${allStyles.value.map((style) => html`<span class="chip-pair" key=${style.name}>
        <button type="button" class="chip" aria-pressed=${String(chosen.includes(style.name))} title=${style.prompt}
          onClick=${() => toggle(style.name)}>${style.name}</button>
        ${style.own && html`<${IconButton} icon="close" name=${`Forget the style ${style.name}`} onClick=${() => drop(style.name)} />`}
      </span>`)}
      ${naming ? html`<${NewStyle} done=${() => setNaming(false)} />`
        : html`<button type="button" class="chip quiet" aria-label="Save the prompts as a style" onClick=${() => setNaming(true)}>Save as…</button>`}
    </div>
  </div>`;
}

function NewStyle({ done }) {
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  const save = (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    if (!name) return done();
    const style = { name, prompt: form.prompt.value ?? "", negative: form.negative.value ?? "" };
    form.styles.value = [...form.styles.value.filter((one) => one.name !== name), style];
    note(`${name} is kept in this browser; it is put after the prompt, or around {prompt} where you write that`);
    done();
  };
  return html`<form class="new-style" onSubmit=${save}>
    <input name="name" aria-label="Name of the style" placeholder="Name" maxlength="40" ref=${box} onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), done())} />
    <button type="submit" class="chip">Save</button>
  </form>`;
}

function Sizes() {
  const sizes = sizesOf(model.value);
  const { width, height } = measures.value;
  const choose = (wide, high) => Object.assign(form.width, { value: wide }) && (form.height.value = high);
  const swap = () => choose(height, width);
  const most = model.value?.max_pixels || about.value.limits.pixels;
  return html`<fieldset class="sizes">
    <legend>Size</legend>
    <div class="size-presets">
      ${sizes.map(([wide, high]) => html`<button type="button" class="size" key=${`${wide}x${high}`} aria-label=${size(wide, high)}
        aria-pressed=${String(wide === width && high === height)} onClick=${() => choose(wide, high)}>
        <svg viewBox="0 0 24 24" aria-hidden="true">${frame(wide, high)}</svg><span>${wide}<br />${high}</span></button>`)}
    </div>
    <div class="size-own">
      <${NumberInput} id="width" aria-label="Width" ...${blamed("width")} value=${width} min="64" max="8192" step="8" onValue=${(value) => (form.width.value = value)} />
      <${IconButton} icon="swap" name="Swap width and height" onClick=${swap} />
      <${NumberInput} id="height" aria-label="Height" ...${blamed("height")} value=${height} min="64" max="8192" step="8" onValue=${(value) => (form.height.value = value)} />
      <span class="hint">${((width * height) / 1e6).toFixed(2)} of ${(most / 1e6).toFixed(1)} Mpx</span>
    </div>
    <${Problem} name="width" /><${Problem} name="height" />
  </fieldset>`;
}

function frame(wide, high) {
  const scale = 18 / Math.max(wide, high);
  const [w, h] = [wide * scale, high * scale];
  return html`<rect x=${12 - w / 2} y=${12 - h / 2} width=${w} height=${h} rx="2" />`;
}

function Numbers() {
  const [, most] = about.value.limits.count || [1, 8];
  const step = (by) => (form.count.value = Math.min(most, Math.max(1, (form.count.value ?? 1) + by)));
  return html`<div class="pair">
    <div class="field">
      <label for="count">Pictures</label>
      <div class="stepper">
        <button type="button" aria-label="One picture less" disabled=${form.count.value <= 1} onClick=${() => step(-1)}>−</button>
        <${NumberInput} id="count" ...${blamed("count")} value=${form.count.value} min="1" max=${most} step="1" onValue=${(value) => (form.count.value = value)} />
        <button type="button" aria-label="One picture more" disabled=${form.count.value >= most} onClick=${() => step(1)}>+</button>
      </div>
      <${Problem} name="count" />
    </div>
    <div class="field">
      <label for="seed">Seed</label>
      <div class="seed">
        <${NumberInput} id="seed" ...${blamed("seed")} value=${form.seed.value} min="0" step="1" placeholder="random" onValue=${(value) => (form.seed.value = value)} />
        <${IconButton} icon="dice" name="Random seed for each picture" pressed=${form.seed.value === null} onClick=${() => (form.seed.value = null)} />
        <${IconButton} icon="seed" name="Keep the last seed" disabled=${form.lastSeed.value === null} onClick=${() => (form.seed.value = form.lastSeed.value)} />
      </div>
      <${Problem} name="seed" />
    </div>
  </div>`;
}

function Stages() {
  const { limits } = about.value;
  return html`<fieldset class="stages">
    <legend>Drawing <span class="hint">Stage C</span></legend>
    <${Slider} name="steps" min=${1} max=${limits.steps[1]} most=${Math.min(80, limits.steps[1])} step=${1} />
    <${Slider} name="guidance" min=${0} max=${limits.guidance[1]} most=${Math.min(20, limits.guidance[1])} step=${0.5} />
  </fieldset>
  <fieldset class="stages">
    <legend>Refining <span class="hint">Stage B</span></legend>
    <${Slider} name="decoder_steps" text="Steps" min=${1} max=${limits.decoder_steps[1]} most=${Math.min(40, limits.decoder_steps[1])} step=${1} />
    <${Slider} name="decoder_guidance" text="Guidance" min=${0} max=${limits.decoder_guidance[1]} most=${Math.min(10, limits.decoder_guidance[1])} step=${0.5} />
  </fieldset>`;
}

function Advanced() {
  const { limits, presets = {}, samplers, schedules } = about.value;
  const apply = (event) => {
    const values = presets[event.target.value];
    for (const name of Object.keys(form)) {
      const fixed = ["prompt", "negative", "width", "height", "seed", "count", "strength", "model", "loras", "styles", "chosenStyles", "lastSeed"];
      if (!fixed.includes(name)) form[name].value = values[name] ?? usual(name);
    }
    note(`Settings of ${PRESETS[event.target.value] || event.target.value} taken`);
    event.target.value = "";
  };
  return html`<${Fold} name="advanced" title="Samplers and schedules" note=${SAMPLERS[form.sampler.value] || form.sampler.value}>
    <div class="field choice"><label for="preset">Start from</label>
      <select id="preset" onChange=${apply}><option value="">a preset…</option>
        ${Object.keys(presets).map((name) => html`<option value=${name}>${PRESETS[name] || sentence(name)}</option>`)}</select></div>
    <div class="pair">
      <${Choice} name="sampler" options=${samplers} names=${SAMPLERS} /><${Choice} name="schedule" options=${schedules} names=${SCHEDULES} />
      <${Choice} name="decoder_sampler" options=${samplers} names=${SAMPLERS} /><${Choice} name="decoder_schedule" options=${schedules} names=${SCHEDULES} />
    </div>
    <${Slider} name="shift" min=${limits.shift[0]} max=${limits.shift[1]} most=${6} step=${0.25} />
    <${Slider} name="decoder_shift" min=${limits.decoder_shift[0]} max=${limits.decoder_shift[1]} most=${6} step=${0.25} />
    <${Slider} name="rescale" min=${0} max=${1} step=${0.05} />
    <div class="field choice"><label for="compression">Compression</label>
      <${NumberInput} id="compression" value=${form.compression.value} min="4" max="128" placeholder="the model's own" onValue=${(value) => (form.compression.value = value)} />
      <${Problem} name="compression" /></div>
    <button type="button" class="quiet" onClick=${reset}>All settings as the model card has them</button>
  </${Fold}>`;
}

function Go() {
  const busy = queue.value.length;
  const count = form.count.value ?? 1;
  return html`<div class="go">
    <button type="button" class="primary" aria-keyshortcuts="Control+Enter" onClick=${draw}>${count > 1 ? `Generate ${count}` : "Generate"}<kbd>Ctrl ⏎</kbd></button>
    <button type="button" class="second" aria-keyshortcuts="Escape" disabled=${!busy} onClick=${cancelFirst}>Cancel<kbd>Esc</kbd></button>
    <${IconButton} icon="grid" name="X/Y grid" onClick=${() => (view.dialog.value = { kind: "xy" })} />
  </div>`;
}
