// The stage: what is being drawn, as far as it is, or one finished picture and what can be done with it.
import { html, useEffect, useRef } from "../vendor/ui.js";
import { about } from "../state/about.js";
import { cancel, favour } from "../state/acts.js";
import { begun, form, take, usual } from "../state/form.js";
import { discard, seenPictures } from "../state/jobs.js";
import { note } from "../state/notices.js";
import { download, startFromPicture, useSettings } from "../state/pictures.js";
import { fraction, number, progressLine, seconds, size } from "../state/words.js";
import { open, show, stage, view } from "../state/view.js";
import { Icon, IconButton } from "./icons.js";
import { Picture } from "./picture.js";

export function Stage() {
  const now = stage.value;
  const kind = now?.job ? html`<${Drawing} job=${now.job} />` : now ? html`<${Shown} picture=${now.picture} />` : html`<${Empty} />`;
  return html`<section class="stage" aria-label="Picture">${kind}</section>`;
}

function Empty() {
  return html`<div class="empty">
    <${Icon} name="brush" />
    <h2>Nothing drawn yet</h2>
    <p>Say what you would like to see, then press <kbd>Ctrl</kbd> <kbd>⏎</kbd>.</p>
    ${about.value.prompts.examples?.length > 0 && html`<p class="hint">Or begin with one of these:</p>
    <ul class="examples">${about.value.prompts.examples.map((text) => html`<li><button type="button" onClick=${() => begin(text)}>${text.replace(/,\s*$/, "")}</button></li>`)}</ul>`}
  </div>`;
}

function begin(text) {
  form.prompt.value = usual("prompt") + begun(text);
  view.room.value = "compose";
  document.getElementById("prompt").focus();
}

function Drawing({ job }) {
  const { width, height, count } = job.request;
  return html`<div class="frame">
    <div class="sheet drawing" style=${{ "--wide": width, "--high": height }}>
      ${job.progress?.preview ? html`<${Preview} key=${job.id} job=${job} />` : html`<div class="blank"></div>`}
    </div>
  </div>
  <div class="stage-foot">
    <${Bar} job=${job} />
    <div class="stage-line">
      <span>${progressLine(job)}</span>
      <span class="hint">${eta(job)}</span>
      <span class="push hint">${size(width, height)}${count > 1 ? `, ${count} pictures` : ""}</span>
      <button type="button" class="small" onClick=${() => cancel(job.id)}>Cancel</button>
    </div>
  </div>`;
}

export function Bar({ job }) {
  return html`<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(fraction(job) * 100)} aria-valuetext=${progressLine(job)}><div class="bar-fill" style=${{ width: `${fraction(job) * 100}%` }}></div></div>`;
}

export const eta = (job) => (job.progress?.eta == null ? "" : `about ${seconds(job.progress.eta)} left`);

// The old preview stays until the new one is there, so that nothing flickers.
function Preview({ job }) {
  const image = useRef(null);
  const road = useRef({ coming: false, next: null });
  const url = job.progress.preview;
  useEffect(() => {
    road.current.next = url;
    fetchNext(road.current, image);
  }, [url]);
  return html`<img class="preview" ref=${image} alt="Preview of the picture being drawn" />`;
}

// One after the other: on a slow line steps are left out instead of piling up.
function fetchNext(road, image) {
  if (road.coming || !road.next) return;
  const coming = new Image();
  const done = () => {
    road.coming = false;
    if (coming.naturalWidth && image.current) image.current.src = coming.src;
    if (image.current) fetchNext(road, image);
  };
  Object.assign(coming, { onload: done, onerror: done, src: road.next });
  Object.assign(road, { coming: true, next: null });
}

function Shown({ picture }) {
  return html`<div class="frame">
    <button type="button" class="sheet" style=${{ "--wide": picture.width, "--high": picture.height }} aria-label="Look at it in full size"
      onClick=${() => open({ kind: "viewer", name: picture.name })}><${Picture} picture=${picture} key=${picture.name} fetchpriority="high" /></button>
  </div>
  <div class="stage-foot">
    <${Siblings} picture=${picture} />
    <div class="stage-line">
      <span class="facts">${size(picture.width, picture.height)} <span class="dot">·</span> seed <button type="button" class="link" title="Keep this seed"
        onClick=${() => { take({ seed: picture.seed }); note(`Seed ${picture.seed} is kept`); }}>${number(picture.seed)}</button>
        ${spent(picture.job) && html` <span class="dot">·</span> ${spent(picture.job)}`}</span>
      <${Actions} picture=${picture} />
    </div>
  </div>`;
}

const spent = ({ started, finished }) => (started && finished ? seconds(finished - started) : "");

function Siblings({ picture }) {
  const all = seenPictures.value.filter((one) => one.job.id === picture.job.id);
  if (all.length < 2) return null;
  return html`<div class="siblings" role="group" aria-label="Pictures of this order">
    ${all.map((one) => html`<button type="button" key=${one.name} aria-label=${`Seed ${one.seed}`} aria-pressed=${String(one.name === picture.name)} onClick=${() => show(one)}><${Picture} picture=${one} width=${256} alt="" loading="lazy" /></button>`)}
  </div>`;
}

export function Actions({ picture, gone = () => {} }) {
  const compare = () => {
    const others = view.marked.value.filter((name) => name !== picture.name);
    if (!others.length) {
      view.marked.value = [picture.name];
      view.room.value = "gallery";
      return note("Mark a second picture in the gallery to compare it with this one");
    }
    return open({ kind: "compare", names: [others[0], picture.name] });
  };
  const away = () => {
    gone();
    discard([picture]);
  };
  return html`<div class="actions" role="group" aria-label="What to do with this picture">
    <button type="button" class="small" onClick=${() => { gone("settings"); useSettings(picture); view.room.value = "compose"; }}><${Icon} name="reuse" />Use these settings</button>
    <${IconButton} icon="heart" name="Favourite" pressed=${picture.favourite} class="icon-button heart" onClick=${() => favour(picture, !picture.favourite)} />
    <${IconButton} icon="download" name="Download" onClick=${() => download(picture)} />
    <${IconButton} icon="image" name="Start from this picture" onClick=${() => { gone("start"); startFromPicture(picture); }} />
    <${IconButton} icon="compare" name="Compare" onClick=${compare} />
    <${IconButton} icon="trash" name="Delete" onClick=${away} />
  </div>`;
}
