// The caller's jobs as the server tells of them: what is waiting or drawn now, what failed, and the gallery.
import { batch, computed, effect, signal } from "../vendor/ui.js";
import { locked, lookAgain } from "./about.js";
import { follow, get, remove } from "./api.js";
import { fail, note, say } from "./notices.js";
import { phaseName, plural } from "./words.js";

const PAGE = 40;

export const live = signal(new Map()); // queued and running, by id
export const failed = signal([]); // ended without pictures, until dismissed
export const gallery = signal([]); // jobs with pictures, the latest first, as far as they are loaded and searched for
export const seen = signal(new Map()); // all jobs with pictures that were told of, by id, whatever the gallery shows now
export const more = signal(null); // where the gallery goes on
export const loading = signal(true); // or still to be asked for
export const search = signal("");
export const favouritesOnly = signal(false);
export const online = signal(true);
const mine = signal([]); // ids that this page ordered, in order
export const hidden = signal(new Set()); // deleted here, the server not told yet

export const queue = computed(() =>
  [...live.value.values()].sort((a, b) => (a.state === "running" ? -1 : a.position ?? 1e9) - (b.state === "running" ? -1 : b.position ?? 1e9) || a.created - b.created),
);
export const running = computed(() => queue.value.find((job) => job.state === "running") || null);
export const pictures = computed(() => picturesOf(gallery.value).filter((picture) => !favouritesOnly.value || picture.favourite));
export const seenPictures = computed(() => picturesOf([...seen.value.values()]));

function picturesOf(jobs) {
  const all = jobs.flatMap((job) => (job.pictures || []).map((picture) => ({ ...picture, job })));
  return all.filter((picture) => !hidden.value.has(picture.name));
}

const last = new Map(); // jobs as they were last heard of, by id
const HEARD = 5000; // of them at most

// Whether that is not overtaken by what was heard of the job before.
function latest(job) {
  if (last.get(job.id)?.version > job.version) return false;
  last.delete(job.id);
  last.set(job.id, job);
  if (last.size > HEARD) last.delete(last.keys().next().value);
  return true;
}

export function remember(jobs) {
  const now = new Map(seen.value);
  for (const job of jobs.filter(latest)) job.pictures?.length ? now.set(job.id, job) : now.delete(job.id);
  seen.value = now;
}

let told = new Set(); // ids that news came of since `catchUp` last asked: younger than its answer
let news = new Set(); // the same since the gallery was last asked for

// Another owner may come: nothing of the earlier one's is shown, and no answer to him counts.
effect(() => {
  if (!locked.value) return;
  batch(() => {
    told = new Set();
    news = new Set();
    live.value = seen.value = new Map();
    gallery.value = failed.value = mine.value = [];
    more.value = null;
    loading.value = true;
  });
  last.clear();
});

export const finished = new EventTarget(); // tells "job" when one of this page ended

const LIVE = ["queued", "running"];

export function start() {
  return follow({
    open: () => {
      if (!online.value) lookAgain();
      online.value = true;
      catchUp();
      refreshGallery();
    },
    lost: () => {
      online.value = false;
      get("jobs?limit=1").catch(() => null); // where a key is wanted by now, this tells so
    },
    job: arrived,
    gone: ({ id }) => forget(id),
  });
}

function heard(id) {
  told.add(id);
  news.add(id);
}

async function catchUp() {
  const since = (told = new Set());
  try {
    const asked = await Promise.all(LIVE.map((state) => get(`jobs?state=${state}&limit=200`))); // all that wait may be newer than what runs
    if (since !== told) return; // asked again meanwhile
    const now = asked.flatMap(({ jobs }) => jobs).filter((job) => !told.has(job.id)).filter(latest);
    const unheard = [...live.value.keys()].filter((id) => !told.has(id) && !now.some((job) => job.id === id));
    live.value = new Map([...live.value, ...now.map((job) => [job.id, job])]);
    unheard.forEach(lookAfter);
  } catch (error) {
    if (error.status !== 401) fail(error);
  }
}

// What became of a job that is no longer live.
const lookAfter = (id) => get(`jobs/${id}`).then(arrived, (error) => error.status === 404 && forget(id));

async function load(rest, shown) {
  const since = (news = new Set());
  const asked = query();
  loading.value = true;
  try {
    const { jobs, next } = await get(`jobs?${asked}${rest}`);
    if (since !== news) return; // asked again meanwhile
    const settled = (job) => !news.has(job.id);
    batch(() => {
      remember(jobs.filter(settled));
      const younger = [...news].map((id) => seen.value.get(id)).filter((job) => job && wanted(job));
      const found = shown(jobs.filter((job) => job.pictures?.length), next);
      gallery.value = latestFirst([...found.jobs.filter(settled), ...younger]);
      more.value = found.next;
      loading.value = false;
    });
    answered = asked;
    trouble = false;
  } catch (error) {
    if (since !== news || error.status === 401) return;
    if (error.field === "before") return void reload(); // what it went on behind was deleted elsewhere
    if (!trouble) fail(error);
    loading.value = trouble = passing(error);
    if (trouble) setTimeout(() => since === news && load(rest, shown), 5000);
  }
}

let answered = ""; // the question whose answer the gallery shows
let trouble = false; // the last question failed, which was told, and is asked again
const passing = (error) => error.status < 400 || error.status >= 429;

export const reload = () => load("", (jobs, next) => ({ jobs, next }));

