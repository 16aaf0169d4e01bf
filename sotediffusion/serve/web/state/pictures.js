// Picture files on their way in and out: read for image-to-image, fetched from the gallery, saved to disk.
import { recallFrom } from "./about.js";
import { get } from "./api.js";
import { init, take } from "./form.js";
import { fail, note } from "./notices.js";
import { label, originName } from "./words.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 9e6; // bytes; larger ones are sent again as they look

export async function startFrom(file, name = file.name) {
  try {
    if (!KINDS.includes(file.type)) throw new Error(`${name || "That file"} is no PNG, JPEG or WebP picture; choose one of these.`);
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error(`${name || "That file"} cannot be read as a picture; choose another one.`);
    });
    const sent = file.size > LARGEST ? await smaller(bitmap) : file;
    init.value = { name: name || "picture", bitmap, width: bitmap.width, height: bitmap.height, data: await dataUrl(sent) };
    note(`${init.value.name} is the picture to start from`);
  } catch (error) {
    fail(error);
  }
}

export async function startFromPicture(picture) {
  try {
    await startFrom(await bytes(picture), `${picture.width} × ${picture.height}, seed ${picture.seed}`);
  } catch (error) {
    fail(error);
  }
}

async function bytes(picture) {
  const answer = await fetch(picture.url);
  if (answer.ok) return answer.blob();
  const fresh = (await get(`jobs/${picture.job.id}`)).pictures.find((one) => one.name === picture.name);
  return (await fetch(fresh.url)).blob();
}

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

// Take over the settings that a picture file carries, whoever wrote them.
export async function recallSettings(file) {
  try {
    const found = await recallFrom(file);
    const taken = take(found.settings || {});
    if (!taken.length) return note(`${file.name || "That picture"} carries no settings that can be read`, { kind: "error" });
    const by = found.origin ? `, written by ${originName(found.origin)}` : "";
    const left = found.notes?.length ? `. ${found.notes.join(" ")}` : "";
    return note(`Settings taken${by}: ${taken.map((name) => label(name).toLowerCase()).join(", ")}${left}`, { stays: found.notes?.length ? 14000 : 7000 });
  } catch (error) {
    return fail(error);
  }
}

export function download(picture) {
  const url = new URL(picture.url, document.baseURI);
  url.searchParams.set("download", "1");
  save(url.href, `${picture.seed}.${(picture.type || "image/png").split("/")[1]}`);
}

export function save(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}

export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
