// The one road from the form to a picture on the stage.
import { form, order } from "./form.js";
import { finished, generate } from "./jobs.js";
import { watch } from "./view.js";

const sending = new Set(); // orders whose answer is awaited; the same again meanwhile is a press too many

export async function draw() {
  const asked = JSON.stringify(await order());
  if (sending.has(asked)) return;
  sending.add(asked);
  try {
    const job = await generate();
    if (job) watch(job);
  } finally {
    sending.delete(asked);
  }
}

finished.addEventListener("job", ({ detail: job }) => {
  if (job.pictures?.length) form.lastSeed.value = job.pictures[0].seed;
});
