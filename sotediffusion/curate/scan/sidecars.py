"""Sidecars as files: kohya's .txt, a booru's or gallery-dl's .json beside each picture, and a user's own CSV or JSON Lines.

A table has a column `path`, `file_name` or `image`, and columns with the names of a post's fields; its tags are parted by commas.
A path of the form sha256:HEX names a content that the policy has refused already.
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from sotediffusion.curate.scan.posts import GROUPS, RATINGS, read_post, unwrapped
from sotediffusion.curate.scan.side import MAX_TAGS, Side, clip, plain_text, unescaped
from sotediffusion.curate.scan.sources import MEMBER
from sotediffusion.types import UserError

CONTENT = "sha256:"
_PATH_KEYS = ("path", "file_name", "image", "file", "filename")

Table = dict[str, dict[str, Any]]  # by path


def read_sidecars(path: str, beside: Iterable[tuple[str, bytes]], table: Table | None = None) -> Side:
    """Everything noted about the picture at `path`: the sidecars found beside it, then its row of the user's table.

    A sidecar that cannot be read is named in `extra` under "unreadable" and does no other harm.
    """
    side = Side()
    for name, content in beside:
        try:
            side.take(read_sidecar(name, content))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
            side.extra["unreadable"] = [*side.extra.get("unreadable", []), name]
    if table:
        row = table.get(path) or table.get(path.rpartition("/")[2].rpartition(MEMBER)[2])
        if row:
            side.take(read_post(row, commas=True))
    return side


def read_sidecar(name: str, content: bytes) -> Side:
    """One sidecar file by its suffix; ValueError where it is not what the suffix says."""
    text = _text(content)
    if not name.endswith(".json"):
        return Side(text=plain_text(text)) if name.endswith(".caption") else read_tags(text)
    value = json.loads(text)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return Side(tags=clip(value))
    return read_post(unwrapped(value))


def read_tags(text: str) -> Side:
    """A .txt of tags: kohya's line parted by commas, or one tag a line; `series: name` says the group. A sentence is text."""
    parts = [part for line in text.splitlines() for part in (line.split(",") if "," in line else [line])]
    tags = [unescaped(part.strip()) for part in parts if part.strip()]
    if len(tags) == 1 and len(tags[0].split()) > 8:
        return Side(text=plain_text(text))
    side = Side()
    for tag in tags[:MAX_TAGS]:
        space, colon, name = tag.partition(":")
        group = GROUPS.get(space.strip().lower())
        if colon and name.strip() and group:
            side.groups.setdefault(group, []).append(name.strip())
        elif colon and space.strip().lower() == "rating" and name.strip().lower() in RATINGS:
            side.rating = RATINGS[name.strip().lower()]
        else:
            side.tags.append(tag)
    return side


def _text(content: bytes) -> str:
    """UTF-8, UTF-16 by its mark, or else Windows' Japanese or Western letters."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    for encoding in ("utf-8-sig", "cp932"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


def read_table(name: str, content: bytes) -> Table:
    """A user's CSV or JSON Lines file, by path or bare file name. UserError where no column says which picture a row is of."""
    text = _text(content)
    rows: list[Any]
    if name.endswith((".jsonl", ".ndjson")):
        rows = _json_lines(text)
    else:
        rows = list(csv.DictReader(io.StringIO(text), dialect=_dialect(text)))
    found: Table = {}
    for row in rows:
        path = next(
            (row[key] for key in _PATH_KEYS if isinstance(row, dict) and isinstance(row.get(key), str) and row[key]), None
        )
        if path is not None:
            named = {key.removeprefix("side_"): value for key, value in row.items() if isinstance(key, str)}
            found[path.removeprefix("./")] = {key: value for key, value in named.items() if key not in _PATH_KEYS}
    if rows and not found:
        raise UserError("scan.sidecar_table", f"{name} has no column path or file_name; name one of its columns so")
    return found


def _json_lines(text: str) -> list[Any]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError("scan.sidecar_table", f"a line is not JSON ({error}); write one JSON object per line") from None


def _dialect(text: str) -> type[csv.Dialect]:
    first = text.partition("\n")[0]
    return csv.excel_tab if first.count("\t") > first.count(",") else csv.excel
