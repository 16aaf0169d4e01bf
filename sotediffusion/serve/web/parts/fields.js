// Fields of the form: a number with its slider, a choice, and the sentence of a refusal beside the field it is about.
import { html, useEffect, useState } from "../vendor/ui.js";
import { form, problem, usual } from "../state/form.js";
import { keep, recall } from "../state/kept.js";
import { label, number } from "../state/words.js";

export function Problem({ name }) {
  const found = problem.value?.field === name ? problem.value.message : null;
  return found && html`<p class="problem" id=${`problem-${name}`}>${found}</p>`;
}

export const blamed = (name) => (problem.value?.field === name ? { "aria-invalid": "true", "aria-describedby": `problem-${name}` } : {});

// A number field that lets one type: what is no number yet stays in the field and out of the form. Whether a number will
// do is the server's to say, in words.
export function NumberInput({ id, value, onValue, min, max, step, placeholder, ...rest }) {
  const [text, setText] = useState(null);
  const shown = text ?? (value === null ? "" : number(value));
  const read = (event) => {
    setText(event.target.value);
    const parsed = event.target.value === "" ? null : Number(event.target.value);
    if (parsed === null ? placeholder !== undefined : isFinite(parsed)) onValue(parsed);
  };
  return html`<input id=${id} type="number" inputmode="decimal" value=${shown} min=${min} max=${max} step=${step ?? "any"}
    placeholder=${placeholder} onInput=${read} onBlur=${() => setText(null)} ...${rest} />`;
}

// `most` is where the slider ends; the number may go up to `max`.
export function Slider({ name, min, max, most = max, step, hint, text }) {
  const field = form[name];
  const reset = () => (field.value = usual(name));
  return html`<div class="field">
    <div class="field-head">
      <label for=${name}>${text || label(name)}</label>
      ${field.value !== usual(name) && html`<button type="button" class="as-usual" onClick=${reset} title=${`Back to ${usual(name)}`}
        aria-label=${`${label(name)}: back to ${usual(name)}`}>reset</button>`}
      <${NumberInput} id=${name} value=${field.value} onValue=${(value) => (field.value = value)} min=${min} max=${max}
        step=${step === 1 ? 1 : "any"} ...${blamed(name)} />
    </div>
    <${Range} name=${name} min=${min} max=${most} step=${step} value=${field.value} label=${text || label(name)}
      onValue=${(value) => (field.value = value)} />
    ${hint && html`<p class="hint">${hint}</p>`}
    <${Problem} name=${name} />
  </div>`;
}

// The filled part of the track is drawn by CSS from --at.
export function Range({ name, min, max, step, value, label: text, onValue }) {
  const at = `${Math.min(100, Math.max(0, (((value ?? min) - min) / (max - min)) * 100))}%`;
  return html`<input type="range" min=${min} max=${max} step=${step} value=${value ?? min} aria-label=${`${text}, slider`}
    style=${{ "--at": at }} data-name=${name} onInput=${(event) => onValue(Number(event.target.value))} />`;
}

export function Choice({ name, options, names = {}, text }) {
  const field = form[name];
  return html`<div class="field choice">
    <label for=${name}>${text || label(name)}</label>
    <select id=${name} value=${field.value ?? ""} onChange=${(event) => (field.value = event.target.value)} ...${blamed(name)}>
      ${options.map((option) => html`<option value=${option} selected=${option === field.value}>${names[option] || option}</option>`)}
    </select>
    <${Problem} name=${name} />
  </div>`;
}

// A part of the panel that opens and shuts, and remembers which.
export function Fold({ name, title, note, open = false, children }) {
  const [shown, setShown] = useState(() => recall(`fold.${name}`, open));
  useEffect(() => keep(`fold.${name}`, shown), [shown]);
  return html`<details class="fold" open=${shown} onToggle=${(event) => setShown(event.target.open)}>
    <summary><span>${title}</span>${note && html`<span class="fold-note">${note}</span>`}</summary>
    <div class="fold-body">${children}</div>
  </details>`;
}
