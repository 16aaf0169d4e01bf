// The gallery: all pictures of the caller, the latest first; search, favourites, marking, and the way back to each.
import { html, useEffect, useRef } from "../vendor/ui.js";
import { about } from "../state/about.js";
import { favour } from "../state/acts.js";
import { discard, favouritesOnly, loadMore, loading, more, pictures, reload, search } from "../state/jobs.js";
import { download } from "../state/pictures.js";
import { plural } from "../state/words.js";
import { open, show, shownName, view } from "../state/view.js";
import { Icon, IconButton } from "./icons.js";
import { Picture, words } from "./picture.js";

export function Gallery() {
  return html`<section class="gallery" aria-label="Gallery">
    <div class="panel-head"><h2>Gallery</h2>
      <span class="push"></span>
      <${IconButton} icon="heart" class="icon-button heart" name="Favourites only" pressed=${favouritesOnly.value} onClick=${() => { favouritesOnly.value = !favouritesOnly.value; reload(); }} />
      <${IconButton} icon="wide" class="icon-button only-wide" name="Wide gallery" pressed=${view.wide.value} onClick=${() => (view.wide.value = !view.wide.value)} />
    </div>
    <${Search} />
    <${Tiles} />
    <${Marked} />
  </section>`;
}

let typing;

function Search() {
  const look = (event) => {
    search.value = event.target.value;
    clearTimeout(typing);
    typing = setTimeout(reload, 250);
  };
  return html`<div class="search"><${Icon} name="search" /><input type="search" aria-label="Search the prompts" placeholder="Search the prompts" value=${search.value} onInput=${look} /></div>`;
}

function Tiles() {
  const list = useRef(null);
  const all = pictures.value;
  const now = shownName.value;
  const key = (event) => keyed(event, list.current, all);
  if (!all.length && !more.value) return html`<p class="nothing hint">${nothing()}</p>`;
  const first = all.some((picture) => picture.name === now) ? now : all[0]?.name;
  return html`<ul class="tiles" ref=${list} onKeyDown=${key} aria-label="Pictures">
    ${all.map((picture) => html`<${Tile} key=${picture.name} picture=${picture} on=${picture.name === now} stop=${picture.name === first} />`)}
    ${more.value && html`<${More} />`}
  </ul>`;
}

function nothing() {
  if (loading.value) return "Looking…";
  if (search.value) return "No prompt has these words.";
  return favouritesOnly.value ? "No favourites yet." : `What you draw is kept here${span()}.`;
}

function span() {
  const days = Math.round((about.value?.retention_s ?? 0) / 8640) / 10;
  return days ? ` for ${plural(days, "day")}, a favourite for good` : "";
}

function Tile({ picture, on, stop }) {
  const marked = view.marked.value.includes(picture.name);
  const mark = (event) => {
    event.stopPropagation();
    view.marked.value = marked ? view.marked.value.filter((name) => name !== picture.name) : [...view.marked.value, picture.name];
  };
  return html`<li class=${`tile ${on ? "on" : ""} ${marked ? "marked" : ""}`} data-name=${picture.name}>
    <button type="button" class="tile-picture" tabindex=${stop ? 0 : -1} aria-current=${on ? "true" : undefined} title=${words(picture)}
      onClick=${() => show(picture)} onDblClick=${() => open({ kind: "viewer", name: picture.name })}><${Picture} picture=${picture} width=${256} loading="lazy" /></button>
    <button type="button" class="tile-mark" role="checkbox" tabindex=${stop || marked ? 0 : -1} aria-checked=${String(marked)} aria-label="Mark" title="Mark" onClick=${mark}><${Icon} name="check" /></button>
    <${IconButton} icon="heart" class="icon-button heart tile-heart" tabindex=${stop ? 0 : -1} name="Favourite" pressed=${picture.favourite} onClick=${() => favour(picture, !picture.favourite)} />
  </li>`;
}

// Arrows move between pictures, Enter opens, F favours, M marks, Delete deletes.
function keyed(event, list, all) {
  const tile = event.target.closest(".tile");
  if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return; // held a moment too long is still once
  const tiles = [...list.querySelectorAll(".tile")];
  const at = tiles.indexOf(tile);
  const picture = all.find((one) => one.name === tile.dataset.name);
  const row = Math.max(1, tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length);
  const go = (place) => tiles[place]?.querySelector(".tile-picture").focus();
  const keys = {
    ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1), ArrowDown: () => go(at + row), ArrowUp: () => go(at - row),
    Home: () => go(0), End: () => go(tiles.length - 1),
    f: () => favour(picture, !picture.favourite), m: () => tile.querySelector(".tile-mark").click(),
    Delete: () => { go(tiles[at + 1] ? at + 1 : at - 1); discard([picture]); },
    " ": null,
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function More() {
  const end = useRef(null);
  useEffect(() => {
    const watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && loadMore(), { rootMargin: "600px" });
    watcher.observe(end.current);
    return () => watcher.disconnect();
  }, [more.value]);
  return html`<li class="more" ref=${end}><button type="button" class="small" onClick=${loadMore}>${loading.value ? "Looking…" : "Earlier pictures"}</button></li>`;
}

function Marked() {
  const chosen = pictures.value.filter((picture) => view.marked.value.includes(picture.name));
  if (!chosen.length) return null;
  const clear = () => (view.marked.value = []);
  return html`<div class="marked-bar" role="group" aria-label="Marked pictures">
    <span>${plural(chosen.length, "picture")} marked</span>
    <button type="button" class="small push" disabled=${chosen.length !== 2} title="Mark two pictures to compare them" onClick=${() => open({ kind: "compare", names: chosen.map((one) => one.name) })}>Compare</button>
    <${IconButton} icon="download" name="Download the marked" onClick=${() => chosen.forEach(download)} />
    <${IconButton} icon="trash" name="Delete the marked" onClick=${() => { clear(); discard(chosen); }} />
    <${IconButton} icon="close" name="Unmark all" onClick=${clear} />
  </div>`;
}
