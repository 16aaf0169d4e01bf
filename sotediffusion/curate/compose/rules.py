"""Date, source and custom tags of a picture, from its folder and its sidecar; every rule is a line of the settings."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from itertools import product
from string import Formatter
from typing import Any

import pyarrow as pa

from sotediffusion.config import plain
from sotediffusion.curate.step import Step
from sotediffusion.curate.tag.taglist import words
from sotediffusion.types import UserError

FIELDS = {"site": ("side_site",), "artist": ("side_artist",), "series": ("side_series",), "date": ("side_date",),
          "tags": ("side_tags", "side_general", "side_meta")}  # fmt: skip
FIRST_YEAR = 1900  # what a sidecar dates before it has no date
GAPS = re.compile(r"[,\s]+")  # what would end a tag or break a line
Fields = Callable[[str], Sequence[str]]


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
    reads = ("path", "side_extra", *dict.fromkeys(column for columns in FIELDS.values() for column in columns))
    writes = pa.schema([("date", pa.string()), ("source", pa.string()), ("custom", pa.list_(pa.string()))])

    def __init__(self, settings: RulesSettings = RulesSettings()):
        self.settings = settings
        check(settings)

    def identity(self) -> dict[str, Any]:
        """All rules."""
        return plain(self.settings)

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The three columns, picture by picture; what a folder alone decides is decided once."""
        book = Book(self.settings)
        columns = {name: rows[name].to_pylist() for name in self.reads}
        told = [book.judge({name: column[i] for name, column in columns.items()}) for i in range(len(rows))]
        return pa.RecordBatch.from_arrays(
            [pa.array([story[i] for story in told], field.type) for i, field in enumerate(self.writes)], schema=self.writes
        )


class Book:
    """The rules, compiled."""

    def __init__(self, settings: RulesSettings):
        self.settings = settings
        self.rules: tuple[Rule, ...] = (*settings.sources, *settings.custom)
        self.eras = frozenset(era.tag for era in settings.eras)
        self.places = lru_cache(1 << 16)(self._place)
        self.years = lru_cache(1 << 10)(self._era_of_year)

    def judge(self, row: dict[str, Any]) -> tuple[str | None, str, list[str]]:
        """Date tag, source and custom tags of one picture."""
        places, era = self.places(row["path"].rpartition("/")[0].replace("::", "/"))
        fields = _reader(row)
        count = len(self.settings.sources)
        own = next((i for i in range(count) if _holds(self.rules[i], places[i], fields)), None)
        fitting = [own] if own is not None else []
        fitting += [i for i in range(count, len(self.rules)) if _holds(self.rules[i], places[i], fields)]
        custom = [tag for i in fitting for tag in self._tags(i, places[i], fields, row["side_tags"])]
        if own is None:
            return self._date(row, era), row["side_site"] or self.settings.other, list(dict.fromkeys(custom))
        source = self.settings.sources[own]
        return (self._date(row, era) if source.dated else None), source.name, list(dict.fromkeys(custom))

    def _place(self, folder: str) -> tuple[list[str | None], str | None]:
        """For every rule the folder below its own, empty if there is none, null where it does not match; and the folder's era."""
        names = [name.removesuffix(".tar") for name in folder.split("/")]
        era = next((e.tag for name in reversed(names) for e in self.settings.eras if _any(e.folders)(name)), None)
        return [_below(names, rule.folders) for rule in self.rules], era

    def _tags(self, place: int, folder: str | None, fields: Fields, found: list[str] | None) -> Iterator[str]:
        rule = self.rules[place]
        if isinstance(rule, Source) and rule.keep:
            yield from (words(tag) for tag in found or () if _any(rule.keep)(words(tag)))
        for template in rule.tags:
            choices = (_fill(choice.strip(), folder, fields) for choice in template.split(" | "))
            yield from next((tags for tags in choices if tags), [])

    def _date(self, row: dict[str, Any], era: str | None) -> str | None:
        year = (row["side_date"] or "")[:4]
        by_year = self.years(int(year)) if year.isascii() and year.isdigit() and len(year) == 4 else None
        return by_year or next((tag for tag in row["side_tags"] or () if tag in self.eras), None) or era

    def _era_of_year(self, year: int) -> str | None:
        return next((era.tag for era in self.settings.eras if year >= max(era.since, FIRST_YEAR)), None)


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


def _holds(rule: Rule, folder: str | None, fields: Fields) -> bool:
    """Whether the rule's folder matched, or its field does."""
    if folder is not None:
        return True
    values = fields(rule.field) if rule.field else ()
    return any(map(_any(rule.values), values)) if rule.values else bool(values)


def _below(names: list[str], patterns: tuple[str, ...]) -> str | None:
    for place, name in enumerate(names):
        if patterns and _any(patterns)(name):
            return names[place + 1] if place + 1 < len(names) else ""
    return None


@lru_cache(1 << 12)
def _any(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a text fits one of the patterns; what it said of a text it remembers."""
    whole = re.compile("|".join(translate(pattern) for pattern in patterns) or r"(?!)", re.IGNORECASE)
    return lru_cache(1 << 16)(lambda text: whole.match(text) is not None)


def _fill(template: str, folder: str | None, fields: Fields) -> list[str]:
    """The template with its fields filled in, once for each value; nothing where a value is missing."""
    texts, names = zip(*((text, name) for text, name, _, _ in Formatter().parse(template)), strict=True)
    values = [[""] if name is None else [folder or ""] if name == "folder" else fields(name) for name in names]
    if any(name is not None and not any(found) for name, found in zip(names, values, strict=True)):
        return []
    filled = ("".join(part for pair in zip(texts, one, strict=True) for part in pair) for one in product(*values))
    return [GAPS.sub(" ", words(tag)).strip() for tag in filled]


def _reader(row: dict[str, Any]) -> Fields:
    """Looks up a field of a picture's sidecar: its values as texts, none where it has none."""

    def fields(name: str) -> Sequence[str]:
        if name in FIELDS:
            found = [row[column] for column in FIELDS[name] if row[column]]
            return found[0] if len(found) == 1 and isinstance(found[0], list) else [text for one in found for text in _texts(one)]
        try:
            value = json.loads(row["side_extra"] or "null")
        except ValueError:
            return []
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return _texts(value)

    return fields


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(item) for item in values if isinstance(item, str | int | float) and not isinstance(item, bool) and item != ""]
