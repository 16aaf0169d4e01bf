"""What a user wants of tags, whoever gave them: other names, a blacklist, and no tag that a longer one says already."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sotediffusion.curate.compose.lists import firsts
from sotediffusion.curate.compose.rules import CARD_ERAS, GAPS
from sotediffusion.safety.rating import RATINGS
from sotediffusion.types import UserError

GROUPS = ("aesthetic", "quality", "date", "custom", "rating", "character", "series", "rest", "text")  # the card's order
REST = GROUPS.index("rest")
Numbers = np.ndarray[Any, np.dtype[np.int64]]
NOT = ("no ", "without ")  # `no shirt` does not say `shirt`


@dataclass(frozen=True)
class TagSettings:
    """Rules for single tags. Names are compared as they are written in captions, with spaces."""

    rename: dict[str, str] = field(default_factory=dict)  # tag -> tag; two tags of one name are merged
    blacklist: tuple[str, ...] = ()  # tags never written; `*` and `?` stand for anything
    implied: Literal["words", "none"] = "words"  # words: `white shirt` says `shirt`, which is left out beside it
    implications: dict[str, tuple[str, ...]] = field(default_factory=dict)  # tag -> tags to leave out beside it
    scheme: tuple[str, ...] = (*(era.tag for era in CARD_ERAS), *RATINGS, "questionable", "explicit", "safe")  # not for the rest


class TagRules(dict[str, tuple[int, bool, tuple[int, ...]]]):
    """The rules, compiled: tag as found -> number of its name or -1, whether the rest may not say it, numbers of what it says.

    Captions are made thousands at a time, so what the rules say of a tag is looked up by number afterwards.
    """

    def __init__(self, settings: TagSettings, scheme: Iterable[str] = ()):
        """`scheme` are more words that only other groups than the rest may say."""
        check(settings)
        self._settings = settings
        self._scheme = frozenset((*settings.scheme, *scheme))
        self._black = re.compile("|".join(map(translate, settings.blacklist)) or r"(?!)")
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def __missing__(self, tag: str) -> tuple[int, bool, tuple[int, ...]]:
        name = self.name(tag)
        if name is None:
            found: tuple[int, bool, tuple[int, ...]] = (-1, False, ())
        else:
            said = tuple(self._number(other) for other in sorted(_closure(name, self._settings)))
            found = (self._number(name), name in self._scheme, said)
        self[tag] = found
        return found

    def name(self, tag: str) -> str | None:
        """How a tag is written; None for one that is not."""
        name = GAPS.sub(" ", self._settings.rename.get(tag, tag)).strip()
        return None if not name or self._black.match(name) else name

    def apply(self, row: Numbers, group: Numbers, code: Numbers, texts: pa.Array) -> tuple[Numbers, Numbers, Numbers, pa.Array]:
        """The tags (row, group, code into texts) that stay, by row and group, with their new codes and texts."""
        found = [self[text] for text in texts.to_pylist()]
        number, reserved = (np.array([one[place] for one in found], np.int64) for place in (0, 1))
        said = np.fromiter(chain.from_iterable(one[2] for one in found), np.int64)
        counts = np.array([len(one[2]) for one in found], np.int64)
        used, compact = np.unique(np.concatenate([number, said]), return_inverse=True)
        stays = (number[code] >= 0) & ((group != REST) | (reserved[code] == 0))
        row, group, code = row[stays], group[stays], code[stays]
        order = np.argsort(row * len(GROUPS) + group, kind="stable")
        row, group, code = row[order], group[order], code[order]
        struck = _struck(row, code, counts, compact[len(number) :])
        code = compact[: len(number)][code]
        first = firsts(row, code, struck)
        names = pa.array([self._names[one] if one >= 0 else "" for one in used.tolist()], pa.string())
        return row[first], group[first], code[first], names

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]


def _struck(row: Numbers, code: Numbers, counts: Numbers, said: Numbers) -> tuple[Numbers, Numbers]:
    """(row, number) of every tag that another of its row says; `said` has what each code says, one code after the other."""
    saying = counts[code] > 0
    row, code = row[saying], code[saying]
    many = counts[code]
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    starts = np.cumsum(counts) - counts
    return np.repeat(row, many), said[np.repeat(starts[code], many) + within]


def check(settings: TagSettings) -> None:
    """Raise UserError for renames in a chain or implications in a circle."""
    for old, new in settings.rename.items():
        if new in settings.rename:
            raise UserError("tags.rename", f"{old!r} becomes {new!r}, which becomes {settings.rename[new]!r}; name the last one")
    for tag in settings.implications:
        if tag in _closure(tag, settings):
            raise UserError("tags.implications", f"{tag!r} says itself in a circle; take out one of its implications")


def _closure(tag: str, settings: TagSettings) -> set[str]:
    """All tags that follow from one, by the table and by words."""
    found: set[str] = set()
    waiting = [tag]
    while waiting:
        new = set(_directly(waiting.pop(), settings)) - found
        found |= new
        waiting += new
    return found


def _directly(tag: str, settings: TagSettings) -> Iterable[str]:
    yield from settings.implications.get(tag, ())
    if settings.implied == "words" and not tag.startswith(NOT):
        words = tag.split(" ")
        yield from (" ".join(words[place:]) for place in range(1, len(words)))
