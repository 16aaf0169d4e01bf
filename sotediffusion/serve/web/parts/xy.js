// The dialog of X/Y grids: what changes along each side, the pictures in a table, and the sheet as one file.
import { html, useEffect, useMemo, useState } from "../vendor/ui.js";
import { fail, note } from "../state/notices.js";
import { saveBlob } from "../state/pictures.js";
import { keep, recall } from "../state/kept.js";
import { percent } from "../state/words.js";
import { AXES, axisName, cells, choices, drawGrid, fetchCells, forgetGrid, grids, usable, valueName, valuesOf } from "../state/xy.js";
import { open } from "../state/view.js";
import { sheetOf } from "./sheet.js";
import { Dialog } from "./dialog.js";
import { Picture } from "./picture.js";

const EXAMPLES = { steps: "20-40:10", guidance: "4, 7, 10", decoder_steps: "5, 10, 20", decoder_guidance: "1, 2", seed: "1-4", shift: "1, 2",
  rescale: "0, 0.7", compression: "32, 42", strength: "0.3, 0.6, 0.9", replace: "cat ears, fox ears, rabbit ears" };

const USUAL = { x: { field: "guidance", text: "4, 7, 10" }, y: { field: "steps", text: "20, 30" } };

function lastAxes() {
  const axes = recall("axes", USUAL);
  return usable(axes) ? axes : USUAL;
}

export function Grids() {
  const [axes, setAxes] = useState(lastAxes);
  const [at, setAt] = useState(0);
  const set = (side, change) => {
    const next = { ...axes, [side]: { ...axes[side], ...change } };
    setAxes(next);
    keep("axes", next);
  };
  const go = async (event) => {
    event.preventDefault();
    setAt(0);
    await drawGrid(axes.x, axes.y).catch(fail);
  };
  const grid = grids.value[Math.min(at, grids.value.length - 1)];
  return html`<${Dialog} kind="xy" title="X/Y grid">
    <form class="axes" onSubmit=${go}>
      <${Axis} side="x" title="Across" axis=${axes.x} set=${set} /><${Axis} side="y" title="Down" axis=${axes.y} set=${set} />
      <button type="submit" class="primary">${count(axes)}</button>
    </form>
    ${grid && html`<${Sheet} key=${grid.id} grid=${grid} />`}
    ${grids.value.length > 1 && html`<p class="hint earlier">Earlier grids ${grids.value.map((one, place) => html` <button type="button" class="small" aria-pressed=${String(one === grid)} onClick=${() => setAt(place)}>${axisName(one.x.field)} × ${axisName(one.y.field)}</button>`)}</p>`}
  </${Dialog}>`;
}

function count({ x, y }) {
  try {
    const all = valuesOf(x.field, x.text).length * valuesOf(y.field, y.text).length;
    return `Draw ${all} picture${all === 1 ? "" : "s"}`;
  } catch {
    return "Draw";
  }
}

function Axis({ side, title, axis, set }) {
  const known = choices(axis.field);
  const change = (event) => set(side, { field: event.target.value, text: EXAMPLES[event.target.value] ?? choices(event.target.value).slice(0, 3).join(", ") });
  return html`<div class="axis">
    <label for=${`axis-${side}`}>${title}</label>
    <select id=${`axis-${side}`} onChange=${change}>${Object.keys(AXES).map((field) => html`<option value=${field} selected=${field === axis.field}>${axisName(field)}</option>`)}</select>
    ${axis.field !== "none" && html`<input aria-label=${`Values, ${title.toLowerCase()}`} value=${axis.text} onInput=${(event) => set(side, { text: event.target.value })} />`}
    <p class="hint">${hint(axis.field, known)}</p>
  </div>`;
}

function hint(field, known) {
  if (field === "replace") return "The first is looked for in the prompt; the others take its place";
  if (known.length) return `Of ${known.join(", ")}`;
  return field === "none" ? "One line only" : "Commas between values; 20-40:10 counts from 20 to 40 by tens";
}

function Sheet({ grid }) {
  const table = useMemo(() => cells(grid), [grid]).value;
  const all = table.flat();
  const done = all.filter((cell) => cell.picture).length;
  useEffect(() => void fetchCells(grid), [grid.id]);
  const save = async () => {
    note("Putting the sheet together");
    await sheetOf(grid, table).then((blob) => saveBlob(blob, `grid-${grid.id}.png`), fail);
  };
  return html`<div class="sheet-head"><span class="hint">${done} of ${all.length} pictures</span>
      <button type="button" class="small push" disabled=${!done} onClick=${save}>Download as one picture</button>
      <button type="button" class="small" onClick=${() => forgetGrid(grid.id)}>Forget this grid</button></div>
    <div class="sheet-table" tabindex="0" role="region" aria-label="Grid of pictures"><table>
      <thead><tr><td></td>${grid.x.values.map((value) => html`<th scope="col">${heading(grid.x.field, value)}</th>`)}</tr></thead>
      <tbody>${table.map((line, row) => html`<tr><th scope="row">${heading(grid.y.field, grid.y.values[row])}</th>${line.map((cell) => html`<td><${Cell} cell=${cell} /></td>`)}</tr>`)}</tbody>
    </table></div>`;
}

const heading = (field, value) => (field === "none" ? "" : html`<span class="hint">${axisName(field)}</span> ${valueName(field, value)}`);

function Cell({ cell }) {
  if (cell.picture) return html`<button type="button" class="cell" aria-label="Look at it in full size" onClick=${() => open({ kind: "viewer", name: cell.picture.name })}><${Picture} picture=${cell.picture} width=${256} loading="lazy" /></button>`;
  return html`<div class="cell waiting">${!cell.job ? (cell.id ? "not drawn" : "") : cell.job.state === "running" ? percent(cell.job) : "waits"}</div>`;
}
