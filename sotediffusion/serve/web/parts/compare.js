// Two pictures over each other behind a slider, or side by side, and the settings in which they differ.
import { html, useEffect, useState } from "../vendor/ui.js";
import { seenPictures } from "../state/jobs.js";
import { shut } from "../state/view.js";
import { label } from "../state/words.js";
import { Dialog } from "./dialog.js";
import { Picture } from "./picture.js";

export function Compare({ names }) {
  const [cut, setCut] = useState(50);
  const [beside, setBeside] = useState(false);
  const [left, right] = names.map((name) => seenPictures.value.find((one) => one.name === name));
  const whole = Boolean(left && right);
  useEffect(() => {
    if (!whole) shut(); // one of them was deleted
  }, [whole]);
  if (!whole) return null;
  return html`<${Dialog} kind="compare" title="Compare two pictures">
    <div class=${`compare-field ${beside ? "beside" : "over"}`} style=${{ "--cut": `${cut}%`, "--wide": left.width, "--high": left.height }}>
      <figure class="compare-left"><${Picture} picture=${left} /><figcaption>A, seed ${left.seed}</figcaption></figure>
      <figure class="compare-right"><${Picture} picture=${right} /><figcaption>B, seed ${right.seed}</figcaption></figure>
    </div>
    <div class="compare-tools">
      ${!beside && html`<input type="range" min="0" max="100" value=${cut} style=${{ "--at": `${cut}%` }} aria-label="Where A ends and B begins" onInput=${(event) => setCut(Number(event.target.value))} />`}
      <button type="button" class="small" aria-pressed=${String(beside)} onClick=${() => setBeside(!beside)}>Side by side</button>
    </div>
    <${Differences} left=${left} right=${right} />
  </${Dialog}>`;
}

const OWN = ["hashes", "version", "software", "digital_source_type", "ai_generated", "license", "count"];

function Differences({ left, right }) {
  const all = [left, right].map((one) => ({ ...one.job.request, ...one.settings, model: one.job.model, seed: one.seed }));
  const names = [...new Set(all.flatMap(Object.keys))].filter((name) => !OWN.includes(name) && JSON.stringify(all[0][name]) !== JSON.stringify(all[1][name]));
  if (!names.length) return html`<p class="hint">They have the same settings.</p>`;
  const shown = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
  return html`<table class="differences"><thead><tr><th scope="col"></th><th scope="col">A</th><th scope="col">B</th></tr></thead>
    <tbody>${names.map((name) => html`<tr key=${name}><th scope="row">${label(name)}</th><td>${shown(all[0][name])}</td><td>${shown(all[1][name])}</td></tr>`)}</tbody></table>`;
}
