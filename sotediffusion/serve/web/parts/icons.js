// Line icons, drawn on 24 x 24; they only ever stand beside or instead of a word that says the same.
import { html } from "../vendor/ui.js";

const SHAPES = {
  swap: "M7 4 4 7l3 3M4 7h12M17 14l3 3-3 3M20 17H8",
  dice: "M5 5h14v14H5zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  heart: "M12 20S4 15 4 9a4 4 0 0 1 8-1 4 4 0 0 1 8 1c0 6-8 11-8 11z",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v6M14 11v6",
  expand: "M9 4H4v5M15 4h5v5M9 20H4v-5M15 20h5v-5",
  reuse: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  image: "M4 5h16v14H4zM4 16l5-5 5 5 2-2 4 4M15 9h.01",
  compare: "M12 3v18M4 6h5v12H4M20 6h-5v12h5",
  grid: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  moon: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 7h6M12 12h8.5M12 17h6",
  close: "M6 6l12 12M18 6 6 18",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  plus: "M12 5v14M5 12h14",
  check: "M5 13l4 4 10-10",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4 4",
  key: "M15 4a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM11.5 12.5 4 20M7 17l2 2",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M12 16.5h.01",
  brush: "M19 4c-5 2-9 6-11 10l2 2c4-2 8-6 10-11zM7 15c-2 0-3 1.5-3 5 3 0 5-1 5-3",
  list: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  seed: "M12 20c-4 0-6-3-6-6 0-4 3-7 6-10 3 3 6 6 6 10 0 3-2 6-6 6zM12 20v-7",
  wide: "M4 6h16v12H4zM14 6v12",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${SHAPES[name]} /></svg>`;
}

// A button that is only an icon to the eye and has its name for everyone else.
export function IconButton({ icon, name, pressed, ...rest }) {
  const state = pressed === undefined ? {} : { "aria-pressed": String(Boolean(pressed)) };
  return html`<button type="button" class="icon-button" aria-label=${name} title=${name} ...${state} ...${rest}><${Icon} name=${icon} /></button>`;
}