// What is earlier than the answer stays as far as it was loaded.
const refreshGallery = () => load("", (jobs, next) => {
  const end = jobs.at(-1);
  const earlier = next && answered === query() ? gallery.value.filter((job) => job.created < end.created) : [];
  return earlier.length ? { jobs: [...jobs, ...earlier], next: more.value } : { jobs, next };
});

export async function loadMore() {
  if (!more.value || loading.value) return;
  await load(`&before=${more.value}`, (jobs, next) => {
    const here = new Set(gallery.value.map((job) => job.id));
    return { jobs: [...gallery.value, ...jobs.filter((job) => !here.has(job.id))], next };
  });
}

function query() {
  const asked = new URLSearchParams({ state: "succeeded", limit: PAGE });
  if (search.value.trim()) asked.set("q", search.value.trim());
  if (favouritesOnly.value) asked.set("favourite", "true");
  return asked.toString();
}

// A job as it is now. Old news is dropped; the end of one is told.
export function arrived(job) {
  const known = last.get(job.id);
  if (!latest(job)) return;
  heard(job.id);
  batch(() => {
    const now = new Map(live.value);
    if (LIVE.includes(job.state)) now.set(job.id, job);
    else now.delete(job.id);
    live.value = now;
    if (!LIVE.includes(job.state)) ended(job, known);
  });
  if (mine.value.includes(job.id)) tell(job, known);
}

const latestFirst = (jobs) => jobs.sort((a, b) => b.created - a.created);

// A job's pictures as they are now, in the gallery if it is to show them.
function place(told) {
  remember([told]);
  const job = seen.value.get(told.id);
  const at = gallery.value.findIndex((one) => one.id === told.id);
  if (at >= 0) gallery.value = job ? gallery.value.with(at, job) : gallery.value.toSpliced(at, 1);
  else if (job && wanted(job)) gallery.value = latestFirst([job, ...gallery.value]);
}

function ended(job, known) {
  place(job);
  const fresh = known && LIVE.includes(known.state);
  if (fresh && ["failed", "expired"].includes(job.state)) failed.value = [job, ...failed.value.filter((one) => one.id !== job.id)].slice(0, 20);
}

function wanted(job) {
  const prompt = (job.request.prompt || "").toLowerCase();
  const asked = search.value.toLowerCase().split(/\s+/).every((word) => prompt.includes(word));
  return asked && job.pictures.some((picture) => picture.favourite || !favouritesOnly.value);
}

function tell(job, known) {
  if (job.state === "running" && job.progress?.phase !== known?.progress?.phase) say(phaseName(job.progress?.phase || "text"));
  if (LIVE.includes(job.state) || (known && !LIVE.includes(known.state))) return;
  if (job.state === "succeeded") say(`Finished: ${plural(job.pictures?.length || 0, "picture")}`);
  if (job.state === "cancelled") say("Cancelled");
  if (job.state === "failed") note(`It failed: ${job.error?.message || "no reason was given"}`, { kind: "error" });
  if (job.state === "expired") note("It expired before it could be drawn", { kind: "error" });
  finished.dispatchEvent(new CustomEvent("job", { detail: job }));
}

function forget(id) {
  heard(id);
  batch(() => {
    const now = new Map(live.value);
    now.delete(id);
    live.value = now;
    remember([{ id, version: Infinity }]); // whatever comes of it now, comes too late
    gallery.value = gallery.value.filter((job) => job.id !== id);
    failed.value = failed.value.filter((job) => job.id !== id);
  });
  if (more.value !== id) return;
  if (gallery.value.length) more.value = gallery.value.at(-1).id; // the gallery cannot go on behind what is gone
  else reload();
}

// A job that this page has ordered, whose end may have been heard of before the answer to the order.
export function ordered(job) {
  const heard = last.get(job.id);
  mine.value = [...mine.value, job.id].slice(-200);
  arrived(job);
  if (heard?.state && !LIVE.includes(heard.state)) {
    ended(heard, job);
    tell(heard);
  }
}

// A job whose pictures are others now.
export function replaced(job) {
  heard(job.id);
  batch(() => place(job));
}

// Pictures go from sight at once and from the server when the note that offers to take it back has gone.
export function discard(chosen) {
  hidden.value = new Set([...hidden.value, ...chosen.map((picture) => picture.name)]);
  const back = () => (hidden.value = new Set([...hidden.value].filter((name) => !chosen.some((picture) => picture.name === name))));
  const forGood = () => deleteAll(chosen).catch((error) => {
    back();
    fail(error);
  });
  note(`${plural(chosen.length, "picture")} deleted`, { action: { label: "Undo", run: back }, done: forGood, stays: 7000 });
}

// All at once, as a page that is closed sends nothing more.
function deleteAll(chosen) {
  const names = new Set(chosen.map((picture) => picture.name));
  return Promise.all([...new Set(chosen.map((picture) => picture.job))].map((job) => deleteOf(seen.value.get(job.id) || job, names)));
}

// An order of which all pictures go, goes whole.
async function deleteOf(job, names) {
  const going = job.pictures.filter((picture) => names.has(picture.name));
  if (going.length < job.pictures.length) return Promise.all(going.map((picture) => deleteOne(job, picture)));
  await remove(`jobs/${job.id}`).catch(unlessGone);
  return forget(job.id);
}

async function deleteOne(job, picture) {
  const left = await remove(`jobs/${job.id}/pictures/${picture.name}`).catch(unlessGone);
  if (left) replaced(left);
}

function unlessGone(error) {
  if (error.status !== 404) throw error;
}
