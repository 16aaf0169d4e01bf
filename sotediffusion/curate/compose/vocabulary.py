"""What kind of tag each one is and how it is written: the tagger's by their place in its list, sidecars' as they are found."""

from collections import defaultdict
from collections.abc import Container
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from sotediffusion.curate.lists import Array, Texts
from sotediffusion.curate.tag.taglist import CHARACTER, GENERAL, TagList, character_and_series, words

KINDS = ("character", "series", "general")
_KIND_OF = {GENERAL: "general", CHARACTER: "character"}
_NOTHING = (-1, -1, -1)


class Word(NamedTuple):
    """A tag as it goes into a caption."""

    kind: str  # of KINDS; other kinds are written nowhere
    name: str
    series: str | None = None  # of a character, where its name says so


def word(tag: str, kind: str, not_series: Container[str] = ()) -> Word:
    """A booru's tag of a known kind; `saber_(fate)` is saber of fate, unless that bracket is in `not_series`."""
    if kind == "series":
        return Word(kind, words(tag).strip().removesuffix(" (series)"))
    if kind == "character":
        name, series = character_and_series(words(tag).strip().replace(" ", "_"))
        if series and words(series) not in not_series:
            return Word(kind, words(name), words(series))
    return Word(kind, words(tag).strip())


class Vocabulary:
    """Tags as rows of a table: place in KINDS or -1, number of the text, number of the series' text or -1.

    The tagger's tags have the first rows, by its output; `nothing` is the row of what is no tag.
    """

    def __init__(self, tags: TagList | None, not_series: tuple[str, ...] = ()):
        self._not_series = frozenset(not_series)
        self.texts = Texts()
        listed = zip(tags.names, tags.categories, strict=True) if tags else ()
        known = [word(name, _KIND_OF.get(category, "other"), self._not_series) for name, category in listed]
        self.nothing = len(known)
        free = count(len(known) + 1)
        self._places = {kind: defaultdict[str, int](free.__next__) for kind in (None, *KINDS)}  # kind as told -> tag -> its row
        self.table = np.array([*map(self._row, known), _NOTHING], np.int32)
        self._known = _by_text(known)

    def places(self, texts: list[str], kind: str | None = None) -> Array:
        """The rows of a sidecar's tags; where `kind` is None the tagger's list says what a tag is, else it is general."""
        known = self._places[kind]
        before = len(known)
        found = np.fromiter(map(known.__getitem__, texts), np.int32, len(texts))
        if len(known) > before:
            rows = [self._found(text, kind) for text in islice(reversed(known), len(known) - before)][::-1]
            self.table = np.concatenate([self.table, np.array(rows, np.int32)])
        return found

    def _found(self, text: str, kind: str | None) -> tuple[int, int, int]:
        plain = word(text, kind or "general", self._not_series)
        found = plain if kind else self._known.get(plain.name, plain)
        return self._row(found) if found.name else _NOTHING

    def _row(self, one: Word) -> tuple[int, int, int]:
        series = self.texts.number(one.series) if one.series else -1
        return KINDS.index(one.kind) if one.kind in KINDS else -1, self.texts.number(one.name), series


def _by_text(known: list[Word]) -> dict[str, Word]:
    """How the tagger's words may stand in a caption: `saber`, `saber (fate)`, and `fate` as a series. The first decides."""
    found: dict[str, Word] = {}
    for one in known:
        found.setdefault(one.name, one)
        if one.series:
            found.setdefault(f"{one.name} ({one.series})", one)
    for one in known:
        if one.series:
            found.setdefault(one.series, Word("series", one.series))
    return found
