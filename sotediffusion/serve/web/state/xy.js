// X/Y grids: one job for each pair of values, all with one seed, and the sheet they make together.
import { computed, signal } from "../vendor/ui.js";
import { about } from "./about.js";
import { get } from "./api.js";
import { form } from "./form.js";
import { live, refused, remember, seen, submit } from "./jobs.js";
import { keep, recall } from "./kept.js";
import { note } from "./notices.js";
import { LABELS, valueWords } from "./words.js";

export const MOST = 64;
export const AXES = {
  none: { name: "Nothing" }, steps: { whole: true }, guidance: {}, decoder_steps: { whole: true }, decoder_guidance: {},
  sampler: { words: true }, schedule: { words: true }, decoder_sampler: { words: true }, decoder_schedule: { words: true },
  shift: {}, rescale: {}, compression: {}, strength: {}, seed: { whole: true }, model: { words: true },
  replace: { name: "Words of the prompt", words: true },
};
export const axisName = (field) => AXES[field].name || LABELS[field] || field;

export const grids = signal(recall("grids", []));
const kept = (list) => keep("grids", (grids.value = list.slice(0, 8)));

export function choices(field) {
  if (field === "model") return about.value.models.map((model) => model.name);
  if (field.endsWith("sampler")) return about.value.samplers;
  return field.endsWith("schedule") ? about.value.schedules : [];
}

// "20, 30-50:10" becomes 20, 30, 40, 50; words are what stands between commas. Throws a sentence.
export function valuesOf(field, text) {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  if (field === "none") return [null];
  if (!parts.length) throw new Error(`${axisName(field)}: write values with commas between them.`);
  if (AXES[field].words) return checked(field, parts);
  return parts.flatMap((part) => {
    const range = part.match(/^(\d*\.?\d+)\s*-\s*(\d*\.?\d+)(?:\s*:\s*(\d*\.?\d+))?$/);
    const values = range ? between(...range.slice(1).map((one) => (one === undefined ? 1 : Number(one)))) : [Number(part)];
    if (values.some((value) => !isFinite(value) || (AXES[field].whole && !Number.isInteger(value)))) {
      throw new Error(`${axisName(field)}: ${part} is no ${AXES[field].whole ? "whole " : ""}number.`);
    }
    return values;
  });
}

function checked(field, parts) {
  const known = choices(field);
  const strange = known.length ? parts.find((part) => !known.includes(part)) : null;
  if (strange) throw new Error(`${axisName(field)}: ${strange} is not known; known are ${known.join(", ")}.`);
  return parts;
}

function between(from, to, step) {
  if (!(step > 0) || (to - from) / step > MOST) return [NaN];
  return Array.from({ length: Math.floor((to - from) / step + 1e-9) + 1 }, (_, at) => Math.round((from + at * step) * 1e6) / 1e6);
}

// The changes that one value of an axis makes; the first of "words" is looked for in the prompt.
function change(field, value, values) {
  if (field === "none") return {};
  if (field !== "replace") return { [field]: value };
  const prompt = form.prompt.value ?? "";
  if (!prompt.includes(values[0])) throw new Error(`The prompt does not have “${values[0]}”, which the first value is looked for by.`);
  return { prompt: prompt.replaceAll(values[0], () => value) };
}

export async function drawGrid(x, y) {
  const columns = valuesOf(x.field, x.text);
  const rows = valuesOf(y.field, y.text);
  if (columns.length * rows.length > MOST) throw new Error(`${columns.length * rows.length} pictures are too many; at most ${MOST} make a grid.`);
  if (x.field === y.field && x.field !== "none") throw new Error("Both axes change the same setting; choose another one.");
  const orders = rows.map((row) => columns.map((column) => ({ count: 1, seed: form.seed.value ?? seed(), ...change(x.field, column, columns), ...change(y.field, row, rows) })));
  const one = orders[0][0].seed;
  const grid = { id: Date.now(), x: { field: x.field, values: columns }, y: { field: y.field, values: rows }, jobs: rows.map(() => columns.map(() => null)) };
  kept([grid, ...grids.value]);
  for (const [row, line] of orders.entries()) {
    for (const [column, changes] of line.entries()) {
      const seeded = x.field === "seed" || y.field === "seed" ? changes : { ...changes, seed: one };
      const job = await patient(seeded);
      if (!job) return grid;
      place(grid.id, row, column, job.id);
    }
  }
  return grid;
}

const seed = () => Math.floor(Math.random() * 2 ** 32);

function place(id, row, column, job) {
  kept(grids.value.map((grid) => (grid.id === id ? { ...grid, jobs: grid.jobs.map((line, at) => (at === row ? line.with(column, job) : line)) } : grid)));
}

// A full queue is waited for; any other refusal ends the grid.
async function patient(changes) {
  for (;;) {
    try {
      return await submit(changes);
    } catch (error) {
      if (error.status !== 429) {
        refused(error);
        return null;
      }
      note(`The queue is full; the grid goes on in ${error.retryAfter || 5} s`);
      await new Promise((resolve) => setTimeout(resolve, (error.retryAfter || 5) * 1000));
    }
  }
}

export const forgetGrid = (id) => kept(grids.value.filter((grid) => grid.id !== id));

// Each cell: { job } while it is made, { picture } when it is there.
export const cells = (grid) => computed(() =>
  grid.jobs.map((line) => line.map((id) => {
    const job = seen.value.get(id);
    return job ? { picture: { ...job.pictures[0], job } } : { job: live.value.get(id) || null, id };
  })),
);

// Jobs of a grid that the gallery has not come to.
export async function fetchCells(grid) {
  const missing = grid.jobs.flat().filter((id) => id && !live.value.has(id) && !seen.value.has(id));
  const jobs = await Promise.all(missing.map((id) => get(`jobs/${id}`).catch(() => ({ id }))));
  if (jobs.length) remember(jobs);
}

export const valueName = (field, value) => (field === "none" ? "" : valueWords(field, value));
