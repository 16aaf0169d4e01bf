"""Captions composed when they are read: tags in random order, some left out, as token ids of chunks.

Everything random about a caption follows from its sample's key, so any process composes the same one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sotediffusion.names import unknown
from sotediffusion.text.prompt import AFTER_COMMA, BACKTRACK, CHUNK, pad_chunks
from sotediffusion.text.tokenizer import FolderTokenizer, Tokenizer, train_bpe
from sotediffusion.train.data import Folder, Key
from sotediffusion.train.kohya_captions import KohyaCaptions
from sotediffusion.train.loss import CAPTION_STREAM, generator
from sotediffusion.types import UserError

CENSUS = 20_000  # samples whose captions a tokenizer is made from
KNOWN_PIECES = 1 << 17  # pieces of captions whose tokens are remembered
FORMS, ORDERS = ("tags", "kohya"), ("random", "fixed")
_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')


@dataclass(frozen=True)
class CaptionSettings:
    """How captions vary from reading to reading. Shares are of readings, from 0 to 1."""

    form: str = "tags"  # one of FORMS; "kohya" follows `kohya` and nothing else
    dropout: float = 0.05  # share without a caption, which makes guidance work
    whole: float = 1.0  # share of the captions that keep all tags
    least: float = 0.15  # smallest share of tags that the others keep on average, as users' prompts are short
    order: str = "random"  # one of ORDERS
    keep_tags: int = 0  # how many of the first tags stay in front, always
    keep_groups: tuple[str, ...] = ()  # whose tags stay in front, always
    drop_tags: dict[str, float] = field(default_factory=dict)  # group -> share of its tags left out, each by itself
    drop_groups: dict[str, float] = field(default_factory=dict)  # group -> share of readings without it
    prose: float = 0.0  # share in which a picture's prose stands for its tags
    chunks: int = 1  # of 77 tokens, that a caption may fill
    kohya: KohyaCaptions = KohyaCaptions()


@dataclass(frozen=True)
class Captioning(CaptionSettings):
    """The miniature's: half are whole, the rest keep a random share of their tags."""

    whole: float = 0.5


def compose(tags: Mapping[str, list[str]], key: Key, settings: CaptionSettings, prose: str | None = None) -> list[str]:
    """The tags of one reading of a sample, in order, or its prose alone; empty when the caption is dropped."""
    rng = generator(*key, CAPTION_STREAM)
    pool = [(group, tag) for group, some in tags.items() for tag in some]
    if rng.random() < settings.dropout:
        return []
    if prose and settings.prose and rng.random() < settings.prose:
        return [prose]
    share = 1.0 if rng.random() < settings.whole else rng.uniform(settings.least, 1.0)
    absent = [group for group, rate in settings.drop_groups.items() if rng.random() < rate]
    shares = np.array([0 if g in absent else share * (1 - settings.drop_tags.get(g, 0.0)) for g, _ in pool])
    chosen = rng.random(len(pool)) < shares
    front = [place for place, (group, _) in enumerate(pool) if place < settings.keep_tags or group in settings.keep_groups]
    chosen[front] = False
    rest = np.flatnonzero(chosen)
    if settings.order == "random":
        rest = rest[rng.permutation(len(rest))]
    return [pool[place][1] for place in (*front, *rest.tolist())]


def split_tags(line: str) -> list[str]:
    """The tags of a caption written as one line; a comma inside quotes parts nothing."""
    parts = _OUTSIDE_QUOTES.split(line) if line.count('"') % 2 == 0 and '"' in line else line.split(",")
    return [tag for part in parts if (tag := part.strip())]


def check(settings: CaptionSettings) -> None:
    """Raise UserError for settings of captions that cannot be meant."""
    for name, value, known in (("form", settings.form, FORMS), ("order", settings.order, ORDERS)):
        if value not in known:
            raise unknown(f"captions.{name}", value, known)
    shares = {name: getattr(settings, name) for name in ("dropout", "whole", "least", "prose")}
    shares |= {f"drop_tags.{group}": rate for group, rate in settings.drop_tags.items()}
    shares |= {f"drop_groups.{group}": rate for group, rate in settings.drop_groups.items()}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"captions.{name}", f"{share:g} is no share; give 0 to 1")
    idle = _not_read(settings)
    if idle:
        raise UserError(f"captions.{idle}", f"it means nothing with captions.form={settings.form}; leave it out, or take another")
    if settings.chunks < 1 or settings.keep_tags < 0:
        raise UserError("captions", f"chunks = {settings.chunks}, keep_tags = {settings.keep_tags}; take 1 or more, 0 or more")


