// A box to write a prompt in: completes booru tags, counts tokens, and weighs what is selected with Ctrl+Up and Ctrl+Down.
import { html, useEffect, useRef, useState } from "../vendor/ui.js";
import { get, post } from "../state/api.js";
import { wildcards } from "../state/about.js";
import { allStyles, form, problem, spoken } from "../state/form.js";
import { say } from "../state/notices.js";
import { reweigh, splitLoras, wordAt, written } from "../state/prompt-text.js";
import { plural, short } from "../state/words.js";
import { Problem } from "./fields.js";

const CATEGORIES = { 0: "general", 1: "artist", 3: "series", 4: "character", 5: "meta", 9: "rating" };
const AWAY = ["ArrowLeft", "ArrowRight", "Home", "End"]; // to another word, perhaps
const MOST = 12;

export function PromptBox({ name, label, rows, placeholder }) {
  const box = useRef(null);
  const offer = useCompletion(box, name);
  const count = useTokens(name);
  const shown = offer.tags.length > 0;
  const list = `${name}-completions`;
  const blamed = problem.value?.field === name;
  const key = (event) => offer.onKey(event) || weigh(event, box.current);
  return html`<div class="prompt-box" data-name=${name}>
    <div class="field-head">
      <label for=${name}>${label}</label>
      <span class=${`tokens ${count?.chunks > 1 ? "long" : ""}`} title="Tokens of this text; each 75 make one chunk">${tokens(count)}</span>
    </div>
    <div class="prompt-frame">
      <textarea id=${name} ref=${box} rows=${rows} spellcheck="false" autocapitalize="off" autocomplete="off" placeholder=${placeholder}
        value=${form[name].value ?? ""} aria-autocomplete="list" aria-controls=${list} aria-haspopup="listbox"
        aria-activedescendant=${shown && offer.at >= 0 ? `${list}-${offer.at}` : undefined}
        aria-invalid=${blamed ? "true" : undefined} aria-describedby=${blamed ? `problem-${name}` : undefined}
        onInput=${(event) => { form[name].value = event.target.value; if (blamed) problem.value = null; offer.look(); }}
        onKeyDown=${key} onBlur=${offer.hide} onClick=${offer.hide}></textarea>
      <ul class="completions" id=${list} role="listbox" aria-label="Tags" hidden=${!shown}>
        ${offer.tags.map((tag, at) => html`<${Completion} key=${tag.name} id=${`${list}-${at}`} tag=${tag} on=${at === offer.at} take=${() => offer.take(tag)} />`)}
      </ul>
    </div>
    <${Problem} name=${name} />
  </div>`;
}

function Completion({ id, tag, on, take }) {
  const down = (event) => {
    event.preventDefault(); // the box keeps the focus
    take();
  };
  return html`<li id=${id} role="option" aria-selected=${String(on)} onMouseDown=${down}>
    <span class="tag-name">${tag.shown || written(tag.name)}${tag.alias && html` <span class="muted">from ${tag.alias}</span>`}</span>
    <span class="tag-kind" data-kind=${tag.category}>${tag.kind || CATEGORIES[tag.category] || ""}</span>
    <span class="tag-count">${tag.count ? short(tag.count) : ""}</span>
  </li>`;
}

const tokens = (count) => (count ? `${plural(count.tokens, "token")}${count.chunks > 1 ? ` in ${count.chunks} chunks` : ""}` : "");

function useTokens(name) {
  const [count, setCount] = useState(null);
  const text = form[name].value ?? "";
  useEffect(() => {
    let stale = false;
    const timer = setTimeout(async () => {
      const answer = await post("tokens", { text: splitLoras(spoken(name)).text, model: form.model.value }).catch(() => null);
      if (!stale) setCount(answer);
    }, 250);
    return () => {
      stale = true;
      clearTimeout(timer);
    };
  }, [text, form.chosenStyles.value, form.model.value, allStyles.value]);
  return count;
}

function useCompletion(box, name) {
  const [tags, setTags] = useState([]);
  const [at, setAt] = useState(0);
  const asked = useRef(0);
  const hide = () => {
    asked.current++;
    setTags([]);
  };
  const look = async () => {
    const { selectionStart: caret, value } = box.current;
    const { text } = wordAt(value, caret);
    const turn = ++asked.current;
    if (text.trim().length < 2 || /[\s,]$/.test(text)) return setTags([]);
    const other = (tag) => written(tag.name) !== text;
    setTags(tags.filter((tag) => other(tag) && suits(tag, text))); // until the answer comes, nothing of an earlier word
    setAt(0);
    const offered = text.startsWith("__") ? lists(text.slice(2)) : await ask(text);
    const found = offered.filter(other);
    if (turn !== asked.current) return;
    setTags(found);
    setAt(0);
    if (found.length) say(`${plural(found.length, "tag")} offered`);
  };
  const take = (tag) => {
    const { start, end } = wordAt(box.current.value, box.current.selectionStart);
    const rest = box.current.value.slice(end);
    insert(box.current, start, end, (tag.insert ?? written(tag.name)) + (/^\s*,/.test(rest) ? "" : ", "));
    form[name].value = box.current.value;
    hide();
  };
  useEffect(() => {
    if (document.activeElement === box.current && wordAt(box.current.value, box.current.selectionStart).text.startsWith("__")) look();
  }, [wildcards.value]); // they may come when their first letters are typed already
  const keys = {
    ArrowDown: () => setAt((at + 1) % tags.length),
    ArrowUp: () => setAt((at - 1 + tags.length) % tags.length),
    Enter: () => take(tags[at]),
    Tab: () => take(tags[at]),
    Escape: hide,
  };
  const onKey = (event) => {
    if (AWAY.includes(event.key) || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) hide();
    if (!tags.length || event.ctrlKey || event.metaKey || event.shiftKey || event.isComposing || !keys[event.key]) return false;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
    return true;
  };
  return { tags, at, look, hide, take, onKey };
}

const plain = (text) => text.trim().toLowerCase().replaceAll(" ", "_").replaceAll("\\", "");
const suits = (tag, text) => [tag.name, tag.alias, tag.shown].some((name) => name && plain(name).includes(plain(text)));

async function ask(text) {
  const { tags = [] } = await get(`tags?q=${encodeURIComponent(plain(text))}&limit=${MOST}`).catch(() => ({}));
  return tags;
}

const lists = (text) =>
  wildcards.value.filter((list) => list.name.toLowerCase().includes(text.toLowerCase())).slice(0, MOST)
    .map((list) => ({ name: list.name, shown: `__${list.name}__`, insert: `__${list.name}__`, kind: "wildcard", count: list.values.length }));

// Replace a part of the box so that the browser can undo it.
function insert(box, start, end, text) {
  box.focus();
  box.setSelectionRange(start, end);
  if (!document.execCommand("insertText", false, text)) box.setRangeText(text, start, end, "end");
}

function weigh(event, box) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const change = reweigh(box.value, box.selectionStart, box.selectionEnd, event.key === "ArrowUp" ? 1 : -1);
  if (!change) return;
  insert(box, change.start, change.end, change.text);
  box.setSelectionRange(change.from, change.to);
  form[box.id].value = box.value;
  say(change.text);
}
