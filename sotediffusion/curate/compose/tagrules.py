"""What a user wants of tags, whoever gave them: other names, a blacklist, and no tag that a longer one says already."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import chain, count, islice
from typing import Literal

import numpy as np

from sotediffusion.curate.compose.matching import GAPS
from sotediffusion.curate.compose.rules import CARD_ERAS
from sotediffusion.curate.lists import Array, Texts
from sotediffusion.safety.rating import RATINGS
from sotediffusion.types import UserError

GROUPS = ("aesthetic", "quality", "date", "custom", "rating", "character", "series", "rest", "text")  # the card's order
REST = GROUPS.index("rest")
NOT = ("no ", "without ")  # `no shirt` does not say `shirt`


@dataclass(frozen=True)
class TagSettings:
    """Rules for single tags. Names are compared as they are written in captions, with spaces."""

    rename: dict[str, str] = field(default_factory=dict)  # tag -> tag; two tags of one name are merged
    blacklist: tuple[str, ...] = ()  # tags never written; `*` and `?` stand for anything
    implied: Literal["words", "none"] = "words"  # words: `white shirt` says `shirt`, which is left out beside it
    implications: dict[str, tuple[str, ...]] = field(default_factory=dict)  # tag -> tags to leave out beside it
    scheme: tuple[str, ...] = (*(era.tag for era in CARD_ERAS), *RATINGS, "questionable", "explicit", "safe")  # not for the rest


class TagRules:
    """The rules, compiled: what they say of a tag is worked out when it is first met and looked up by its code from then on.

    Of code C: `number[C]` is that of its name in `texts`, -1 for what is never written; `reserved[C]` whether the rest may not
    say it; `said[said_starts[C] : said_starts[C + 1]]` the numbers of what it says besides.
    """

    UNSAID = 0  # the code of what is never written

    def __init__(self, settings: TagSettings, scheme: Iterable[str] = ()):
        """`scheme` are more words that only other groups than the rest may say."""
        check(settings)
        self._settings = settings
        self._scheme = frozenset((*settings.scheme, *scheme))
        self._black = re.compile("|".join(map(translate, settings.blacklist)) or r"(?!)")
        self._codes: dict[str, int] = defaultdict(count(1).__next__)
        self.texts = Texts()
        self.number, self.reserved = np.array([-1], np.int32), np.array([False])
        self.said_starts, self.said = np.zeros(2, np.int32), np.zeros(0, np.int32)

    def codes(self, tags: list[str]) -> Array:
        """The code of each tag."""
        found = np.fromiter(map(self._codes.__getitem__, tags), np.int32, len(tags))
        if new := len(self._codes) + 1 - len(self.number):
            self._learn([*map(self.name, islice(reversed(self._codes), new))][::-1])
        return found

    def name(self, tag: str) -> str | None:
        """How a tag is written; None for one that is not."""
        name = GAPS.sub(" ", self._settings.rename.get(tag, tag)).strip()
        return None if not name or self._black.match(name) else name

    def _learn(self, names: list[str | None]) -> None:
        """The next codes, by how each is written."""
        said = [[self.texts.number(other) for other in sorted(_closure(name, self._settings))] if name else [] for name in names]
        ends = self.said_starts[-1] + np.cumsum([len(one) for one in said])
        self.number = np.append(self.number, [self.texts.number(name) if name else -1 for name in names]).astype(np.int32)
        self.reserved = np.append(self.reserved, [name in self._scheme for name in names])
        self.said_starts = np.append(self.said_starts, ends).astype(np.int32)
        self.said = np.append(self.said, [*chain.from_iterable(said)]).astype(np.int32)


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
