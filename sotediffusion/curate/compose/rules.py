"""Date, source and custom tags of a picture, from its folder and its sidecar; every rule is a line of the settings."""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.config import plain
from sotediffusion.curate.compose.matching import READS, Pile, Test, Verdicts, below, filled, fits, names_in
from sotediffusion.curate.lists import Array, nest, typed
from sotediffusion.curate.step import Step
from sotediffusion.curate.tag.taglist import words
from sotediffusion.types import UserError

FIRST_YEAR = 1900  # what a sidecar dates before it has no date


@dataclass(frozen=True)
class Rule:
    """Tags for the pictures in some folders, or with some value in a field of their sidecar.

    A folder is a name anywhere on the path; `*` and `?` stand for anything, case is ignored. A field is site, artist, series,
    date, tags or a key of the sidecar's own, where dots go deeper. In `tags`, {field} is filled in, {folder} with the folder
    below the one that matched; a tag that lacks a value is left out, and after ` | ` stands what to take instead.
    """

    folders: tuple[str, ...] = ()
    field: str = ""
    values: tuple[str, ...] = ()  # none: any value
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source(Rule):
    """Where pictures come from; a picture's source is the first that matches."""

    name: str = ""
    dated: bool = False  # whether its pictures have a date tag
    keep: tuple[str, ...] = ()  # tags of the sidecar that are this source's custom tags


@dataclass(frozen=True)
class Era:
    """A date tag: for pictures since a year, up to the next era, and for undated ones in folders of such names."""

    tag: str
    since: int
    folders: tuple[str, ...] = ()


CARD_ERAS = (
    Era("newest", 2022, ("newest",)), Era("recent", 2019, ("recent",)), Era("mid", 2015, ("mid",)),
    Era("early", 2011, ("early",)), Era("oldest", FIRST_YEAR, ("oldest",)),
)  # fmt: skip
CARD_SOURCES = (
    Source(name="pixiv", folders=("pixiv",), field="site", values=("pixiv",), tags=("art by {artist}",), keep=("art by *",)),
    Source(name="visual novel cg", folders=("visual?novel?cg*",), field="tags", values=("visual novel cg",),
           tags=("{title} ({short}) | {folder}", "visual novel cg"), keep=("* (???)",)),
    Source(name="anime wallpaper", folders=("anime?wallpaper*",), field="tags", values=("anime wallpaper",),
           tags=("anime wallpaper",), dated=True),
)  # fmt: skip


@dataclass(frozen=True)
class RulesSettings:
    """The card's dates, sources and custom tags."""

    eras: tuple[Era, ...] = CARD_ERAS  # newest first
    sources: tuple[Source, ...] = CARD_SOURCES
    other: str = "image board"  # the source, with dates, of what no rule matches and no sidecar names the site of
    custom: tuple[Rule, ...] = ()  # all that match add their tags


