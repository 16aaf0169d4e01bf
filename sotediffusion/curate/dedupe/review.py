"""A page that shows groups of near-duplicates side by side, and lets a person say which are one picture and which to keep.

One file, nothing loaded from elsewhere, no script but its own (by its hash in the content security policy); what comes from file
names is escaped. The choices leave the page as verdicts.json.
"""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sotediffusion.curate.dedupe.verdicts import FORMAT, Verdicts, pair
from sotediffusion.curate.report.thumbnails import Thumbnails, csp_hash
from sotediffusion.pictures.files import write_whole

Group = dict[str, Any]  # {"keep": item, "left_out": [item with "distance" and "why", ...]}; an item has a row's
# columns and `vouched`: whether the policy has seen its tags, so that it may be shown

MOST = 400  # groups on a page


def groups_of(rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[Group]:
    """The groups that the dedupe step's answers describe, of rows that still have a path; the most doubtful first."""
    by_row = {row["row"]: row for row in rows if row["path"] is not None}
    groups: dict[Any, Group] = {}
    for row, answer in zip(rows, answers, strict=True):
        if row["path"] is None:
            continue
        reason, _, detail = (answer["drop_dedupe"] or "").partition(": ")
        outside = reason == "in the reference set"
        best = detail if outside else answer["group"] if reason else answer["candidate"]
        keeper = {"path": detail} if outside else by_row.get(best)
        if keeper is None or keeper is row:
            continue
        why = reason or "looks alike, both kept"
        item = {**row, "distance": answer["distance"], "why": why}
        groups.setdefault(best, {"keep": keeper, "left_out": []})["left_out"].append(item)
    return sorted(groups.values(), key=_doubt, reverse=True)


def _doubt(group: Group) -> tuple[bool, int]:
    return any(item["why"] != "duplicate" for item in group["left_out"]), max(item["distance"] or 0 for item in group["left_out"])


def undecided(groups: Iterable[Group], verdicts: Verdicts) -> list[Group]:
    """Those that hold a pair nobody has spoken of yet; about copies of a reference set there is nothing to decide."""
    known = verdicts.same | verdicts.different
    return [group for group in groups if "sha256" in group["keep"] and any(
        item["sha256"] != group["keep"]["sha256"] and pair(group["keep"]["sha256"], item["sha256"]) not in known
        for item in group["left_out"])]  # fmt: skip


def write_page(out: Path, groups: list[Group], thumbnails: Thumbnails) -> int:
    """Write the page of the first MOST groups; how many there are on it."""
    first = groups[:MOST]
    write_whole(out, page(first, thumbnails, len(groups)).encode())
    return len(first)


def page(groups: list[Group], thumbnails: Thumbnails, of: int) -> str:
    """The page as HTML."""
    style, script = (_asset(name) for name in ("review.css", "review.js"))
    policy = (f"default-src 'none'; img-src data:; style-src 'sha256-{csp_hash(style)}'; script-src 'sha256-{csp_hash(script)}'; "
              "base-uri 'none'; form-action 'none'")  # fmt: skip
    more = f" of {of}, the most doubtful first" if of > len(groups) else ""
    sections = "\n".join(_section(number, group, thumbnails) for number, group in enumerate(groups, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Near-duplicates</title>
<style>{style}</style>
</head>
<body data-format="{FORMAT}">
<header>
<h1>Near-duplicates</h1>
<p>{len(groups)} groups{more}. Confirm a group, or correct it; what is left untouched stays undecided.</p>
<p class="bar"><output id="count"></output> <button id="agree" type="button">Confirm all that are left</button>
<button id="save" type="button">Download verdicts.json</button></p>
</header>
<main>
{sections or "<p>There is nothing to decide.</p>"}
</main>
<script>{script}</script>
</body>
</html>
"""


def _section(number: int, group: Group, thumbnails: Thumbnails) -> str:
    cards = [_card(number, item, item.get("why", "kept"), thumbnails) for item in (group["keep"], *group["left_out"])]
    return (f'<section id="g{number}"><h2>Group {number}</h2><div class="cards">{"".join(cards)}</div>'
            '<p><button class="confirm" type="button">Confirm</button> <span class="state"></span></p></section>')  # fmt: skip


def _card(number: int, item: dict[str, Any], why: str, thumbnails: Thumbnails) -> str:
    sha = item["sha256"]
    facts = f"{item['width']} x {item['height']}, {item['format']}, {_size(item['bytes'])}"
    far = f", {item['distance']} bits" if item.get("distance") is not None and why != "kept" else ""
    choice = (
        f'<label><input type="radio" name="g{number}"{" checked" if why == "kept" else ""}> keep this one</label>'
        f'<label class="same"><input type="checkbox" name="g{number}-{sha[:16]}"{"" if why.startswith("looks") else " checked"}> '
        "the same picture as the kept one</label>"
    )
    return (
        f'<figure data-sha="{escape(sha)}"{" data-kept" if why == "kept" else ""}>'
        f'{_thumbnail(item, thumbnails)}<figcaption><b>{escape(why)}{far}</b><span class="path">{shown(item["path"])}</span>'
        f"<span>{escape(facts)}</span>{choice}</figcaption></figure>"
    )


def shown(text: str) -> str:
    """Text from outside as HTML text: escaped, and without characters that turn or hide what stands beside them."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), quote=True)


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _thumbnail(item: dict[str, Any], thumbnails: Thumbnails) -> str:
    picture = thumbnails(item["path"], item.get("vouched", False))
    return f'<img alt="" loading="lazy" src="{picture}">' if picture else '<div class="none">not shown</div>'


def _asset(name: str) -> str:
    return (files("sotediffusion.curate") / "page" / name).read_text(encoding="utf-8")
