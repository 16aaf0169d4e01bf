// The queue: what is drawn now, what waits and in which order, what failed.
import { html, useState } from "../vendor/ui.js";
import { cancel, cancelAll, move } from "../state/acts.js";
import { failed, queue } from "../state/jobs.js";
import { percent, plural, progressLine, size } from "../state/words.js";
import { watch } from "../state/view.js";
import { IconButton } from "./icons.js";
import { Bar, eta } from "./stage.js";

export function Queue() {
  const jobs = queue.value;
  const waiting = jobs.filter((job) => job.state === "queued");
  if (!jobs.length && !failed.value.length) return null;
  return html`<section class="queue" aria-label="Queue">
    <div class="panel-head"><h2>Queue</h2><span class="hint">${jobs.length ? plural(jobs.length, "job") : ""}</span>
      ${jobs.length > 1 && html`<button type="button" class="small push" onClick=${cancelAll}>Cancel all</button>`}</div>
    <ol class="jobs">
      ${jobs.map((job) => html`<${Entry} key=${job.id} job=${job} waiting=${waiting} />`)}
      ${failed.value.map((job) => html`<${Failed} key=${job.id} job=${job} />`)}
    </ol>
  </section>`;
}

function Entry({ job, waiting }) {
  const [over, setOver] = useState(false);
  const at = waiting.indexOf(job);
  const drag = at < 0 ? {} : {
    draggable: true,
    onDragStart: (event) => event.dataTransfer.setData("text/x-sote-job", job.id),
    onDragOver: (event) => event.dataTransfer.types.includes("text/x-sote-job") && (event.preventDefault(), setOver(true)),
    onDragLeave: () => setOver(false),
    onDrop: (event) => {
      const id = event.dataTransfer.getData("text/x-sote-job");
      setOver(false);
      if (!id) return;
      event.preventDefault();
      if (id !== job.id) move(id, job.id);
    },
  };
  return html`<li class=${`job ${job.state} ${over ? "over" : ""}`} ...${drag}>
    <button type="button" class="job-words" onClick=${() => watch(job)}>
      <span class="job-prompt">${job.request.prompt}</span>
      <span class="hint">${job.state === "running" ? `${progressLine(job)} ${eta(job) && `· ${eta(job)}`}` : `${size(job.request.width, job.request.height)}${job.request.count > 1 ? `, ${job.request.count} pictures` : ""}`}</span>
    </button>
    <span class="job-buttons">
      ${at > 0 && html`<${IconButton} icon="up" name="Draw it earlier" onClick=${() => move(job.id, waiting[at - 1].id)} />`}
      ${at >= 0 && at < waiting.length - 1 && html`<${IconButton} icon="down" name="Draw it later" onClick=${() => move(job.id, waiting[at + 2]?.id ?? null)} />`}
      ${job.state === "running" && html`<span class="hint">${percent(job)}</span>`}
      <${IconButton} icon="close" name="Cancel" onClick=${() => cancel(job.id)} />
    </span>
    ${job.state === "running" && html`<${Bar} job=${job} />`}
  </li>`;
}

function Failed({ job }) {
  const dismiss = () => (failed.value = failed.value.filter((one) => one.id !== job.id));
  return html`<li class="job failed">
    <div class="job-words"><span class="job-prompt">${job.request.prompt}</span>
      <span class="problem">${job.state === "expired" ? "It expired before it could be drawn" : job.error?.message || "It failed, and no reason was given"}</span></div>
    <span class="job-buttons"><${IconButton} icon="close" name="Dismiss" onClick=${dismiss} /></span>
  </li>`;
}
