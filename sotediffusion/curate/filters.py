"""Which measured pictures are left out: pure questions, each answering why a picture goes, or None where it stays.

The card's filter is the area alone. Monochrome is a tag and no reason to go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sotediffusion.config import plain
from sotediffusion.curate.step import DROP, Step
from sotediffusion.curate.tag.taglist import words
from sotediffusion.types import UserError

Row = Mapping[str, Any]


def _starving() -> dict[str, float]:
    return {"jpeg": 0.03, "webp": 0.012, "avif": 0.006, "jxl": 0.006}


@dataclass(frozen=True)
class FilterSettings:
    """The section [filter]; a limit of 0 is off."""

    min_area: int = 768_000  # px, the card's 1280x600
    max_aspect: float = 4.0  # longer side to shorter
    min_bytes_per_pixel: dict[str, float] = field(default_factory=_starving)  # by format; below it a picture is mostly artefacts
    min_contrast: float = 2.0  # standard deviation of the luma, grey levels
    blank: bool = True  # drop pictures of one colour
    drop_tags: tuple[str, ...] = ()  # of the sidecars


def too_small(row: Row, settings: FilterSettings) -> str | None:
    """Fewer pixels than `min_area`."""
    width, height = row["width"], row["height"]
    return f"too small: {width}x{height}" if width * height < settings.min_area else None


def too_long(row: Row, settings: FilterSettings) -> str | None:
    """A strip, longer than `max_aspect` times its width, or wider."""
    width, height = row["width"], row["height"]
    beyond = 0 < settings.max_aspect < max(width, height) / max(1, min(width, height))
    return f"too long: {width}x{height}" if beyond else None


def too_compressed(row: Row, settings: FilterSettings) -> str | None:
    """Fewer bytes for each pixel than its format needs to show it."""
    share = row["bytes"] / (row["width"] * row["height"])
    return f"too compressed: {share:.4f} bytes per pixel" if share < settings.min_bytes_per_pixel.get(row["format"], 0) else None


def blank(row: Row, settings: FilterSettings) -> str | None:
    """One colour all over."""
    return "blank" if settings.blank and row["blank"] else None


def too_flat(row: Row, settings: FilterSettings) -> str | None:
    """Hardly any light and dark, and hardly any colour either."""
    flat = row["luma_std"] < settings.min_contrast and row["chroma"] < 4 * settings.min_contrast
    return f"too flat: contrast {row['luma_std']:.2f}" if flat else None


def unwanted_tag(row: Row, settings: FilterSettings) -> str | None:
    """A tag of `drop_tags` beside it, written with spaces or underscores."""
    unwanted = {words(tag) for tag in settings.drop_tags}
    found = next((t for name in _TAGS for t in map(words, row[name] or ()) if t in unwanted), None) if unwanted else None
    return f"unwanted tag: {found}" if found else None


QUESTIONS: tuple[Callable[[Row, FilterSettings], str | None], ...] = (
    too_small,
    too_long,
    too_compressed,
    blank,
    too_flat,
    unwanted_tag,
)
_MEASURES = ("width", "height", "bytes", "format", "blank", "luma_std", "chroma")
_TAGS = ("side_tags", "side_general", "side_character", "side_series", "side_artist", "side_meta")


def judge(row: Row, settings: FilterSettings) -> str | None:
    """The first reason why this picture is left out, None where it stays."""
    return next((reason for question in QUESTIONS if (reason := question(row, settings))), None)


class FilterStep(Step):
    """Asks every question of every picture."""

    name = "filter"
    version = 1
    writes = pa.schema([(DROP + "filter", pa.string())])

    def __init__(self, settings: FilterSettings = FilterSettings()):
        check(settings)
        self.settings = settings
        self.reads = (*_MEASURES, *(_TAGS if settings.drop_tags else ()))

    def identity(self) -> dict[str, Any]:
        """All limits."""
        return plain(self.settings)  # type: ignore[no-any-return]

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        names = [name for name in self.reads if name in rows.schema.names]
        columns = zip(*(rows.column(name).to_pylist() for name in names), strict=True)
        reasons = [judge(dict(zip(names, values, strict=True)), self.settings) for values in columns]
        return pa.RecordBatch.from_arrays([pa.array(reasons, pa.string())], schema=self.writes)


def check(settings: FilterSettings) -> None:
    """UserError for limits that cannot be meant."""
    if settings.min_area < 0:
        raise UserError("filter.min_area", f"{settings.min_area} is below 0; take the least number of pixels, or 0 for any")
    if 0 < settings.max_aspect < 1 or settings.max_aspect < 0:
        raise UserError(
            "filter.max_aspect", f"{settings.max_aspect} is below 1; take the longer side over the shorter, or 0 for any"
        )
