// Picture files on their way in and out: read for image-to-image, fetched from the gallery, saved to disk.
import { recallFrom } from "./about.js";
import { get } from "./api.js";
import { form, init, startWith, startWithout, take } from "./form.js";
import { fail, note } from "./notices.js";
import { label, originName } from "./words.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 9e6; // bytes; larger ones are sent again as they look

export const startFrom = (file, name = file.name) => begin(read(file, name));
export const startFromPicture = (picture) =>
  begin(bytes(picture).then((file) => read(file, `${picture.width} × ${picture.height}, seed ${picture.seed}`)));

async function begin(coming) {
  try {
    if (await startWith(coming)) note(`${init.value.name} is the picture to start from`);
  } catch (error) {
    fail(error);
  }
}

async function read(file, name) {
  if (!KINDS.includes(file.type)) throw new Error(`${name || "That file"} is no PNG, JPEG or WebP picture; choose one of these.`);
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${name || "That file"} cannot be read as a picture; choose another one.`);
  });
  const sent = file.size > LARGEST ? await smaller(bitmap) : file;
  return { name: name || "picture", bitmap, width: bitmap.width, height: bitmap.height, data: await dataUrl(sent) };
}

// A picture's file; where its address has expired a fresh one is asked for.
export async function bytes(picture) {
  const answer = await fetched(picture.url);
  if (answer?.ok) return answer.blob();
  const fresh = (await get(`jobs/${picture.job.id}`)).pictures?.find((one) => one.name === picture.name);
  const again = fresh && (await fetched(fresh.url));
  if (!again?.ok) throw new Error("The picture cannot be fetched; it may have been deleted.");
  return again.blob();
}

const fetched = (url) => fetch(url).catch(() => null);

async function smaller(bitmap) {
  const scale = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

let recalled = 0; // how often settings were taken over: what was asked for before comes too late

// Take over the settings that a picture file carries, whoever wrote them; fields that were changed meanwhile stay.
export async function recallSettings(file) {
  const turn = ++recalled;
  const before = Object.fromEntries(Object.entries(form).map(([name, field]) => [name, field.value]));
  try {
    const found = await recallFrom(file);
    if (turn !== recalled) return null;
    const untouched = Object.entries(found.settings || {}).filter(([name]) => form[name]?.value === before[name]);
    const taken = take(Object.fromEntries(untouched));
    if (!taken.length) return note(`${file.name || "That picture"} carries no settings that can be read`, { kind: "error" });
    const by = found.origin ? `, written by ${originName(found.origin)}` : "";
    const left = found.notes?.length ? `. ${found.notes.join(" ")}` : "";
    return note(`Settings taken${by}: ${taken.map((name) => label(name).toLowerCase()).join(", ")}${left}`, { stays: found.notes?.length ? 14000 : 7000 });
  } catch (error) {
    return fail(error);
  }
}

// Take over those of a picture in the gallery, its seed too. What it started from nobody keeps.
export function useSettings({ settings, job, seed }) {
  recalled++;
  take({ ...settings, loras: settings.loras ?? job.loras, model: job.model, seed });
  if (!job.request.init) startWithout();
  note(`Its settings are in the form, its seed too${job.request.init ? "; it started from a picture, which is to be chosen again" : ""}`);
}

export async function download(picture) {
  try {
    saveBlob(await bytes(picture), `${picture.seed}.${(picture.type || "image/png").split("/")[1]}`);
  } catch (error) {
    fail(error);
  }
}

export function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
