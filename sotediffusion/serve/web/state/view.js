// What is looked at: the picture on the stage, dialogs, the room that a phone shows, light or dark.
import { batch, computed, effect, signal } from "../vendor/ui.js";
import { locked } from "./about.js";
import { pictures, queue, seenPictures } from "./jobs.js";
import { keep, recall } from "./kept.js";

export const view = {
  shown: signal(null), // name of the picture on the stage; null follows what is being drawn
  following: signal(null), // id of the job that was last told of
  dialog: signal(null), // { kind, ... }
  room: signal("compose"), // compose, stage or gallery: what a phone shows
  wide: signal(false), // the gallery takes the stage's place
  marked: signal([]), // names of pictures that are selected
  theme: signal(recall("theme", "auto")),
};

// What stands on the stage: { job } while it is drawn, { picture } when it is there, null before the first.
export const stage = computed(() => {
  const { shown, following } = view;
  if (shown.value) {
    const picture = seenPictures.value.find((one) => one.name === shown.value);
    if (picture) return { picture };
  }
  const live = queue.value.find((job) => job.state === "running") || queue.value.find((job) => job.id === following.value);
  if (live) return { job: live };
  const latest = seenPictures.value.find((one) => one.job.id === following.value) || pictures.value[0];
  return latest ? { picture: latest } : null;
});

// The same name at every step of a drawing, so that the gallery is not made anew with each.
export const shownName = computed(() => stage.value?.picture?.name ?? null);

// What is gone is marked no more.
effect(() => {
  const there = new Set(seenPictures.value.map((picture) => picture.name));
  const left = view.marked.peek().filter((name) => there.has(name));
  if (left.length < view.marked.peek().length) view.marked.value = left;
});

// Another owner may come.
effect(() => {
  if (locked.value) batch(() => (view.shown.value = view.following.value = view.dialog.value = null));
});

export function show(picture) {
  view.shown.value = picture.name;
  view.room.value = "stage";
  view.wide.value = false;
}

// To what is being drawn.
export function toStage() {
  view.shown.value = null;
  view.room.value = "stage";
  view.wide.value = false;
}

export function watch(job) {
  toStage();
  view.following.value = job.id;
}

export function turnTheme() {
  const next = { auto: "light", light: "dark", dark: "auto" }[view.theme.value] || "auto";
  view.theme.value = next;
  keep("theme", next);
  document.documentElement.dataset.theme = next;
}

export const open = (dialog) => (view.dialog.value = dialog);
export const shut = () => (view.dialog.value = null);
