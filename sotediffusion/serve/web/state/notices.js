// What the page says beside its pictures: short notes that pass, and lines for screen readers.
import { signal } from "../vendor/ui.js";

export const notices = signal([]);
export const spokenLine = signal(""); // read out when there is time
export const alarm = signal(""); // read out at once

let last = 0;

// A note; `action` is { label, run } and `done` runs when the note goes without it.
export function note(text, { kind = "info", action = null, done = null, stays = kind === "error" ? 12000 : 5000 } = {}) {
  const id = ++last;
  const timer = setTimeout(() => dismiss(id), stays);
  notices.value.slice(0, -3).forEach((one) => dismiss(one.id)); // what one held back is done when it goes
  notices.value = [...notices.value, { id, text, kind, action, done, timer }];
  (kind === "error" ? alarm : spokenLine).value = text;
  return id;
}

export function dismiss(id, acted = false) {
  const found = notices.value.find((one) => one.id === id);
  if (!found) return null;
  clearTimeout(found.timer);
  notices.value = notices.value.filter((one) => one.id !== id);
  return acted ? null : found.done?.();
}

// The same line twice in a row is read out twice: an invisible space makes it another text.
export const say = (text) => (spokenLine.value = spokenLine.peek() === text ? `${text}\u200b` : text);
export const fail = (error) => note(error.message || String(error), { kind: "error" });

// The page is left: what a note still held back is done now.
export const flush = () => Promise.all(notices.value.map((one) => dismiss(one.id)));
