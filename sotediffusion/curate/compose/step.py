"""Captions in the model card's order, as groups of tags; their order, and what is left out, is the trainer's to draw."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.config import plain
from sotediffusion.curate.compose.cuts import TAGS, AestheticTable, QualityTable, Table, check_table, cut, tags_of
from sotediffusion.curate.compose.lists import encode, flatten, nest, typed
from sotediffusion.curate.compose.tagrules import GROUPS, TagRules, TagSettings
from sotediffusion.curate.inference.score import column_of
from sotediffusion.curate.step import Step
from sotediffusion.curate.text.step import SAYS, says
from sotediffusion.names import unknown
from sotediffusion.types import UserError

CAPTION = pa.list_(pa.struct([("group", pa.string()), ("tags", TAGS)]))
TEXT = GROUPS.index("text")
DESCRIBING = [GROUPS.index(name) for name in ("character", "series", "rest")]
Tags = tuple["np.ndarray", "np.ndarray", pa.Array]  # picture, group and tag


@dataclass(frozen=True)
class Repeat:
    """Pictures with a score above a number are seen more often: `extra` times besides the once of all."""

    above: float = 0.90
    extra: int = 5
    score: str = "aesthetic-shadow-v2"


@dataclass(frozen=True)
class ComposeSettings:
    """How numbers, rules and tags become a caption."""

    aesthetic: AestheticTable = AestheticTable()
    quality: QualityTable = QualityTable()
    tags: TagSettings = TagSettings()
    measured: dict[str, str] = field(default_factory=lambda: {"monochrome": "monochrome"})  # scan's yes or no -> tag of the rest
    least: int = 0  # characters, series and tags of the rest that a picture needs, or it is dropped
    repeats: tuple[Repeat, ...] = (Repeat(),)
    dropout: dict[str, float] = field(default_factory=dict)  # group -> share of readings without it, for the trainer


class Compose(Step):
    """Aesthetic and quality tags, the caption by groups, how often a picture is seen."""

    name = "compose"
    version = 1

    def __init__(self, settings: ComposeSettings = ComposeSettings()):
        check(settings)
        self.settings = settings
        scores = [settings.aesthetic.score, settings.quality.score, *(repeat.score for repeat in settings.repeats)]
        self.columns = pa.schema([
            *((name, pa.float32()) for name in dict.fromkeys(map(column_of, scores))),
            ("date", pa.string()), ("custom", TAGS), ("rating", pa.string()), ("character", TAGS), ("series", TAGS),
            ("general", TAGS), ("text", pa.string()), *((name, pa.bool_()) for name in settings.measured),
        ])  # fmt: skip
        self.reads = tuple(self.columns.names)
        caption = pa.field("caption", CAPTION, metadata={"dropout": json.dumps(settings.dropout)})
        self.writes = pa.schema([("aesthetic", pa.string()), ("quality", pa.string()), caption, ("repeats", pa.int16()),
                                 ("drop_compose", pa.string())])  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """All settings."""
        return plain(self.settings)

    def setup(self) -> None:
        """Compile the rules for tags."""
        scheme = [tag for _, table in _tables(self.settings) for tag in tags_of(table)]
        self.rules = TagRules(self.settings.tags, scheme)

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of all pictures at once."""
        columns = typed(rows, self.columns)
        for name, table in _tables(self.settings):
            columns[name] = cut(columns[column_of(table.score)], table).cast(pa.string())
        row, group, tags = self._tags(columns)
        caption = _grouped(row, group, tags, len(rows))
        enough = np.bincount(row[np.isin(group, DESCRIBING)], minlength=len(rows)) >= self.settings.least
        few = pa.array([f"few tags: less than {self.settings.least}"])
        short = few.take(pa.array(np.zeros(len(rows), np.int8), mask=enough))
        made = [columns["aesthetic"], columns["quality"], caption, self._repeats(columns, len(rows)), short]
        return pa.RecordBatch.from_arrays(made, schema=self.writes)

    def _tags(self, columns: dict[str, pa.Array]) -> Tags:
        """All tags of all pictures, picture by picture in the card's order, as the rules leave them."""
        row, values = flatten(columns["general"])
        told = pc.starts_with(values, f'{SAYS} "').to_numpy(zero_copy_only=False)  # a caption that was composed before
        found = [(name, *_there(columns[name])) for name in ("aesthetic", "quality", "date", "rating")]
        found += [(name, *flatten(columns[name])) for name in ("custom", "character", "series")]
        found += [("rest", row[~told], values.filter(pa.array(~told)))]
        for column, tag in self.settings.measured.items():
            places = np.flatnonzero(columns[column].fill_null(False).to_numpy(zero_copy_only=False))
            found += [("rest", places, pa.array([tag] * len(places), pa.string()))]
        ruled = self._ruled(found)
        texts = _first_of(_texts(columns["text"]), (row[told], values.filter(pa.array(told))))
        return _in_order([ruled, (texts[0], np.full(len(texts[0]), TEXT), texts[1])])

    def _ruled(self, found: list[tuple[str, "np.ndarray", pa.Array]]) -> Tags:
        row = np.concatenate([places for _, places, _ in found])
        group = np.repeat([GROUPS.index(name) for name, _, _ in found], [len(places) for _, places, _ in found])
        codes, texts = encode([values for _, _, values in found])
        row, group, code, texts = self.rules.apply(row, group, np.concatenate(codes), texts)
        return row, group, texts.take(pa.array(code))

    def _repeats(self, columns: dict[str, pa.Array], count: int) -> pa.Array:
        times = np.ones(count, np.int16)
        for repeat in self.settings.repeats:
            score = pc.fill_null(columns[column_of(repeat.score)], np.nan).to_numpy(zero_copy_only=False)
            times += np.int16(repeat.extra) * (score > np.float32(repeat.above))
        return pa.array(times)


