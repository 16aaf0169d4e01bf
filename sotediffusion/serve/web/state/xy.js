// X/Y grids: one job for each pair of values, all with one seed, and the sheet they make together.
import { computed, signal } from "../vendor/ui.js";
import { about } from "./about.js";
import { get, unanswered } from "./api.js";
import { newKey, refused, submit } from "./draw.js";
import { form, order } from "./form.js";
import { live, remember, seen } from "./jobs.js";
import { keep, keptElsewhere, recall } from "./kept.js";
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

export const grids = signal(recall("grids", []).filter(sound));
keptElsewhere("grids", [], (list) => (grids.value = list.filter(sound)));
const kept = (list) => keep("grids", (grids.value = list.slice(0, 8)));

function sound(grid) {
  return Array.isArray(grid?.jobs) && usable(grid) && [grid.x, grid.y].every((axis) => Array.isArray(axis.values));
}

export function usable({ x, y }) {
  return Boolean(AXES[x?.field] && AXES[y?.field]);
}

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

let sending = null; // the id of the grid whose orders are on their way

// All orders are of what is set when this is called, however long it takes until the last is sent.
export async function drawGrid(x, y) {
  if (there(sending)) throw new Error("The last grid is still being sent; forget it, or wait until all its pictures are ordered.");
  const columns = valuesOf(x.field, x.text);
  const rows = valuesOf(y.field, y.text);
  if (columns.length * rows.length > MOST) throw new Error(`${columns.length * rows.length} pictures are too many; at most ${MOST} make a grid.`);
  if (x.field === y.field && x.field !== "none") throw new Error("Both axes change the same setting; choose another one.");
  const one = form.seed.value ?? seed();
  const orders = rows.map((row) => columns.map((column) => order({ count: 1, seed: one, ...change(x.field, column, columns), ...change(y.field, row, rows) })));
  const grid = { id: Date.now(), x: { field: x.field, values: columns }, y: { field: y.field, values: rows }, jobs: rows.map(() => columns.map(() => null)) };
  kept([grid, ...grids.value]);
  sending = grid.id;
  await send(grid.id, orders);
  if (sending === grid.id) sending = null;
}

async function send(id, orders) {
  for (const [row, line] of orders.entries()) {
    for (const [column, body] of line.entries()) {
      const job = await patient(id, await body);
      if (!job) return;
      place(id, row, column, job.id);
    }
  }
}

const there = (id) => grids.value.some((grid) => grid.id === id);
const seed = () => Math.floor(Math.random() * 2 ** 32);

function place(id, row, column, job) {
  kept(grids.value.map((grid) => (grid.id === id ? { ...grid, jobs: grid.jobs.map((line, at) => (at === row ? line.with(column, job) : line)) } : grid)));
}

// A full queue and a broken line are waited for; any other refusal ends the grid, and so does forgetting it.
async function patient(id, body) {
  const key = newKey();
  while (there(id)) {
    try {
      return await submit(body, key);
    } catch (error) {
      if (error.status !== 429 && !unanswered(error)) return void refused(error);
      const wait = error.retryAfter || 5;
      note(`${error.status === 429 ? "The queue is full" : "The server does not answer"}; the grid goes on in ${wait} s`);
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
  return null;
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
  const jobs = await Promise.all(missing.map((id) => get(`jobs/${id}`).catch(() => null)));
  remember(jobs.filter(Boolean));
}

export const valueName = (field, value) => (field === "none" ? "" : valueWords(field, value));
