// The page: header, three rooms (compose, stage, gallery), footer, and what floats over them.
import { html, render, useEffect } from "./vendor/ui.js";
import { about, load, locked, signOut, trouble } from "./state/about.js";
import { cancelFirst } from "./state/acts.js";
import { form } from "./state/form.js";
import { online, queue, start } from "./state/jobs.js";
import { alarm, flush, spokenLine } from "./state/notices.js";
import { draw } from "./state/draw.js";
import { fraction } from "./state/words.js";
import { open, turnTheme, view } from "./state/view.js";
import { Compare } from "./parts/compare.js";
import { Compose } from "./parts/compose.js";
import { DropZone, Dropped, OpenFile } from "./parts/drop.js";
import { Gallery } from "./parts/gallery.js";
import { Help } from "./parts/help.js";
import { Icon, IconButton } from "./parts/icons.js";
import { Notices } from "./parts/notices.js";
import { Queue } from "./parts/queue.js";
import { SignIn } from "./parts/sign-in.js";
import { Stage } from "./parts/stage.js";
import { Viewer } from "./parts/viewer.js";
import { Grids } from "./parts/xy.js";

const DIALOGS = { viewer: Viewer, compare: Compare, xy: Grids, dropped: Dropped, help: Help };
const ROOMS = [["compose", "Prompt", "brush"], ["stage", "Picture", "image"], ["gallery", "Gallery", "grid"]];

function Page() {
  if (!about.value) return html`<main class="waiting-page">${trouble.value && html`<div role="alert"><p>${trouble.value.message}</p><button type="button" onClick=${load}>Try again</button></div>`}</main>`;
  if (locked.value) return html`<${SignIn} />`;
  return html`<${Rooms} />`;
}

function Rooms() {
  useEffect(start, []);
  useEffect(() => {
    addEventListener("keydown", keyed);
    return () => removeEventListener("keydown", keyed);
  }, []);
  const dialog = view.dialog.value;
  const Shown = dialog && DIALOGS[dialog.kind];
  return html`<div class="page" data-room=${view.room.value} data-wide=${view.wide.value ? "yes" : "no"}>
    <a class="skip" href="#prompt">To the prompt</a>
    <${Header} />
    <main><${Compose} /><${Stage} /><div class="side"><${Queue} /><${Gallery} /></div></main>
    <${Tabs} />
    <${Footer} />
    <${DropZone} />
    ${Shown && html`<${Shown} ...${dialog} />`}
    <${Title} />
  </div>`;
}

function Header() {
  const { models, name, key } = about.value;
  return html`<header class="header">
    <img src="./icon.svg" alt="" width="22" height="22" /><h1>${name || "SoteDiffusion"}</h1>
    ${models.length > 1
      ? html`<select class="model" aria-label="Model" onChange=${(event) => changeModel(event.target.value)}>${models.map((model) => html`<option value=${model.name} selected=${model.name === form.model.value}>${model.name}</option>`)}</select>`
      : html`<span class="model-name hint">${models[0]?.name}</span>`}
    <span class="push"></span>
    ${!online.value && html`<span class="offline" role="status">No connection, trying again…</span>`}
    <${OpenFile} />
    <${IconButton} icon="help" name="Keys and prompts" onClick=${() => open({ kind: "help" })} />
    <${IconButton} icon=${{ light: "sun", dark: "moon" }[view.theme.value] || "auto"} name=${`Colours: ${view.theme.value}`} onClick=${turnTheme} />
    ${key && html`<${IconButton} icon="key" name="Sign out" onClick=${signOut} />`}
  </header>`;
}

// Another model has another size: its own is taken.
function changeModel(name) {
  form.model.value = name;
  form.width.value = form.height.value = null;
}

function Tabs() {
  const busy = queue.value.length;
  return html`<nav class="tabs" aria-label="Rooms">${ROOMS.map(([room, name, icon]) => html`<button type="button" key=${room} aria-current=${view.room.value === room ? "page" : undefined} onClick=${() => (view.room.value = room)}>
    <${Icon} name=${icon} />${name}${room === "stage" && busy > 0 && html`<span class="badge">${busy}</span>`}</button>`)}</nav>`;
}

function Footer() {
  const { models, version, licence, source } = about.value;
  const model = models.find((one) => one.name === form.model.value) || models[0];
  return html`<footer class="footer">
    <span>Model <strong>${model?.name}</strong></span>
    <span>Licence <a href=${licence || "license"}>${model?.licence || "see here"}</a></span>
    <a href=${source || "source"}>Source</a><a href="docs">API</a>
    <span class="push">SoteDiffusion ${version} <span class="dot">·</span> pictures are made by AI</span>
  </footer>`;
}

function Spoken() {
  return html`<div class="hidden" role="status" aria-live="polite">${spokenLine.value}</div><div class="hidden" role="alert">${alarm.value}</div>`;
}

function Title() {
  const [job] = queue.value;
  useEffect(() => {
    document.title = job ? `${Math.round(fraction(job) * 100)} % · SoteDiffusion` : "SoteDiffusion";
  });
  useEffect(() => () => (document.title = "SoteDiffusion"), []);
  return null;
}

function keyed(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    return event.repeat ? null : draw();
  }
  if (event.defaultPrevented || view.dialog.value) return null;
  if (event.key === "Escape") return meant(event) ? cancelFirst() : null;
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  return event.key === "?" && !typing ? open({ kind: "help" }) : null;
}

// Esc held down, in a search or in an input method is not meant for the drawing.
const meant = (event) => !event.repeat && !event.isComposing && event.target.type !== "search";

addEventListener("pagehide", flush);
render(html`<${Page} /><${Notices} /><${Spoken} />`, document.getElementById("page"));
load();
