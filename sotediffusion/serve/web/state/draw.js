// The one road from the form to a picture on the stage.
import { form } from "./form.js";
import { finished, generate } from "./jobs.js";
import { watch } from "./view.js";

let busy = false;

export async function draw() {
  if (busy) return;
  busy = true;
  try {
    const job = await generate();
    if (job) watch(job);
  } finally {
    busy = false;
  }
}

finished.addEventListener("job", ({ detail: job }) => {
  if (job.pictures?.length) form.lastSeed.value = job.pictures[0].seed;
});
