// What the user does with jobs and pictures: cancel, reorder, favour.
import { get, post, put } from "./api.js";
import { arrived, queue, replaced } from "./jobs.js";
import { fail } from "./notices.js";

export const cancel = (id) => act(async () => arrived(await post(`jobs/${id}/cancel`)));
export const cancelFirst = () => queue.value.length && cancel(queue.value[0].id);
export const cancelAll = () => Promise.all(queue.value.map((job) => cancel(job.id)));

// Put a waiting job before another one, or last.
export const move = (id, before) => act(async () => (await post(`jobs/${id}/move`, { before })).jobs.forEach(arrived));

export const favour = (picture, favourite) =>
  act(async () => replaced(await put(`jobs/${picture.job.id}/favourite`, { picture: picture.name, favourite })));

// Does something, and says what went wrong with it.
async function act(work) {
  try {
    await work();
  } catch (error) {
    fail(error);
  }
}

// What the server says of a job now; asked where the address of one of its pictures no longer holds.
export async function refresh(id) {
  const job = await get(`jobs/${id}`).catch(() => null);
  if (job?.pictures?.length) replaced(job);
}
