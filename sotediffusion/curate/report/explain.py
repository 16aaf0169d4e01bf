"""One picture's whole story: what each step found, which of them kept or dropped it, its near-duplicates and its caption."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sotediffusion.curate.compose.step import spoken
from sotediffusion.curate.report.stats import POLICY, Catalogue
from sotediffusion.curate.step import DROP
from sotediffusion.types import UserError

LONG = 160  # characters of a value that are shown
CHAPTERS = {  # the catalogue's columns by the step that wrote them; score_* and others are added as they come
    "scan": ("sha256", "bytes", "modified", "format", "width", "height", "mode", "frames", "phash", "luma_mean", "luma_std",
             "chroma", "blank", "monochrome"),
    "sidecar": ("side_",),
    "policy": (), "filter": (),
    "dedupe": ("group", "distance", "candidate", "group_date", "group_tags"),
    "score": ("score_",),
    "tag": ("tag_ids", "tag_probs", "rating_probs"),
    "policy_tags": (),
    "cut": ("rating", "character", "series", "general"),
    "text": ("text", "text_confidence", "text_error"), "prose": ("prose", "prose_confidence", "prose_error"),
    "rules": ("date", "source", "custom"),
    "compose": ("aesthetic", "quality", "caption", "repeats"),
}  # fmt: skip


def find(catalogue: Catalogue, picture: str) -> dict[str, Any]:
    """The row of a picture by its path, the end of its path, or its sha256. UserError where there is none, or several."""
    path = picture.strip("/")
    tries = (("path = ?", path), ("sha256 = ?", picture.lower()), ("ends_with(path, '/' || ?)", path))
    for condition, value in tries:
        sql = f"SELECT * FROM everything WHERE {condition} LIMIT 9"
        found = catalogue.connection.sql(sql, params=[value]).to_arrow_table().to_pylist()
        if len(found) == 1 or (found and condition.startswith("sha256")):
            return dict(found[0])
        if found:
            paths = ", ".join(str(row["path"]) for row in found[:4])
            raise UserError("path", f"{picture[:80]!r} fits several pictures ({paths}); give the whole path")
    alike = "SELECT path FROM known WHERE path IS NOT NULL ORDER BY jaro_winkler_similarity(path, ?) DESC, path LIMIT 1"
    hint = "".join(f"; there is {name}" for (name,) in catalogue.ask(alike, [path]))
    raise UserError("path", f"{picture[:120]!r} is not in the catalogue{hint}; give a path as in the source, or a sha256")


def story(
    catalogue: Catalogue, row: Mapping[str, Any], tags: Mapping[int, str], versions: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Chapters (step, lines) about a row. `tags` names the tagger's outputs, `versions` the fingerprints of steps."""
    if str(row.get("reason") or "").partition(":")[0] == POLICY:
        return [("policy", [f"sha256 {row['sha256']}", "dropped by the policy; nothing else of it is kept"])]
    row = {**row, "tag_probs": catalogue.halves("tag_probs", row["row"]) if catalogue.has("row") else None}
    chapters = [("picture", [str(row["path"]), _verdict(row)])]
    told = {"row", "path", "dropped", "reason", *(name for name in row if name.startswith(DROP))}
    for step, names in CHAPTERS.items():
        columns = [name for name in row if name not in told and any(_fits(name, wanted) for wanted in names)]
        told |= set(columns)
        lines = [f"{name}: {_value(name, row, tags)}" for name in columns if row[name] is not None and name != "tag_probs"]
        why = row.get(DROP + step)
        lines += _neighbours(catalogue, row) if step == "dedupe" else []
        if lines or why:
            version = f" ({versions[step]})" if step in versions else ""
            chapters.append((step + version, [*lines, *([f"dropped: {why}"] if why else [])]))
    others = [f"{name}: {_value(name, row, tags)}" for name in row if name not in told and row[name] is not None]
    reasons = [name for name in row if name.startswith(DROP) and name.removeprefix(DROP) not in CHAPTERS]
    others += [f"dropped: {row[name]}" for name in reasons if row[name]]
    chapters += [("other", others)] if others else []
    return [*chapters, *([("caption", [spoken(row["caption"])])] if row.get("caption") else [])]


def _verdict(row: Mapping[str, Any]) -> str:
    if row.get("dropped"):
        return f"left out: {row.get('reason')}"
    repeats = row.get("repeats") or 1
    return "kept" if repeats == 1 else f"kept, seen {repeats} times an epoch"


def _neighbours(catalogue: Catalogue, row: Mapping[str, Any]) -> list[str]:
    if row.get("group") is None or not catalogue.has("row", "group", "path"):
        return []
    found = catalogue.ask('SELECT row, path, distance FROM known WHERE "group" = ? AND row <> ? ORDER BY distance, row LIMIT 20',
                          [row["group"], row["row"]])  # fmt: skip
    notes = ["the keeper" if other == row["group"] else f"distance {distance}" for other, _, distance in found]
    return [f"with {path} ({note})" for (_, path, _), note in zip(found, notes, strict=True)]


def _fits(name: str, wanted: str) -> bool:
    return name.startswith(wanted) if wanted.endswith("_") else name == wanted


def _value(name: str, row: Mapping[str, Any], tags: Mapping[int, str]) -> str:
    value = row[name]
    if name == "tag_ids":
        probabilities = row.get("tag_probs") or [0.0] * len(value)
        ranked = sorted(zip(probabilities, value, strict=True), reverse=True)
        return ", ".join(f"{tags.get(place, place)} {float(p):.2f}" for p, place in ranked[:40])
    if name == "modified":  # nanoseconds
        return datetime.fromtimestamp(value // 10**9, UTC).isoformat(" ")
    if name == "caption":
        return "; ".join(f"{part['group']}: {', '.join(part['tags'])}" for part in value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(f"{item:.3f}" if isinstance(item, float) else str(item) for item in value)
    text = str(value)
    return text if len(text) <= LONG else f"{text[:LONG]} ..."
