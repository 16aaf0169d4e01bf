// A grid as one picture with its headings, drawn on a canvas.
import { bytes } from "../state/pictures.js";
import { axisName, valueName } from "../state/xy.js";

const CELL = 512; // px, the longer side
const HEAD = 56;

export async function sheetOf(grid, table) {
  const images = await Promise.all(table.map((line) => Promise.all(line.map(({ picture }) => (picture ? load(picture) : null)))));
  const first = images.flat().find(Boolean);
  if (!first) throw new Error("None of the pictures can be fetched; they may have been deleted.");
  const scale = CELL / Math.max(first.width, first.height);
  const [wide, high] = [Math.round(first.width * scale), Math.round(first.height * scale)];
  const left = grid.y.field === "none" ? 0 : 200;
  const canvas = new OffscreenCanvas(left + wide * grid.x.values.length, HEAD + high * grid.y.values.length);
  const pen = canvas.getContext("2d");
  Object.assign(pen, { fillStyle: "#fff" });
  pen.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, { fillStyle: "#222", font: "20px sans-serif", textAlign: "center", textBaseline: "middle" });
  grid.x.values.forEach((value, at) => pen.fillText(title(grid.x.field, value), left + wide * (at + 0.5), HEAD / 2, wide - 8));
  grid.y.values.forEach((value, at) => left && pen.fillText(title(grid.y.field, value), left / 2, HEAD + high * (at + 0.5), left - 8));
  images.forEach((line, row) => line.forEach((image, column) => image && pen.drawImage(image, left + wide * column, HEAD + high * row, wide, high)));
  return canvas.convertToBlob({ type: "image/png" });
}

const title = (field, value) => (field === "none" ? "" : `${axisName(field)} ${valueName(field, value)}`);

const load = (picture) => bytes(picture).then(createImageBitmap).catch(() => null);
