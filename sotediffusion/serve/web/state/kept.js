// Small things that outlive a reload, in the browser's own storage; without it the page works and forgets.

const NAME = (key) => `sote.${key}`;

export function recall(key, otherwise) {
  try {
    const text = localStorage.getItem(NAME(key));
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

export function keep(key, value) {
  try {
    localStorage.setItem(NAME(key), JSON.stringify(value));
  } catch {
    // full or forbidden: it is only a convenience
  }
}
