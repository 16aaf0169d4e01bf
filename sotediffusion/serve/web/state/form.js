// The settings of the next picture: one signal a field, kept on reload, and the way to an order and back.
import { batch, computed, effect, signal } from "../vendor/ui.js";
import { about, locked, modelNamed, styles, stylesTold } from "./about.js";
import { keep, keptElsewhere, recall } from "./kept.js";
import { splitLoras, withStyles } from "./prompt-text.js";

const NUMBERS = [
  "width", "height", "steps", "guidance", "decoder_steps", "decoder_guidance", "shift", "decoder_shift", "rescale",
  "compression", "seed", "count", "strength",
];
const CHOICES = ["sampler", "decoder_sampler", "schedule", "decoder_schedule"];
const TEXTS = ["prompt", "negative"];
const OPTIONAL = ["width", "height", "compression", "seed"]; // null leaves them to the model or to chance
const WORDS = [...TEXTS, ...CHOICES, "model"];
const LISTS = { loras: named, styles: named, chosenStyles: (one) => typeof one === "string" }; // and what is in each
const FIELDS = [...TEXTS, ...NUMBERS, ...CHOICES];

const kept = recall("settings", {});
export const form = Object.fromEntries(
  [...FIELDS, "model", "lastSeed", ...Object.keys(LISTS)].map((name) => [name, signal(sound(name, kept[name]))]),
);
export const init = signal(null); // { name, bitmap, width, height, data } of the picture to start from
export const problem = signal(null); // the field that the server refused, { field, message }

function named(one) {
  return typeof one?.name === "string";
}

// A kept value, or what stands for none where it cannot be this field's.
function sound(name, value) {
  if (name in LISTS) return Array.isArray(value) ? value.filter(LISTS[name]) : [];
  return typeof value === (WORDS.includes(name) ? "string" : "number") ? value : null;
}

// One's own styles are those of all tabs: a tab that keeps its form does not undo what was saved in another.
keptElsewhere("settings", {}, ({ styles }) => {
  const told = sound("styles", styles);
  if (JSON.stringify(told) !== JSON.stringify(form.styles.peek())) form.styles.value = told; // else both would keep for ever
});

export const model = computed(() => modelNamed(form.model.value));
export const measures = computed(() => ({
  width: form.width.value ?? model.value?.width ?? 1024,
  height: form.height.value ?? model.value?.height ?? 1536,
}));
// The server's styles and one's own; an own one stands instead of the server's of that name.
export const allStyles = computed(() => {
  const own = form.styles.value.map((style) => ({ ...style, own: true }));
  return [...styles.value.filter((style) => !own.some((one) => one.name === style.name)), ...own];
});

export function usual(name) {
  const { defaults = {}, prompts = {} } = about.value || {};
  if (name === "prompt") return begun(prompts.prefix);
  if (name === "negative") return begun(prompts.negative);
  return defaults[name] ?? null;
}

// A text to go on from: a space after its last comma.
export const begun = (text = "") => (text && !/\s$/.test(text) ? `${text} ` : text);

// What was never set takes the card's values in the moment they are known, before anybody can see or change a field.
effect(() => {
  if (!about.value) return;
  batch(() => {
    for (const name of FIELDS) {
      if (form[name].peek() === null && !OPTIONAL.includes(name)) form[name].value = usual(name);
    }
    if (!about.value.models.some((one) => one.name === form.model.peek())) form.model.value = about.value.models[0]?.name ?? null;
  });
});

let turn = 0; // of choosing what to start from

// The picture that `coming` brings is started from, unless another one or none was chosen meanwhile. Gives whether.
export async function startWith(coming) {
  const mine = ++turn;
  const picture = await coming;
  if (mine === turn) init.value = picture;
  return mine === turn;
}

export function startWithout() {
  turn++;
  init.value = null;
}

effect(() => void (locked.value && startWithout())); // another owner may come

export function reset() {
  batch(() => {
    for (const name of [...NUMBERS, ...CHOICES]) form[name].value = usual(name);
    form.chosenStyles.value = [];
    form.loras.value = [];
    startWithout();
    problem.value = null;
  });
}

let timer;
effect(() => {
  const values = Object.fromEntries(Object.entries(form).map(([name, field]) => [name, field.value]));
  clearTimeout(timer);
  timer = setTimeout(() => keep("settings", values), 150);
});
addEventListener("pagehide", () => {
  keep("settings", Object.fromEntries(Object.entries(form).map(([name, field]) => [name, field.peek()])));
});

export function spoken(field, text = form[field].value || "", names = form.chosenStyles.value) {
  return withStyles(text, allStyles.value.filter((style) => names.includes(style.name)), field);
}

// The body of POST jobs, of what is set when it is called for; only what the chosen styles say may have to be waited for.
// `changes` are fields that one picture of a grid has otherwise.
export async function order(changes = {}) {
  const now = Object.fromEntries(Object.entries(form).map(([name, field]) => [name, field.value]));
  const start = init.value;
  await stylesTold;
  const body = { model: now.model };
  for (const name of FIELDS) if (now[name] !== null && now[name] !== "") body[name] = now[name];
  Object.assign(body, changes);
  const said = splitLoras(spoken("prompt", body.prompt ?? "", now.chosenStyles));
  body.prompt = said.text;
  body.negative = spoken("negative", body.negative ?? "", now.chosenStyles);
  const loras = [...now.loras, ...said.loras].filter((lora) => lora.name && lora.weight);
  if (loras.length) body.loras = loras;
  if (start) body.init = start.data;
  else delete body.strength;
  return body;
}

// Take over the settings of a picture. Gives the names of what was taken.
export function take(settings, { seed = true } = {}) {
  const taken = [];
  batch(() => {
    for (const name of FIELDS) {
      if (name === "count" || (name === "seed" && !seed) || settings[name] === undefined) continue;
      if (settings[name] === null && !OPTIONAL.includes(name)) continue;
      if (!fits(name, settings[name])) continue;
      form[name].value = settings[name];
      taken.push(name);
    }
    if (about.value?.models.some((one) => one.name === settings.model)) form.model.value = settings.model;
    if (Array.isArray(settings.loras)) form.loras.value = known(settings.loras);
    if (TEXTS.some((name) => settings[name] !== undefined)) form.chosenStyles.value = []; // they are in the prompt already
    problem.value = null;
  });
  return taken;
}

function fits(name, value) {
  if (TEXTS.includes(name)) return typeof value === "string";
  if (NUMBERS.includes(name)) return value === null || (typeof value === "number" && isFinite(value));
  return (name.endsWith("sampler") ? about.value.samplers : about.value.schedules).includes(value);
}

function known(loras) {
  const here = modelNamed(form.model.value)?.loras || [];
  return loras.map(pair).filter((lora) => here.some((name) => loraName(name) === lora.name));
}

const pair = (lora) => (Array.isArray(lora) ? { name: String(lora[0]), weight: Number(lora[1]) } : { name: String(lora.name), weight: Number(lora.weight) });

export const loraName = (lora) => (typeof lora === "string" ? lora : lora.name);
