// One picture in full size with all its settings; arrows go to its neighbours.
import { html, useEffect, useState } from "../vendor/ui.js";
import { favour } from "../state/acts.js";
import { loadMore, pictures, seenPictures } from "../state/jobs.js";
import { note } from "../state/notices.js";
import { label, number, size, valueWords, when } from "../state/words.js";
import { open, show, shut } from "../state/view.js";
import { Dialog } from "./dialog.js";
import { IconButton } from "./icons.js";
import { Picture } from "./picture.js";
import { Actions } from "./stage.js";

export function Viewer({ name }) {
  const listed = pictures.value.some((one) => one.name === name);
  const all = listed ? pictures.value : seenPictures.value.filter((one) => one.name === name); // by itself: a cell of a grid, say
  const at = all.findIndex((one) => one.name === name);
  const [whole, setWhole] = useState(true);
  const go = (by) => all[at + by] && (setWhole(true), open({ kind: "viewer", name: all[at + by].name }));
  useEffect(() => {
    if (at < 0) shut();
    if (listed && at > all.length - 4) loadMore();
  }, [at]);
  if (at < 0) return null;
  const picture = all[at];
  const arrows = { ArrowLeft: () => go(-1), ArrowRight: () => go(1) };
  const letters = { f: () => favour(picture, !picture.favourite), z: () => setWhole(!whole) };
  const key = (event) => !event.ctrlKey && !event.metaKey && (arrows[event.key] || (!event.repeat && letters[event.key]) || null)?.();
  const gone = (why) => {
    if (why) return shut();
    const next = all[at + 1] || all[at - 1];
    return next ? open({ kind: "viewer", name: next.name }) : shut();
  };
  return html`<${Dialog} kind="viewer" title=${`Picture ${at + 1} of ${all.length}`} onKeyDown=${key}>
    <div class=${`viewer-picture ${whole ? "whole" : "real"}`}>
      <button type="button" class="viewer-zoom" aria-label=${whole ? "Show every pixel" : "Show the whole picture"} onClick=${() => setWhole(!whole)}><${Picture} picture=${picture} key=${picture.name} /></button>
      <${IconButton} icon="left" class="icon-button viewer-left" name="The one before" aria-disabled=${at === 0 ? "true" : undefined} onClick=${() => go(-1)} />
      <${IconButton} icon="right" class="icon-button viewer-right" name="The next one" aria-disabled=${at === all.length - 1 ? "true" : undefined} onClick=${() => go(1)} />
    </div>
    <aside class="viewer-side">
      <${Actions} picture=${picture} gone=${gone} />
      <${Settings} picture=${picture} />
      <button type="button" class="small" onClick=${() => { shut(); show(picture); }}>Show it on the page</button>
    </aside>
  </${Dialog}>`;
}

const LATE = ["prompt", "negative", "width", "height", "seed", "model", "loras", "count", "init"];
const HIDDEN = ["digital_source_type", "hashes", "ai_generated"];

function Settings({ picture }) {
  const settings = { ...picture.job.request, ...picture.settings };
  const rest = Object.entries(settings).filter(([name, value]) => !LATE.includes(name) && !HIDDEN.includes(name) && plain(value));
  const loras = settings.loras ?? picture.job.loras ?? [];
  return html`<div class="settings">
    <${Text} title="Prompt" text=${settings.prompt} /><${Text} title="Negative prompt" text=${settings.negative} />
    <dl>
      <${Pair} name="Size" value=${size(picture.width, picture.height)} /><${Pair} name="Seed" value=${number(picture.seed)} />
      <${Pair} name="Model" value=${picture.job.model} /><${Pair} name="Drawn" value=${when(picture.job.finished ?? picture.job.created)} />
      ${loras.length > 0 && html`<${Pair} name="LoRA" value=${loras.map((one) => (Array.isArray(one) ? one.join(" : ") : `${one.name} : ${one.weight}`)).join(", ")} />`}
      ${settings.init && html`<${Pair} name="Started from" value="a picture" />`}
      ${rest.filter(([name]) => name !== "strength" || settings.init).map(([name, value]) => html`<${Pair} key=${name} name=${label(name)} value=${valueWords(name, value)} />`)}
    </dl>
  </div>`;
}

const plain = (value) => value !== null && value !== "" && ["number", "string"].includes(typeof value);
const Pair = ({ name, value }) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

function Text({ title, text }) {
  if (!text) return null;
  const copy = async () => {
    if (!navigator.clipboard) return note("Over plain http the browser does not let the page copy; select the text instead", { kind: "error" });
    await navigator.clipboard.writeText(text).then(() => note(`${title} copied`), () => note("The browser does not let the page copy; select the text instead", { kind: "error" }));
  };
  return html`<div class="settings-text"><div class="field-head"><h3>${title}</h3><button type="button" class="small" onClick=${copy}>Copy</button></div><p>${text}</p></div>`;
}
