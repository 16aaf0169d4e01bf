"""Captions in the model card's order, as groups of tags; their order, and what is left out, is the trainer's to draw."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.config import plain
from sotediffusion.curate.compose.cuts import TAGS, AestheticTable, QualityTable, Table, check_table, cut, tags_of
from sotediffusion.curate.compose.tagrules import GROUPS, REST, TagRules, TagSettings
from sotediffusion.curate.inference.score import column_of
from sotediffusion.curate.lists import Array, encode, flatten, joined, nest, typed
from sotediffusion.curate.step import Step
from sotediffusion.curate.text.step import SAYS, says
from sotediffusion.names import unknown
from sotediffusion.types import UserError

CAPTION = pa.list_(pa.struct([("group", pa.string()), ("tags", TAGS)]))
DESCRIBING = ["character", "series", "rest"]  # groups that say what is to be seen
Part = tuple[str, Array, Array]  # a group; where each picture's tags begin; their codes


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
            columns[name] = cut(columns[column_of(table.score)], table)
        caption = self._caption(columns, len(rows))
        few = pa.array([f"few tags: less than {self.settings.least}"])
        short = few.take(pa.array(np.zeros(len(rows), np.int8), mask=self._enough(caption)))
        scored = [columns[name].cast(pa.string()) for name, _ in _tables(self.settings)]
        return pa.RecordBatch.from_arrays([*scored, caption, self._repeats(columns, len(rows)), short], schema=self.writes)

    def _caption(self, columns: dict[str, pa.Array], count: int) -> pa.Array:
        """All tags of all pictures by group, picture by picture in the card's order, as the rules leave them."""
        from sotediffusion.curate.compose.merging import by_group

        parts, texts = self._parts(columns, count)
        groups = np.array([GROUPS.index(name) for name, _, _ in parts])
        starts, codes = joined([(begins, codes) for _, begins, codes in parts])
        names = self.rules.texts.array
        written = self._written(len(texts))
        tags, begins, of_runs, pictures = by_group(starts, codes, groups, REST, written, len(names) + len(texts))
        tags = (pa.concat_arrays([names, texts]) if len(texts) else names).take(pa.array(tags))
        runs = [pa.array(GROUPS, pa.string()).take(pa.array(of_runs)), nest(tags, begins)]
        return nest(pa.StructArray.from_arrays(runs, fields=list(CAPTION.value_type)), pictures)

    def _parts(self, columns: dict[str, pa.Array], count: int) -> tuple[list[Part], pa.Array]:
        """Every column's tags in the card's order; and the texts, whose codes come after those of the rules."""
        one_each = np.arange(count + 1)
        lists = [(name, *flatten(columns[name])) for name in ("custom", "character", "series")]
        lists += [(name, one_each, columns[name]) for name in ("date", "rating")]
        found, known = encode([values for *_, values in lists])
        code = np.append(self.rules.codes(known.to_pylist()), np.int32(TagRules.UNSAID))
        parts = [(name, begins, code[codes]) for (name, begins, _), codes in zip(lists, found, strict=True)]
        parts += [(name, one_each, self._of_table(columns[name])) for name, _ in _tables(self.settings)]
        begins, rest, earlier = self._rest(columns["general"])
        parts.append(("rest", begins, rest))
        for column, tag in self.settings.measured.items():
            there = columns[column].fill_null(False).to_numpy(zero_copy_only=False)
            parts.append(("rest", one_each, np.where(there, self.rules.codes([tag]), TagRules.UNSAID)))
        read, texts = _texts(columns["text"], earlier)
        parts.append(("text", one_each, np.where(read >= 0, read + len(self.rules.number), TagRules.UNSAID)))
        return sorted(parts, key=lambda part: GROUPS.index(part[0])), texts

    def _of_table(self, tags: pa.DictionaryArray) -> Array:
        """The codes of a score's tags."""
        code = np.append(self.rules.codes(tags.dictionary.to_pylist()), np.int32(TagRules.UNSAID))
        return code[tags.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def _rest(self, general: pa.Array) -> tuple[Array, Array, tuple[Array, pa.Array]]:
        """The general tags; apart from them the texts (pictures, texts) of captions that were composed before."""
        begins, values = flatten(general)
        (codes,), known = encode([values])
        told = np.append(pc.starts_with(known, f'{SAYS} "').to_numpy(zero_copy_only=False), False)
        code = np.full(len(told), TagRules.UNSAID, np.int32)
        code[~told] = np.append(self.rules.codes(known.filter(pa.array(~told[:-1])).to_pylist()), np.int32(TagRules.UNSAID))
        places = np.flatnonzero(told[codes]) if told.any() else np.empty(0, np.int64)
        return begins, code[codes], (np.searchsorted(begins, places, side="right") - 1, values.take(pa.array(places)))

    def _written(self, more: int) -> tuple[Array, Array, Array, Array]:
        """The rules for every code, and for as many more whose texts are written as they are."""
        rules, end = self.rules, len(self.rules.texts)
        number = np.append(rules.number, np.arange(end, end + more, dtype=np.int32))
        starts = np.append(rules.said_starts, np.full(more, rules.said_starts[-1]))
        return number, np.append(rules.reserved, np.zeros(more, bool)), starts, rules.said

    def _enough(self, caption: pa.Array) -> Array:
        """Which pictures have the tags that are asked for."""
        if self.settings.least <= 0:
            return np.ones(len(caption), bool)
        begins, runs = flatten(caption)
        describing = pc.is_in(runs.field("group"), pa.array(DESCRIBING)).to_numpy(zero_copy_only=False)
        tags = np.where(describing, pc.list_value_length(runs.field("tags")).to_numpy(), 0)
        return np.diff(np.append(0, np.cumsum(tags))[begins]) >= self.settings.least  # type: ignore[no-any-return]

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


def _texts(read: pa.Array, earlier: tuple[Array, pa.Array]) -> tuple[Array, pa.Array]:
    """The number of each picture's text, -1 where it has none, and the card's tags of them: what was read, or else `earlier`."""
    rows, texts = earlier
    places = np.flatnonzero(read.is_valid().to_numpy(zero_copy_only=False))
    said = pa.array([says(text) for text in read.drop_null().to_pylist()], pa.string())
    found = np.full(len(read), -1)
    found[rows[::-1]] = np.arange(len(rows))[::-1]  # of several the first is assigned last
    there = said.is_valid().to_numpy(zero_copy_only=False)
    found[places[there]] = len(texts) + np.flatnonzero(there)
    return found, pa.concat_arrays([texts, said])
