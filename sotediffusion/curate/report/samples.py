"""The pictures that a report shows: a few of each class and each reason, always the same ones, and groups of duplicates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sotediffusion.curate.report.stats import Catalogue

BLURRED = ("nsfw", "explicit nsfw")  # ratings whose thumbnails are veiled until asked for

Thumbnail = Callable[[str, bool], str | None]  # path, whether a tagger has seen the picture -> data URL


@dataclass(frozen=True)
class Shown:
    """A picture on the page."""

    path: str
    note: str
    image: str | None  # a data URL
    veiled: bool = False


@dataclass(frozen=True)
class Sheet:
    """Some pictures of one kind."""

    title: str
    count: int
    shown: tuple[Shown, ...]


def sheets(catalogue: Catalogue, column: str, names: Sequence[str], each: int, thumbnail: Thumbnail) -> tuple[Sheet, ...]:
    """A sheet for each value of a column that kept pictures have, in the order of `names`."""
    found = catalogue.ask(
        f'SELECT "{column}", count(*), min_by({_picture(catalogue)}, sha256, {each}) '
        f'FROM pictures WHERE "{column}" IS NOT NULL AND path IS NOT NULL GROUP BY 1'
    )
    made = {
        name: Sheet(name, count, tuple(_shown(one, one["path"], thumbnail(one["path"], one["seen"])) for one in some))
        for name, count, some in found if name in names
    }  # fmt: skip
    return tuple(made[name] for name in names if name in made)


def dropped(catalogue: Catalogue, each: int, thumbnail: Thumbnail) -> tuple[Sheet, ...]:
    """A sheet for each reason; groups of duplicates have their own section, and the policy's have none.

    What the scan put aside is named and never opened again: its files are those that harm who opens them.
    """
    if not catalogue.has("reason", "path", "sha256"):
        return ()
    apart = ' AND (drop_dedupe IS NULL OR "group" IS NULL)' if catalogue.has("drop_dedupe", "group") else ""
    found = catalogue.ask(
        f"SELECT split_part(reason, ':', 1), count(*) AS count, min_by({_picture(catalogue)}, coalesce(sha256, path), {each}) "
        f"FROM known WHERE dropped AND path IS NOT NULL{apart} GROUP BY 1 ORDER BY count DESC, 1"
    )
    return tuple(Sheet(why, count, tuple(_left_out(one, thumbnail) for one in some)) for why, count, some in found)


def _left_out(one: dict[str, Any], thumbnail: Thumbnail) -> Shown:
    image = thumbnail(one["path"], one["seen"]) if one["opens"] else None
    return _shown(one, str(one["reason"]).partition(":")[2].strip(), image)


def grouped(catalogue: Catalogue) -> int:
    """How many groups of duplicates there are."""
    if not catalogue.has("group"):
        return 0
    return int(catalogue.ask('SELECT count(DISTINCT "group") FROM known')[0][0])


def groups(catalogue: Catalogue, most: int, thumbnail: Thumbnail) -> tuple[tuple[Shown, ...], ...]:
    """Groups of duplicates, the largest first: the keeper, then the others by distance.

    A group with a picture of the policy's is not shown, nor one whose keeper was not tagged where others were.
    """
    if not catalogue.has("group", "row", "path", "distance"):
        return ()
    tagged = 'bool_or(row = "group" AND tag_ids IS NOT NULL)' if catalogue.has("tag_ids") else "true"
    member = 'path := path, own := row = "group", distance := distance, width := width, height := height'
    more = f"rating := {_rating(catalogue)}, seen := {_seen(catalogue)}"
    found = catalogue.ask(
        f'SELECT array_agg(struct_pack({member}, {more}) ORDER BY row <> "group", distance, row) '
        'FROM known WHERE "group" IS NOT NULL AND path IS NOT NULL GROUP BY "group" '
        f'HAVING count(*) > 1 AND bool_or(row = "group") AND {tagged} ORDER BY count(*) DESC, "group" LIMIT {most}'
    )
    return tuple(tuple(_member(one, some[0], thumbnail) for one in some[:8]) for (some,) in found)


def _member(one: dict[str, Any], keeper: dict[str, Any], thumbnail: Thumbnail) -> Shown:
    size = f"{one['width']} x {one['height']}"
    note = f"kept, {size}" if one["own"] else f"{size}, distance {one['distance']}"
    return _shown(one | {"rating": keeper["rating"]}, note, thumbnail(one["path"], one["seen"]))


def _shown(one: dict[str, Any], note: str, image: str | None) -> Shown:
    return Shown(one["path"], note, image, one["rating"] in BLURRED)


def _picture(catalogue: Catalogue) -> str:
    """What a sheet needs of a picture, as SQL."""
    reason = "reason" if catalogue.has("reason") else "NULL"
    opens = "drop_scan IS NULL" if catalogue.has("drop_scan") else "true"
    facts = f"rating := {_rating(catalogue)}, reason := {reason}, seen := {_seen(catalogue)}, opens := {opens}"
    return f"struct_pack(path := path, {facts})"


def _seen(catalogue: Catalogue) -> str:
    """Whether a tagger has looked at a picture, or none ever does, as SQL."""
    return "tag_ids IS NOT NULL" if catalogue.has("tag_ids") else "true"


def _rating(catalogue: Catalogue) -> str:
    return "rating" if catalogue.has("rating") else "NULL"
