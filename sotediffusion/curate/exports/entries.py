"""What is exported: the pictures that stayed, their captions and what is known of them, and each one's file content."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.policy import refuses
from sotediffusion.curate.scan.sources import PictureSource
from sotediffusion.pictures.headers import Header, Undecodable, read_header
from sotediffusion.pictures.pixels import decode_as
from sotediffusion.types import UserError

SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "avif": ".avif", "jxl": ".jxl", "bmp": ".bmp", "gif": ".gif"}
NEEDED = ("row", "path", "sha256", "format", "width", "height", "caption", "repeats")
TOLD = (
    "aesthetic",
    "quality",
    "rating",
    "date",
    "source",
    "side_date",
    "side_id",
    "side_site",
    "prose",
)  # where the catalogue has them
_PLAIN_MODES = {"RGB", "L"}


@dataclass(frozen=True)
class ExportSettings:
    """How a catalogue is exported."""

    name: str = "card"  # of the set, as it appears in folder and file names
    keep: tuple[str, ...] = ("jpeg", "png", "webp")  # formats whose files go along unchanged; others become PNG
    per_file: int = 1000  # pictures in one tar or Parquet file
    resolution: int = 1024  # that kohya's dataset.toml asks for


@dataclass(frozen=True)
class Entry:
    """One picture to be exported."""

    row: int
    path: str
    sha256: str
    format: str
    size: tuple[int, int]
    caption: tuple[tuple[str, tuple[str, ...]], ...]  # groups in the card's order
    repeats: int
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row, which a picture keeps for ever, and the beginning of its hash: a file of this name has this content."""
        return f"{self.row:08d}-{self.sha256[:8]}"

    @property
    def tags(self) -> list[str]:
        return [tag for _, tags in self.caption for tag in tags]

    @property
    def line(self) -> str:
        """The caption on one line."""
        return ", ".join(" ".join(tag.split()) for tag in self.tags)

    def of(self, *groups: str) -> list[str]:
        """The tags of some groups."""
        return [tag for group, tags in self.caption if group in groups for tag in tags]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, under the keys that boorus and our own scan use."""
        plain = {"id": self.name, "path": self.path, "sha256": self.sha256, "width": self.size[0], "height": self.size[1],
                 "repeats": self.repeats, "tags": self.of("aesthetic", "quality", "date", "custom", "rest", "text"),
                 "tags_character": self.of("character"), "tags_copyright": self.of("series")}  # fmt: skip
        return {**plain, **{key.removeprefix("side_"): value for key, value in self.told.items() if value is not None}}


@dataclass
class Done:
    """What an export came to."""

    pictures: int = 0
    converted: int = 0  # whose files were made new, because others would read them differently
    left_out: Counter[str] = field(default_factory=Counter)


def columns_of(names: Iterable[str]) -> list[str]:
    """Which columns of a catalogue an export reads. UserError where a needed one is not there."""
    names = list(names)
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise UserError("catalogue", f"it has no column {missing[0]} yet; run the whole chain first, with compose")
    scores = [name for name in names if name.startswith("score_")]
    return [*NEEDED, *(name for name in ("dropped", *TOLD) if name in names), *scores]


def entries(batches: Iterable[pa.RecordBatch], done: Done) -> Iterator[Entry]:
    """The pictures that stayed, in the catalogue's order.

    The policy is asked once more of what is about to leave the house; what it refuses is counted and nothing else.
    """
    for batch in batches:
        for row in batch.to_pylist():
            if row.get("dropped") or row["path"] is None or row["caption"] is None:
                continue
            entry = _entry(row)
            if refuses([*entry.tags, str(entry.told.get("rating") or "general")], entry.told.get("prose") or "", entry.path):
                done.left_out["policy"] += 1
            else:
                yield entry


def _entry(row: dict[str, Any]) -> Entry:
    caption = tuple((part["group"], tuple(part["tags"] or ())) for part in row["caption"])
    told = {name: value for name, value in row.items() if name in TOLD or name.startswith("score_")}
    return Entry(
        row["row"],
        row["path"],
        row["sha256"],
        row["format"],
        (row["width"], row["height"]),
        caption,
        max(1, row["repeats"] or 1),
        told,
    )


def groups_of(some: Iterable[Entry], count: int) -> Iterator[list[Entry]]:
    """Lists of `count`, the last one shorter."""
    rest = iter(some)
    while group := list(islice(rest, count)):
        yield group


def contents(
    some: list[Entry], source: PictureSource, settings: ExportSettings, done: Done
) -> Iterator[tuple[Entry, str, bytes, bool]]:
    """Each entry's file: suffix, bytes, and whether they are the source's own. What changed since the scan is left out."""
    for entry, data in zip(some, source.read_all([entry.path for entry in some]), strict=True):
        if isinstance(data, OSError):
            done.left_out["gone from the source"] += 1
        elif hashlib.sha256(data).hexdigest() != entry.sha256:
            done.left_out["changed since the scan"] += 1
        else:
            try:
                header = read_header(data)
                own = is_plain(header, settings.keep)
                yield entry, SUFFIXES[header.format] if own else ".png", data if own else as_png(data, header), own
            except Undecodable:
                done.left_out["unreadable"] += 1


def is_plain(header: Header, keep: tuple[str, ...]) -> bool:
    """Whether every reader sees in this file what the catalogue saw: upright, opaque, in sRGB, one frame, 8 bits."""
    odd = header.frames > 1 or header.orientation > 1 or header.transparent or header.icc is not None
    return header.format in keep and header.mode in _PLAIN_MODES and not odd


def as_png(data: bytes, header: Header) -> bytes:
    """The picture as the catalogue saw it, losslessly."""
    import cv2

    pixels = decode_as(data, header)
    whole, buffer = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not whole:
        raise Undecodable("unreadable: it cannot be written as PNG")
    return buffer.tobytes()
