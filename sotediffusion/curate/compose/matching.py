"""Patterns and templates of rules: which texts and folders fit, what a sidecar says of a field, tags filled in from it."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import count, islice, product
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.lists import Array, encode, flatten
from sotediffusion.curate.tag.taglist import words

FIELDS = {"site": ("side_site",), "artist": ("side_artist",), "series": ("side_series",), "date": ("side_date",),
          "tags": ("side_tags", "side_general", "side_meta")}  # fmt: skip
LISTS = ("side_artist", "side_series", "side_tags", "side_general", "side_meta")
_COLUMNS = dict.fromkeys(["path", "side_extra", "group_date", *(column for columns in FIELDS.values() for column in columns)])
READS = pa.schema([(name, pa.list_(pa.string()) if name in LISTS else pa.string()) for name in _COLUMNS])
GAPS = re.compile(r"[,\s]+")  # what would end a tag or break a line
Test = Callable[[str], bool]


def fits(patterns: tuple[str, ...]) -> Test:
    """Whether a text fits one of the patterns: `*` and `?` stand for anything, case is ignored."""
    whole = re.compile("|".join(translate(pattern) for pattern in patterns) or r"(?!)", re.IGNORECASE)
    return lambda text: whole.match(text) is not None


def below(names: list[str], test: Test) -> str | None:
    """Of the folders on a path the one below the first that passes the test, empty if it is the last; None if none passes."""
    place = next((place for place, name in enumerate(names) if test(name)), None)
    if place is None:
        return None
    return names[place + 1] if place + 1 < len(names) else ""


class Verdicts:
    """What each of some tests says of texts, asked once of every text and then looked up by its number."""

    def __init__(self, tests: Sequence[Test]):
        self._tests = tests
        self._numbers: dict[str, int] = defaultdict(count().__next__)
        self._said = np.zeros((0, len(tests)), bool)

    def of(self, texts: list[str]) -> Array:
        """A row of answers for each text (T, tests)."""
        numbers = np.fromiter(map(self._numbers.__getitem__, texts), np.int64, len(texts))
        if new := len(self._numbers) - len(self._said):
            last = [*islice(reversed(self._numbers), new)][::-1]
            answers = [[test(text) for test in self._tests] for text in last]
            self._said = np.concatenate([self._said, np.array(answers, bool).reshape(new, -1)])
        return self._said[numbers]


def names_in(templates: Sequence[str]) -> list[str]:
    """The fields that templates want, each once."""
    return list(dict.fromkeys(name for template in templates for _, name in _parts(template) if name is not None))


@lru_cache(1 << 10)
def _parts(template: str) -> list[tuple[str, str | None]]:
    return [(text, name) for text, name, _, _ in Formatter().parse(template)]


def filled(template: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """The first of the template's choices, parted by ` | `, whose fields all have values: a tag for each of these."""
    return next((tags for choice in template.split(" | ") if (tags := _fill(choice.strip(), values))), [])


def _fill(template: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    texts, names = zip(*_parts(template), strict=True)
    found = [[""] if name is None else values[name] for name in names]
    if any(name is not None and not any(value) for name, value in zip(names, found, strict=True)):
        return []
    tags = ("".join(part for pair in zip(texts, one, strict=True) for part in pair) for one in product(*found))
    return [GAPS.sub(" ", words(tag)).strip() for tag in tags]


def texts_of(value: Any) -> tuple[str, ...]:
    """A value of a sidecar, or all values of a list, as texts; what is empty or no text or number is left out."""
    values = value if isinstance(value, list) else [value]
    plain = (item for item in values if isinstance(item, str | int | float) and not isinstance(item, bool))
    return tuple(str(item) for item in plain if item != "")


@lru_cache(1 << 12)
def _parsed(extra: str) -> Any:
    try:
        return json.loads(extra)
    except ValueError:
        return None


def extra_texts(extra: str | None, name: str) -> tuple[str, ...]:
    """The values of a sidecar's own key, where dots go deeper."""
    value = _parsed(extra or "null")
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return texts_of(value)


class Items(NamedTuple):
    """The values of a field, one after the other: whose each is and its code; the texts by code, and what is said of each item.

    The first `own` of them are those of the field's first column.
    """

    pictures: Array
    codes: Array
    texts: list[str]
    said: Array  # (items, tests)
    own: int


class Pile:
    """N pictures side by side: their folders, and what their sidecars say by field."""

    def __init__(self, columns: dict[str, pa.Array], verdicts: Mapping[str, Verdicts]):
        self.columns, self.verdicts, self.count = columns, verdicts, len(columns["path"])
        self._items: dict[str, Items] = {}
        parts = pc.split_pattern(columns["path"], "/", max_splits=1, reverse=True)
        deep = np.flatnonzero(pc.list_value_length(parts).to_numpy() == 2)
        coded = parts.values.take(pa.array(parts.offsets.to_numpy()[deep])).dictionary_encode()
        self.folders: list[str] = ["", *coded.dictionary.to_pylist()]
        self.folder = np.zeros(self.count, np.int64)  # (N,) of each picture
        self.folder[deep] = coded.indices.to_numpy() + 1

    def have(self, name: str, test: int | None) -> Array:
        """Which pictures (N,) have a value in a field that passes a test, any value if there is none."""
        items, found = self.items(name), np.zeros(self.count, bool)
        found[items.pictures if test is None else items.pictures[items.said[:, test]]] = True
        return found

    def own_tags(self) -> tuple[Array, Array]:
        """The tags without a kind: whose each is (M,), and what is said of it (M, tests)."""
        tags = self.items("tags")
        return tags.pictures[: tags.own], tags.said[: tags.own]

    def own_tag(self, item: int) -> str:
        """One of them."""
        tags = self.items("tags")
        return tags.texts[tags.codes[item]]

    def items(self, name: str) -> Items:
        """All values of a field."""
        if name not in self._items:
            found = [self._column(column) for column in FIELDS[name]] if name in FIELDS else [self._extra(name)]
            codes, known = encode([values for _, values in found])
            texts: list[str] = known.to_pylist()
            code, there = np.concatenate(codes), np.array([bool(text) for text in texts] + [False])
            kept = there[code]
            pictures = np.concatenate([np.repeat(np.arange(self.count), np.diff(starts)) for starts, _ in found])[kept]
            said = self.verdicts[name].of(texts)[code[kept]] if name in self.verdicts else np.zeros((len(pictures), 0), bool)
            self._items[name] = Items(pictures, code[kept], texts, said, int(kept[: len(codes[0])].sum()))
        return self._items[name]

    def values(self, name: str, rows: Array) -> list[tuple[str, ...]]:
        """The values of a field for some pictures."""
        columns = FIELDS.get(name, ("side_extra",))
        found = zip(*(self.columns[column].take(pa.array(rows)).to_pylist() for column in columns), strict=True)
        if name not in FIELDS:
            return [extra_texts(extra, name) for (extra,) in found]
        return [tuple(text for one in some for text in texts_of(one)) for some in found]

    def _column(self, name: str) -> tuple[Array, pa.Array]:
        column = self.columns[name]
        return flatten(column) if pa.types.is_list(column.type) else (np.arange(self.count + 1), column)

    def _extra(self, name: str) -> tuple[Array, pa.Array]:
        found = self.values(name, np.arange(self.count))
        starts = np.cumsum([0, *map(len, found)])
        return starts, pa.array([text for texts in found for text in texts], pa.string())