class Rules(Step):
    """Date tag, source and custom tags."""

    name = "rules"
    version = 1
    reads = tuple(READS.names)
    writes = pa.schema([("date", pa.string()), ("source", pa.string()), ("custom", pa.list_(pa.string()))])

    def __init__(self, settings: RulesSettings = RulesSettings()):
        self.settings = settings
        check(settings)

    def identity(self) -> dict[str, Any]:
        """All rules."""
        return plain(self.settings)

    def setup(self) -> None:
        """Compile the rules."""
        self.book = Book(self.settings)

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The three columns of all pictures at once; what a folder, a year or a tag decides is decided once."""
        columns = typed(rows, READS)
        own = columns["side_date"]
        columns["side_date"] = pc.coalesce(pc.if_else(pc.equal(own, ""), None, own), columns["group_date"])
        return pa.record_batch(self.book.judge(Pile(columns, self.book.verdicts)), schema=self.writes)


class Book:
    """The rules, compiled."""

    def __init__(self, settings: RulesSettings):
        self.settings = settings
        self.rules: tuple[Rule, ...] = (*settings.sources, *settings.custom)
        self.eras = [era.tag for era in settings.eras]
        tests: dict[str, list[Test]] = {"tags": [_equals(tag) for tag in self.eras]}
        self.columns = [_ask(tests, rule.field, fits(rule.values)) if rule.values else None for rule in self.rules]
        keep = [rule.keep if isinstance(rule, Source) else () for rule in self.rules]
        self.kept = [_ask(tests, "tags", _worded(fits(patterns))) if patterns else None for patterns in keep]
        self.verdicts = {field: Verdicts(asked) for field, asked in tests.items()}
        self.folders = [fits(rule.folders) for rule in self.rules]
        self.of_eras = [fits(era.folders) for era in settings.eras]
        named = [*(rule.folders for rule in self.rules), *(era.folders for era in settings.eras)]
        self.named = lru_cache(1 << 16)(fits(tuple(name for folders in named for name in folders)))
        self.place = lru_cache(1 << 16)(self._place)
        self.year = lru_cache(1 << 10)(self._year)
        self.wanted = [names_in(rule.tags) for rule in self.rules]
        self.written = lru_cache(1 << 16)(self._written)

    def judge(self, pile: Pile) -> list[pa.Array]:
        """Date tag, source and custom tags of some pictures."""
        places = [self.place(folder) for folder in pile.folders]
        rows = [self._holds(rule, pile, places) for rule in range(len(self.rules))]
        holds = np.array(rows, bool).reshape(len(self.rules), pile.count)
        count = len(self.settings.sources)
        own = np.full(pile.count, -1)
        for source in reversed(range(count)):
            own[holds[source]] = source
        holds[:count] = own == np.arange(count)[:, np.newaxis]
        return [self._dates(pile, places, own), self._sources(pile, own), self._custom(pile, places, holds)]

    def _place(self, folder: str) -> tuple[list[str | None], int]:
        """For every rule the folder below its own, empty if there is none, null where it does not match; and the folder's era."""
        names = [name.removesuffix(".tar") for name in folder.replace("::", "/").split("/")]
        if not any(map(self.named, names)):
            return [None] * len(self.rules), -1
        eras = (place for name in reversed(names) for place, test in enumerate(self.of_eras) if test(name))
        return [below(names, test) for test in self.folders], next(eras, -1)

    def _holds(self, rule: int, pile: Pile, places: list[tuple[list[str | None], int]]) -> Array:
        """Which pictures have a folder of the rule, or a value that it wants in its field."""
        found: Array = np.array([place[rule] is not None for place, _ in places])[pile.folder]
        field = self.rules[rule].field
        return found | pile.have(field, self.columns[rule]) if field else found

    def _dates(self, pile: Pile, places: list[tuple[list[str | None], int]], own: Array) -> pa.Array:
        years = pc.utf8_slice_codeunits(pile.columns["side_date"].fill_null(""), 0, 4).dictionary_encode()
        by_year = np.array([self.year(year) for year in years.dictionary.to_pylist()], np.int64)[years.indices.to_numpy()]
        by_folder = np.array([era for _, era in places])[pile.folder]
        by_tag = np.full(pile.count, -1)
        pictures, said = pile.own_tags()
        items, eras = np.nonzero(said[:, : len(self.eras)])
        by_tag[pictures[items[::-1]]] = eras[::-1]  # of several the first is assigned last
        era = np.where(by_year >= 0, by_year, np.where(by_tag >= 0, by_tag, by_folder))
        dated = np.array([source.dated for source in self.settings.sources] + [True])[own]
        return pa.array(self.eras, pa.string()).take(pa.array(era, mask=~dated | (era < 0)))

    def _year(self, year: str) -> int:
        """The place of a year's era, -1 for what is no year or before all eras."""
        if len(year) != 4 or not (year.isascii() and year.isdigit()):
            return -1
        since = (place for place, era in enumerate(self.settings.eras) if int(year) >= max(era.since, FIRST_YEAR))
        return next(since, -1)

    def _sources(self, pile: Pile, own: Array) -> pa.Array:
        site = pile.columns["side_site"]
        named = pa.array([source.name for source in self.settings.sources], pa.string()).take(pa.array(own, mask=own < 0))
        return pc.coalesce(named, pc.if_else(pc.equal(site, ""), None, site), pa.scalar(self.settings.other))

    def _custom(self, pile: Pile, places: list[tuple[list[str | None], int]], holds: Array) -> pa.Array:
        found: dict[int, list[str]] = defaultdict(list)
        for rule, fitting in enumerate(holds):
            if fitting.any():
                self._keep(rule, pile, fitting, found)
                self._fill(rule, pile, [below[rule] for below, _ in places], np.flatnonzero(fitting), found)
        tags = {picture: list(dict.fromkeys(found[picture])) for picture in sorted(found)}
        counts = np.zeros(pile.count + 1, np.int64)
        counts[np.array([*tags], np.int64) + 1] = [len(some) for some in tags.values()]
        return nest(pa.array([tag for some in tags.values() for tag in some], pa.string()), np.cumsum(counts))

    def _keep(self, rule: int, pile: Pile, fitting: Array, found: dict[int, list[str]]) -> None:
        """The sidecar's tags that a source keeps."""
        column = self.kept[rule]
        if column is not None:
            pictures, said = pile.own_tags()
            for item in np.flatnonzero(said[:, column] & fitting[pictures]).tolist():
                found[int(pictures[item])].append(words(pile.own_tag(item)))

    def _fill(self, rule: int, pile: Pile, folders: list[str | None], rows: Array, found: dict[int, list[str]]) -> None:
        """The rule's templates, filled in."""
        wanted = self.wanted[rule]
        values = [pile.values(name, rows) for name in wanted if name != "folder"]
        places = [folders[place] for place in pile.folder[rows].tolist()] if "folder" in wanted else [None] * len(rows)
        for row, folder, *given in zip(rows.tolist(), places, *values, strict=True):
            found[row] += self.written(rule, folder or "", *given)

    def _written(self, rule: int, folder: str, *given: tuple[str, ...]) -> list[str]:
        names = [name for name in self.wanted[rule] if name != "folder"]
        values = {"folder": (folder,), **dict(zip(names, given, strict=True))}
        return [tag for template in self.rules[rule].tags for tag in filled(template, values)]


def check(settings: RulesSettings) -> None:
    """Raise UserError for rules that cannot be meant: eras out of order, sources without a name, templates that do not parse."""
    years = [era.since for era in settings.eras]
    if any(later <= earlier for later, earlier in zip(years, years[1:], strict=False)):
        raise UserError("rules.eras", f"the years {years} do not descend; write the newest era first")
    if any(not source.name for source in settings.sources):
        raise UserError("rules.sources", 'a source has no name; give it one, as in name = "pixiv"')
    for rule in (*settings.sources, *settings.custom):
        if not rule.folders and not rule.field:
            raise UserError("rules", f"the rule for {list(rule.tags)} matches nothing; give it folders or a field")
        for template in rule.tags:
            try:
                list(Formatter().parse(template))
            except ValueError as error:
                raise UserError("rules", f"{template!r} is no template ({error}); write for example art by {{artist}}") from None


def _ask(tests: dict[str, list[Test]], field: str, test: Test) -> int:
    """The place of a test among those of its field."""
    tests.setdefault(field, []).append(test)
    return len(tests[field]) - 1


def _equals(tag: str) -> Test:
    return lambda text: text == tag


def _worded(test: Test) -> Test:
    return lambda text: test(words(text))
