"""What helps in writing prompts: tags to complete, styles, wildcards, and how many tokens a text takes."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sotediffusion.miniature import vocabulary
from sotediffusion.serve.doors.wildcards import Wildcards
from sotediffusion.serve.menu import Offer
from sotediffusion.text.prompt import chunk_prompt, expand_wildcards
from sotediffusion.text.tokenizer import ClipTokenizer, FolderTokenizer, Tokenizer

GENERAL, META = 0, 5  # categories, as boorus number them


@dataclass(frozen=True)
class Tag:
    """A tag that can be completed; `alias` is the other name by which it was found."""

    name: str
    category: int
    count: int
    alias: str | None = None


class Words:
    """The files of a folder: tags.csv (name, category, count, "aliases"), styles.csv (name, prompt, negative) and wildcards/."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.wildcards = Wildcards(folder / "wildcards")
        self._tokenizers: dict[str | None, Tokenizer] = {}

    def complete(self, start: str, limit: int) -> list[dict[str, Any]]:
        """Tags that begin with this text or, after those, have a word that does; the most frequent first."""
        wanted = _plain(start)
        if not wanted:
            return []
        first = [tag for key, tag in self._tags if key.startswith(wanted)]
        inside = f" {wanted}"
        rest = [tag for key, tag in self._tags if inside in key and not key.startswith(wanted)]
        found: dict[str, Tag] = {}
        for tag in first + rest:
            found.setdefault(tag.name, tag)
        return [asdict(tag) for tag in list(found.values())[:limit]]

    def styles(self) -> list[dict[str, str]]:
        """Texts by name that are put around a prompt, as A1111's styles.csv has them."""
        rows = csv.DictReader(_read(self.folder / "styles.csv"), restval="")
        names = {"name": "name", "prompt": "prompt", "negative": "negative_prompt"}
        return [{ours: row.get(theirs) or "" for ours, theirs in names.items()} for row in rows if row.get("name")]

    def count(self, text: str, offer: Offer) -> dict[str, int]:
        """Tokens of a prompt without what begins and ends its chunks, and how many chunks of 77 there are. UserError."""
        tokenizer = self._tokenizer(offer)
        chunks = chunk_prompt(expand_wildcards(text, 0, "text"), tokenizer, offer.text_mask, "text")
        return {"tokens": sum(chunk.tokens.index(tokenizer.eos) - 1 for chunk in chunks), "chunks": len(chunks)}

    def _tokenizer(self, offer: Offer) -> Tokenizer:
        if offer.tokenizer not in self._tokenizers:
            made = ClipTokenizer() if offer.tokenizer is None else FolderTokenizer(offer.tokenizer)
            self._tokenizers[offer.tokenizer] = made
        return self._tokenizers[offer.tokenizer]

    @cached_property
    def _tags(self) -> list[tuple[str, Tag]]:
        """Every name in plain form, aliases too, with its tag; the most frequent first."""
        file = self.folder / "tags.csv"
        found: list[tuple[str, Tag]] = []
        if not file.is_file():
            return [(name, Tag(name, kind, 0)) for name, kind in _drawn_world()]
        for name, kind, count, *more in (row for row in csv.reader(_read(file)) if len(row) > 2):
            if kind.isdecimal() and count.isdecimal():  # not the heading
                tag = Tag(_spaced(name), int(kind), int(count))
                aliases = [alias.strip() for alias in ",".join(more).split(",") if alias.strip()]
                found.append((_plain(name), tag))
                found += [(_plain(alias), replace(tag, alias=_spaced(alias))) for alias in aliases]
        return sorted(found, key=lambda pair: -pair[1].count)


def _drawn_world() -> Iterable[tuple[str, int]]:
    """The tags that the embedded model was trained on."""
    words = vocabulary
    plain = (*words.HAIR_LENGTHS, *words.HAIR_STYLES, *words.EXPRESSIONS, *words.ANIMAL_EARS, *words.HEADWEAR, *words.OUTFITS)
    rest = (*words.HELD.values(), *words.BACKGROUNDS, "indoors", "outdoors", "bare shoulders", *words.GAZES, *words.FRAMINGS)
    coloured = [*(f"{color} hair" for color in words.HAIR_COLORS), *(f"{color} eyes" for color in words.EYE_COLORS)]
    yield from ((name, GENERAL) for name in ("1girl", "1boy", "solo", *coloured, *plain, *rest))
    cuts = [tag for _, tag in (*words.AESTHETIC_CUTS, *words.QUALITY_CUTS)]
    yield from ((name, META) for name in (*cuts, *words.ERAS, *words.SOURCES, "monochrome", "realistic"))


def _spaced(name: str) -> str:
    """As captions write it; faces such as ^_^ stay as they are."""
    return name.replace("_", " ") if len(name) > 3 else name


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return []
