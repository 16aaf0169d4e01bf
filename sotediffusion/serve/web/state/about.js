// What the server is and has: models, limits, words for prompts, styles and wildcards; and who the caller is.
import { computed, signal } from "../vendor/ui.js";
import { call, get, post, refused, remove } from "./api.js";
import { fail, flush } from "./notices.js";

export const about = signal(null);
export const trouble = signal(null); // why the server could not be asked
export const styles = signal([]);
export const wildcards = signal([]); // { name, values }; the server fills them in
let told;
export const stylesTold = new Promise((resolve) => (told = resolve)); // when the server has once been asked for its styles
export const locked = computed(() => Boolean(about.value?.key && !about.value.scopes?.length));

export async function load() {
  try {
    about.value = await get("about");
    trouble.value = null;
  } catch (error) {
    trouble.value = error;
    return;
  }
  if (!locked.value) await Promise.all([loadStyles(), loadWildcards()]);
}

// Files come and go while the page is open; who comes back to it finds the new ones.
export async function lookAgain() {
  if (!about.value) return;
  if (locked.value) return load(); // signed in again in another tab, perhaps
  about.value = await get("about").catch(() => about.value);
  await Promise.all([loadStyles(), loadWildcards()]);
}

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && lookAgain());

// What was known stays where the server cannot be asked.
async function loadStyles() {
  const found = await get("styles").catch(() => null);
  if (found) styles.value = found.styles || [];
  told();
}

async function loadWildcards() {
  const found = await get("wildcards").catch(() => null);
  if (found) wildcards.value = Object.entries(found.wildcards || {}).map(([name, values]) => ({ name, values }));
}

refused.addEventListener("key", () => !locked.value && load());

export async function signIn(key) {
  await post("session", { key });
  await load();
  if (trouble.value) throw trouble.value;
}

export async function signOut() {
  try {
    await flush(); // while the server still knows whose these are
    await remove("session");
    location.reload();
  } catch (error) {
    fail(error);
  }
}

export const modelNamed = (name) => about.value?.models.find((model) => model.name === name) || about.value?.models[0];
export const recallFrom = (file) => call("POST", "settings", file);

// Sizes that suit a model: the card's where the model is as large, else the same shapes at the model's own area.
export function sizesOf(model) {
  const wanted = about.value?.prompts.sizes || [];
  if (!model) return wanted;
  const own = [model.width, model.height];
  const area = model.width * model.height;
  const near = wanted.some(([wide, high]) => wide * high >= area / 2 && wide * high <= area * 2);
  const sizes = near ? wanted.filter(([wide, high]) => wide * high <= (model.max_pixels || Infinity)) : wanted.map(scaled(area));
  const all = [own, ...sizes].map(([wide, high]) => `${wide}x${high}`);
  return [...new Set(all)].map((text) => text.split("x").map(Number));
}

const scaled = (area) => ([wide, high]) => {
  const factor = Math.sqrt(area / (wide * high));
  return [wide, high].map((side) => Math.max(64, Math.round((side * factor) / 32) * 32));
};
