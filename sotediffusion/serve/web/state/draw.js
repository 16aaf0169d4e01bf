// The one road from the form to a picture on the stage.
import { batch } from "../vendor/ui.js";
import { post, unanswered } from "./api.js";
import { form, init, order, problem } from "./form.js";
import { finished, ordered } from "./jobs.js";
import { note, say } from "./notices.js";
import { toStage, view } from "./view.js";
import { label, plural, sentence } from "./words.js";

export const newKey = () => crypto.randomUUID?.() || `${Date.now()}-${Math.random()}`;

const sending = new Set(); // orders whose answer is awaited; the same again meanwhile is a press too many
const lost = new Map(); // orders whose answer never came, with their keys: the same again is the same order

export async function draw() {
  if (!form.prompt.value?.trim()) {
    problem.value = { field: "prompt", message: "Write what should be drawn, for example 1girl, solo, cat ears." };
    return;
  }
  toStage();
  const body = await order();
  const asked = JSON.stringify(body);
  if (sending.has(asked)) return void note("It is on its way to the server");
  const key = lost.get(asked) || newKey();
  sending.add(asked);
  lost.delete(asked);
  try {
    const job = await submit(body, key);
    job.notes?.forEach((text) => note(sentence(text)));
    say(job.position ? `In the queue, ${plural(job.position, "job")} before it` : "In the queue");
    view.following.value = job.id;
  } catch (error) {
    if (unanswered(error)) lost.set(asked, key);
    refused(error);
  }
  sending.delete(asked);
}

// Order one job. Throws Refusal. An order sent again with its key stays one.
export async function submit(body, key) {
  const job = await post("jobs", body, { "Idempotency-Key": key });
  batch(() => {
    problem.value = null;
    ordered(job);
  });
  return job;
}

export function refused(error) {
  const wait = error.status === 429 && error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const own = error.field && error.field in { ...form, init };
  note(`${own ? `${label(error.field)}: ` : ""}${error.message}${wait}`, { kind: "error" });
  if (!own) return;
  problem.value = { field: error.field, message: error.message };
  view.room.value = "compose";
  setTimeout(() => document.getElementById(error.field)?.scrollIntoView({ block: "nearest" })); // when its room is shown
}

finished.addEventListener("job", ({ detail: job }) => {
  if (job.pictures?.length) form.lastSeed.value = job.pictures[0].seed;
});
