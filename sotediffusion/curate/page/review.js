
"use strict";
const sections = [...document.querySelectorAll("section")].filter((section) => section.querySelector("[data-sha]"));

function members(section) {
  return [...section.querySelectorAll("figure[data-sha]")].map((figure) => ({
    figure,
    sha: figure.dataset.sha,
    wasKept: "kept" in figure.dataset,
    kept: figure.querySelector("input[type=radio]").checked,
    same: figure.querySelector("input[type=checkbox]").checked,
  }));
}

function paint(section) {
  for (const one of members(section)) {
    one.figure.classList.toggle("chosen", one.kept);
    one.figure.classList.toggle("apart", !one.kept && !one.same);
  }
  const done = section.classList.contains("done");
  section.querySelector(".state").textContent = done ? "decided" : "undecided";
  const count = sections.filter((other) => other.classList.contains("done")).length;
  document.getElementById("count").textContent = `${count} of ${sections.length} decided`;
}

function decide(section) {
  section.classList.add("done");
  paint(section);
}

// What was decided outlives a closed page, in the browser's own storage; without that the page works and forgets.
const DECIDED = `sote review ${location.pathname}`;

function keep() {
  const decided = sections.filter((section) => section.classList.contains("done"));
  const said = decided.map((section) => members(section).map(({ sha, kept, same }) => [sha, kept, same]));
  try {
    localStorage.setItem(DECIDED, JSON.stringify(said));
  } catch {
    // full or forbidden
  }
}

function recall() {
  let groups;
  try {
    groups = new Map(JSON.parse(localStorage.getItem(DECIDED)).map((group) => [group.map(([sha]) => sha).join(), group]));
  } catch {
    return; // none, or none that can be read
  }
  for (const section of sections) {
    const all = members(section);
    const group = groups.get(all.map(({ sha }) => sha).join());
    if (!group) continue;
    all.forEach(({ figure }, at) => {
      figure.querySelector("input[type=radio]").checked = group[at][1];
      figure.querySelector("input[type=checkbox]").checked = group[at][2];
    });
    section.classList.add("done");
  }
}

function verdicts() {
  const same = new Map(), different = new Map(), keep = new Set();
  const note = (pairs, one, other) => {
    if (one !== other) pairs.set([one, other].sort().join(), [one, other].sort());
  };
  for (const section of sections.filter((each) => each.classList.contains("done"))) {
    const all = members(section);
    const kept = all.find((one) => one.kept);
    const together = all.filter((one) => one.kept || one.same);
    if (!kept) continue;
    if (!kept.wasKept) keep.add(kept.sha);
    for (const one of together) note(same, kept.sha, one.sha);
    for (const one of all.filter((each) => !each.kept && !each.same)) {
      for (const other of together) note(different, other.sha, one.sha);
    }
  }
  const sorted = (pairs) => [...pairs.keys()].sort().map((key) => pairs.get(key));
  return { format: document.body.dataset.format, same: sorted(same), different: sorted(different), keep: [...keep].sort() };
}

function settle(...those) {
  those.forEach(decide);
  keep();
}

recall();
for (const section of sections) {
  section.addEventListener("change", () => settle(section));
  section.querySelector(".confirm").addEventListener("click", () => settle(section));
  paint(section);
}
document.getElementById("agree").addEventListener("click", () => settle(...sections));
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(verdicts(), null, 1) + "\n"], { type: "application/json" }));
  link.download = "verdicts.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000); // some browsers have not begun to read it yet
});
