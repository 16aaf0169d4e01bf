"""What kind of tag each one is and how it is written: the tagger's by their place in its list, sidecars' as they are found."""

from collections.abc import Container
from typing import NamedTuple

import numpy as np
import pyarrow as pa

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
    """Tags as rows (place in KINDS or -1, number of the text, number of the series' text or -1); texts are numbered as met."""

    def __init__(self, tags: TagList | None, not_series: tuple[str, ...] = ()):
        self._not_series = frozenset(not_series)
        self._numbers: dict[str, int] = {}
        self._rows: dict[tuple[str | None, str], tuple[int, int, int]] = {}  # (kind as told, tag as found) -> its row
        self._texts = pa.array([], pa.string())
        listed = zip(tags.names, tags.categories, strict=True) if tags else ()
        known = [word(name, _KIND_OF.get(category, "other"), self._not_series) for name, category in listed]
        self.listed = np.array([self._row(one) for one in known], np.int64).reshape(-1, 3)  # by the tagger's output
        self._known = _by_text(known)

    def rows(self, values: pa.Array, kind: str | None = None) -> "np.ndarray":
        """The rows of a sidecar's tags; where `kind` is None the tagger's list says what a tag is, else it is general."""
        coded = values.dictionary_encode()
        table = np.array([self._found(text, kind) for text in coded.dictionary.to_pylist()], np.int64).reshape(-1, 3)
        return np.vstack([table, _NOTHING])[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def texts(self, numbers: "np.ndarray") -> pa.Array:
        """The texts of numbers."""
        if len(self._texts) != len(self._numbers):
            self._texts = pa.array(list(self._numbers), pa.string())
        return self._texts.take(pa.array(numbers))

    def _found(self, text: str, kind: str | None) -> tuple[int, int, int]:
        row = self._rows.get((kind, text))
        if row is None:
            plain = word(text, kind or "general", self._not_series)
            found = plain if kind else self._known.get(plain.name, plain)
            row = self._rows[kind, text] = self._row(found) if found.name else _NOTHING
        return row

    def _row(self, one: Word) -> tuple[int, int, int]:
        series = self._number(one.series) if one.series else -1
        return KINDS.index(one.kind) if one.kind in KINDS else -1, self._number(one.name), series

    def _number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))


def by_kind(rows: "np.ndarray", tags: "np.ndarray") -> list[tuple["np.ndarray", "np.ndarray"]]:
    """Pictures and numbers of texts for each of KINDS, from pictures and their tags' rows; characters bring their series."""
    kind, name, series = tags.T
    found = np.where(kind == KINDS.index("series"), name, series)
    picks = ((kind == KINDS.index("character"), name), (found >= 0, found), (kind == KINDS.index("general"), name))
    return [(rows[pick], numbers[pick]) for pick, numbers in picks]


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
