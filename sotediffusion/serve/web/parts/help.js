// What the keys do, and how prompts are written.
import { html } from "../vendor/ui.js";
import { Dialog } from "./dialog.js";

const KEYS = [
  ["Ctrl Enter", "Generate"], ["Esc", "Cancel what is being drawn; close what is open"], ["Ctrl ↑ ↓", "Weigh the tag at the caret, or what is selected, up or down"],
  ["↑ ↓ Enter", "Choose an offered tag"], ["← → ↑ ↓", "Move through the gallery"], ["Enter", "Show the picture"], ["F", "Favourite"], ["M", "Mark, to compare or delete several"],
  ["Delete", "Delete the picture"], ["Z", "Full size: whole picture or every pixel"], ["?", "This list"],
];
const WRITING = [
  ["(cat ears:1.2)", "counts 1.2 times; (cat ears) is 1.1, [cat ears] is less"], ["\\( \\)", "brackets that are meant"], ["{red|blue} hair", "one of them, chosen by the seed"],
  ["__hair__", "one line of the wildcard list of that name"], ["BREAK", "what follows starts a new chunk of 75 tokens"],
];

export function Help() {
  return html`<${Dialog} kind="help" title="Keys and prompts">
    <div class="help-columns">
      <dl>${KEYS.map(([key, what]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
      <dl>${WRITING.map(([key, what]) => html`<div><dt><code>${key}</code></dt><dd>${what}</dd></div>`)}</dl>
    </div>
  </${Dialog}>`;
}