def _not_read(settings: CaptionSettings) -> str | None:
    """The name of a setting that somebody changed and the form does not know."""
    usual = CaptionSettings()
    if settings.form == "tags":
        return None if settings.kohya == usual.kohya else "kohya"
    same = {"dropout": not settings.dropout, "order": settings.order == "fixed" and not settings.kohya.shuffle_caption}
    known = ("form", "chunks", "kohya", *(name for name, is_so in same.items() if is_so))  # or says what `kohya` says too
    free = [f.name for f in fields(usual) if f.name not in known]
    return next((name for name in free if getattr(settings, name) != getattr(usual, name)), None)


class Chunker:
    """Texts as token ids in chunks of 77: the first `count` chunks that drawing makes of the same text.

    `text_mask` is the model's convention of what the tower sees of padding. With `plain`, chunks are cut at 75 tokens wherever
    that is and there are always `count`, as in kohya's trainer.
    """

    def __init__(self, tokenizer: Tokenizer, text_mask: str = "masked", count: int = 1, plain: bool = False):
        self.tokenizer, self.text_mask, self.count, self.plain = tokenizer, text_mask, count, plain
        # Pieces are what drawing encodes by themselves too: a cut after a comma changes no token.
        self._piece = lru_cache(KNOWN_PIECES)(lambda piece: tuple(tokenizer.encode(piece)))
        self._padding = pad_chunks([], 1, tokenizer, text_mask)[0]

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, K, 77) and what the tower may look at (B, K, 77); K is that of the longest text, at most `count`."""
        rows = [self.chunks(text) for text in texts]
        most = self.count if self.plain else max(map(len, rows), default=1)
        tokens = np.empty((len(rows), most, CHUNK), np.int64)
        mask = np.empty((len(rows), most, CHUNK), bool)
        tokens[:], mask[:] = self._padding.tokens, self._padding.mask
        for row, chunks in enumerate(rows):
            for place, ids in enumerate(chunks):
                tokens[row, place, 0], tokens[row, place, len(ids) + 1] = self.tokenizer.bos, self.tokenizer.eos
                tokens[row, place, 1 : len(ids) + 1] = ids
                tokens[row, place, len(ids) + 2 :] = self.tokenizer.pad
                mask[row, place] = self.text_mask == "unmasked"
                mask[row, place, : len(ids) + 2] = True
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def chunks(self, text: str) -> list[list[int]]:
        """Ids of each chunk without bos, eos and padding; one empty chunk for an empty text."""
        ids: list[int] = []
        commas = []
        for piece in AFTER_COMMA.split(" ".join(text.split())):
            ids += self._piece(piece)
            if piece.endswith(","):
                commas.append(len(ids))
        found: list[list[int]] = []
        room, start = CHUNK - 2, 0
        while len(ids) - start > room and len(found) < self.count:
            near = [] if self.plain else [place for place in commas if room - BACKTRACK < place - start <= room]
            stop = near[-1] if near else start + room
            found.append(ids[start:stop])
            start = stop
        return [*found, ids[start:]][: self.count]


class Captions:
    """Composes and encodes captions."""

    def __init__(self, tokenizer: Tokenizer, length: int = 77, captioning: CaptionSettings = Captioning()):
        self.tokenizer, self.length, self.captioning = tokenizer, length, captioning

    def ids(self, tags: list[str]) -> list[int]:
        """Ids of "a, b, c", of as many of the first tags as fit in a chunk."""
        # The whole text is encoded, never tag by tag: a comma after a quote or a bracket is one token with it.
        while len(result := self.tokenizer.encode(", ".join(tags))) > self.length - 2:
            tags = tags[:-1]
        return result

    def compose(self, tags: list[dict[str, list[str]]], keys: list[Key]) -> list[list[str]]:
        """The tags of each caption, in order."""
        return [compose(groups, key, self.captioning) for groups, key in zip(tags, keys, strict=True)]

    def tokens(self, captions: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L), false on padding, L of the longest: the chunk that drawing makes of the same texts."""
        rows = [[self.tokenizer.bos, *self.ids(tags), self.tokenizer.eos] for tags in captions]
        tokens = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        return tokens, mask

    def encode(self, tags: list[dict[str, list[str]]], keys: list[Key]) -> tuple[Tensor, Tensor]:
        """`tokens` of captions composed of these tags."""
        return self.tokens(self.compose(tags, keys))


def make_tokenizer(folder: Folder, size: int, path: Path) -> FolderTokenizer:
    """The tokenizer in the folder `path`, learnt from the captions of `folder` when it is not there yet."""
    if not (path / "tokenizer.json").is_file():
        path.mkdir(parents=True, exist_ok=True)
        texts = [", ".join(tag for group in entry.tags.values() for tag in group) for entry in folder.entries[:CENSUS]]
        train_bpe(texts, size, path / "tokenizer.json")
    return FolderTokenizer(path)
