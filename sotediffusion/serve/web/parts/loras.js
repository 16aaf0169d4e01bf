// LoRA: which ones go along, and how strongly.
import { html } from "../vendor/ui.js";
import { lookAgain } from "../state/about.js";
import { form, loraName, model } from "../state/form.js";
import { Fold, NumberInput, Problem, Range } from "./fields.js";
import { IconButton } from "./icons.js";

export function Loras() {
  const here = (model.value?.loras || []).map(loraName);
  const chosen = form.loras.value;
  if (!here.length && !chosen.length) return null;
  const left = here.filter((name) => !chosen.some((lora) => lora.name === name));
  const set = (at, change) => (form.loras.value = chosen.map((lora, place) => (place === at ? { ...lora, ...change } : lora)));
  const add = (event) => {
    if (event.target.value) form.loras.value = [...chosen, { name: event.target.value, weight: 0.8 }];
    event.target.value = "";
  };
  return html`<${Fold} name="loras" title="LoRA" note=${chosen.length ? `${chosen.length} on` : "none"}>
    ${chosen.map((lora, at) => html`<div class="lora" key=${lora.name}>
      <div class="field-head"><label for=${`lora-${at}`}>${lora.name}</label>
        <${NumberInput} id=${`lora-${at}`} value=${lora.weight} min="-2" max="2" onValue=${(weight) => set(at, { weight })} />
        <${IconButton} icon="close" name=${`Without ${lora.name}`} onClick=${() => (form.loras.value = chosen.filter((one) => one !== lora))} /></div>
      <${Range} name="lora" label=${`Weight of ${lora.name}`} min=${0} max=${1.5} step=${0.05} value=${lora.weight} onValue=${(weight) => set(at, { weight })} />
    </div>`)}
    ${left.length > 0 && html`<div class="field choice"><label for="lora-add">Add</label>
      <select id="lora-add" onChange=${add} onFocus=${lookAgain}><option value="">choose one…</option>${left.map((name) => html`<option>${name}</option>`)}</select></div>`}
    <${Problem} name="loras" />
  </${Fold}>`;
}
