// Prompts as text: tags between commas, weights in brackets, quality words and styles. Pure functions.

const STEP = 0.1;
const MOST = 10;

// The tags of a prompt, bare: without brackets, weights and escapes, in lower case.
export function tagsOf(prompt) {
  return splitTags(prompt).map(bare).filter(Boolean);
}

function bare(tag) {
  const inner = tag.trim().replace(/^[([]+/, "").replace(/(?<!\\)[)\]]+$/, "").replace(/(?<!\\):\s*[\d.]+$/, "");
  return inner.replace(/\\([()[\]{}|:\\])/g, "$1").trim().toLowerCase();
}

// Cut at commas and new lines that stand outside brackets.
function splitTags(prompt) {
  const tags = [""];
  let depth = 0;
  for (let at = 0; at < prompt.length; at++) {
    const letter = prompt[at];
    if (letter === "\\") {
      tags[tags.length - 1] += letter + (prompt[++at] ?? "");
      continue;
    }
    if ("([{".includes(letter)) depth++;
    if (")]}".includes(letter)) depth = Math.max(0, depth - 1);
    if ((letter === "," && depth === 0) || letter === "\n") tags.push("");
    else tags[tags.length - 1] += letter;
  }
  return tags;
}

// Put one tag of a group into a prompt instead of the group's others, or take it out; new ones go in front.
export function chooseTag(prompt, group, tag) {
  const had = tagsOf(prompt).includes(tag);
  const others = new Set(group);
  let replaced = had;
  const kept = prompt.split(",").map((part) => {
    if (!others.has(bare(part)) || !balanced(part)) return part;
    if (replaced) return null;
    replaced = true;
    return part.replace(part.trim(), tag);
  }).filter((part) => part !== null).join(",").replace(/^\s+/, "");
  return replaced ? kept : kept.trim() ? `${tag}, ${kept}` : `${tag}, `;
}

// The word under the caret that may be completed: { start, end, text }, from the last comma or bracket to the caret.
export function wordAt(prompt, caret) {
  const before = prompt.slice(0, caret);
  const start = Math.max(...[",", "\n", "(", "[", "{", "|"].map((mark) => before.lastIndexOf(mark))) + 1;
  const lead = before.slice(start).match(/^\s*/)[0].length;
  return { start: start + lead, end: caret, text: before.slice(start + lead) };
}

// A tag as it is written in a prompt: spaces for underscores (faces keep theirs), brackets escaped.
export function written(name) {
  const words = name.length > 3 ? name.replaceAll("_", " ") : name;
  return words.replace(/[()[\]{}|\\]/g, "\\$&");
}

// Change the weight of the selection, or of the tag at the caret. Gives { start, end, text, from, to }: what to replace
// by what, and what is to be selected then.
export function reweigh(prompt, from, to, direction) {
  const span = from === to ? tagSpan(prompt, from) : trimmed(prompt, from, to);
  if (span.start >= span.end) return null;
  const grown = withBrackets(prompt, span);
  const { inner, weight } = readWeight(prompt.slice(grown.start, grown.end));
  const next = Math.round((weight + direction * STEP) * 100) / 100;
  if (next < 0 || next > MOST) return null;
  const text = next === 1 ? inner : `(${inner}:${next})`;
  const lead = next === 1 ? 0 : 1;
  return { start: grown.start, end: grown.end, text, from: grown.start + lead, to: grown.start + lead + inner.length };
}

// The tag that the caret is in; behind the last comma it is the one before.
function tagSpan(prompt, caret) {
  let start = 0;
  let last = { start: caret, end: caret };
  for (const tag of splitTags(prompt)) {
    if (tag.trim()) last = trimmed(prompt, start, start + tag.length);
    if (caret <= start + tag.length) return last;
    start += tag.length + 1;
  }
  return last;
}

function trimmed(prompt, start, end) {
  while (start < end && /[\s,]/.test(prompt[start])) start++;
  while (end > start && /[\s,]/.test(prompt[end - 1])) end--;
  return { start, end };
}

// A selection inside `(text:1.2)` means the whole of it.
function withBrackets(prompt, { start, end }) {
  const after = prompt.slice(end).match(/^:\s*[\d.]+\)|^\)/);
  const opened = prompt[start - 1] === "(" && prompt[start - 2] !== "\\";
  return after && opened ? { start: start - 1, end: end + after[0].length } : { start, end };
}

function readWeight(text) {
  const given = text.match(/^\(([^]*):\s*(\d*\.?\d+)\)$/);
  if (given && balanced(given[1])) return { inner: given[1], weight: Number(given[2]) };
  const bracketed = text.match(/^\(([^]*)(?<!\\)\)$/);
  if (bracketed && balanced(bracketed[1])) return { inner: bracketed[1], weight: 1.1 };
  const lowered = text.match(/^\[([^]*)(?<!\\)\]$/);
  if (lowered && balanced(lowered[1])) return { inner: lowered[1], weight: 0.9 };
  return { inner: text, weight: 1 };
}

function balanced(text) {
  let depth = 0;
  for (const letter of text.replace(/\\./g, "")) {
    if (letter === "(") depth++;
    if (letter === ")" && --depth < 0) return false;
  }
  return depth === 0;
}

// Styles: `{prompt}` in one is where the prompt goes; without it the style follows.
export function withStyles(prompt, styles, field) {
  return styles.reduce((text, style) => {
    const own = style[field] || "";
    if (!own.trim()) return text;
    if (own.includes("{prompt}")) return own.replaceAll("{prompt}", () => text.trim().replace(/,$/, ""));
    return text.trim() ? `${text.trim().replace(/,$/, "")}, ${own}` : own;
  }, prompt);
}

// A prompt without its `<lora:name:weight>`, as A1111 writes them, and what they ask for.
export function splitLoras(prompt) {
  const loras = [...prompt.matchAll(LORA)].map(([, name, weight]) => ({ name: name.trim(), weight: weight?.trim() ? Number(weight) : 1 }));
  return { text: loras.length ? prompt.replaceAll(LORA, "").trim() : prompt, loras };
}

const LORA = /<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>/g;