def spoken(caption: list[dict[str, Any]] | None) -> str:
    """A caption as one line: "a, b, c"."""
    return ", ".join(tag for group in caption or () for tag in group["tags"])


def check(settings: ComposeSettings) -> None:
    """Raise UserError for settings that cannot be meant."""
    for name, table in _tables(settings):
        check_table(table, f"compose.{name}")
    for repeat in settings.repeats:
        if not 0 <= repeat.extra <= 1000:
            raise UserError("compose.repeats", f"extra = {repeat.extra} is out of range; take 0 to 1000")
    for name in settings.dropout:
        if name not in GROUPS:
            raise unknown("compose.dropout", name, GROUPS)
        if not 0 <= settings.dropout[name] <= 1:
            raise UserError(f"compose.dropout.{name}", f"{settings.dropout[name]} is no share; give 0 to 1")


def _tables(settings: ComposeSettings) -> tuple[tuple[str, Table], ...]:
    return ("aesthetic", settings.aesthetic), ("quality", settings.quality)


def _there(values: pa.Array) -> tuple["np.ndarray", pa.Array]:
    """The rows that have a value, and the values."""
    return np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)), values.drop_null().cast(pa.string())


def _texts(read: pa.Array) -> tuple["np.ndarray", pa.Array]:
    """The card's tag of each text that was read."""
    places, texts = _there(read)
    said = pa.array([says(text) for text in texts.to_pylist()], pa.string())
    return places[said.is_valid().to_numpy(zero_copy_only=False)], said.drop_null()


def _first_of(*parts: tuple["np.ndarray", pa.Array]) -> tuple["np.ndarray", pa.Array]:
    """The first item of each picture, of the first part that has one."""
    _, place = np.unique(np.concatenate([rows for rows, _ in parts]), return_index=True)
    rows, items = np.concatenate([rows for rows, _ in parts]), pa.concat_arrays([items for _, items in parts])
    return rows[place], items.take(pa.array(place))


def _in_order(parts: list[Tags]) -> Tags:
    row, group = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    order = np.argsort(row * len(GROUPS) + group, kind="stable")
    return row[order], group[order], pa.concat_arrays([tags for _, _, tags in parts]).take(pa.array(order))


def _grouped(row: "np.ndarray", group: "np.ndarray", tags: pa.Array, count: int) -> pa.Array:
    """Captions from tags in order: for each row its groups that are not empty."""
    cell = row * len(GROUPS) + group
    starts = np.flatnonzero(np.append(True, cell[1:] != cell[:-1])) if len(cell) else np.empty(0, np.int64)
    lists = pa.ListArray.from_arrays(pa.array(np.append(starts, len(cell)), pa.int32()), tags)
    names = pa.array(GROUPS, pa.string()).take(pa.array(group[starts]))
    return nest(pa.StructArray.from_arrays([names, lists], fields=list(CAPTION.value_type)), row[starts], count)
