// Small things that outlive a reload, in the browser's own storage; without it the page works and forgets.

const NAME = (key) => `sote.${key}`;

// What is of another kind than `otherwise` was written by another program or by hand, and counts as not there.
export function recall(key, otherwise) {
  try {
    const value = JSON.parse(localStorage.getItem(NAME(key)));
    return value !== null && kind(value) === kind(otherwise) ? value : otherwise;
  } catch {
    return otherwise;
  }
}

const kind = (value) => (Array.isArray(value) ? "list" : typeof value);

// Another tab of this page has kept `key`: its value is told.
export function keptElsewhere(key, otherwise, tell) {
  addEventListener("storage", (event) => event.key === NAME(key) && tell(recall(key, otherwise)));
}

export function keep(key, value) {
  try {
    localStorage.setItem(NAME(key), JSON.stringify(value));
  } catch {
    // full or forbidden: it is only a convenience
  }
}
