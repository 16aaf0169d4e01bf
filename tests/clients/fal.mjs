// What a user of @fal-ai/client does, against the server that SOTE_URL names; prints what came back as JSON.
import { fal, ApiError, ValidationError } from "@fal-ai/client";

const app = "fal-ai/stable-cascade/sote-diffusion";
const small = { prompt: "1girl, cat ears", image_size: { width: 128, height: 128 }, seed: 5, first_stage_steps: 4, second_stage_steps: 4 };
const seen = { ...small, first_stage_steps: 50 }; // long enough that a busy machine sees it drawn
const long = { ...small, num_images: 4, first_stage_steps: 50, second_stage_steps: 24 };

fal.config({ proxyUrl: { url: `${process.env.SOTE_URL}/api/fal/proxy`, when: "always" } });

async function failing(call) {
  try {
    await call();
    return null;
  } catch (error) {
    const invalid = error instanceof ValidationError;
    return { known: error instanceof ApiError, status: error.status, fields: invalid ? error.fieldErrors.map((one) => one.loc) : [] };
  }
}

const told = {};
told.run = (await fal.run(app, { input: small })).data;

const states = new Set();
const polled = await fal.subscribe(app, { input: small, logs: true, pollInterval: 200, onQueueUpdate: (one) => states.add(one.status) });
told.subscribe = { seed: polled.data.seed, id: polled.requestId, states: [...states] };

const watched = await fal.subscribe(app, { input: small, mode: "streaming", onQueueUpdate: () => {} });
told.watched = { seed: watched.data.seed };

const stream = await fal.stream(app, { input: seen });
let events = 0;
for await (const _ of stream) events += 1;
told.stream = { events, seed: (await stream.done()).seed };

const { request_id: requestId } = await fal.queue.submit(app, { input: long, priority: "low" });
told.before = (await fal.queue.status(app, { requestId })).status;
await fal.queue.cancel(app, { requestId });
told.after = (await fal.queue.status(app, { requestId })).status;
told.cancelled = await failing(() => fal.queue.result(app, { requestId }));

told.invalid = await failing(() => fal.run(app, { input: { ...small, first_stage_steps: 99 } }));
told.webhook = await failing(() => fal.queue.submit(app, { input: small, webhookUrl: "https://example.com/hook" }));

console.log(JSON.stringify(told));
