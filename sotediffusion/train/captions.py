"""Captions composed when they are read: tags in random order, some left out, as token ids of one chunk.

Everything random about a caption follows from its sample's key, so any process composes the same one.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sotediffusion.text.tokenizer import FolderTokenizer, Tokenizer, train_bpe
from sotediffusion.train.data import Folder, Key
from sotediffusion.train.loss import CAPTION_STREAM, generator

CENSUS = 20_000  # samples whose captions a tokenizer is made from


@dataclass(frozen=True)
class Captioning:
    """How captions vary. Half are whole; the rest keep a random share of their tags, as users' prompts are short."""

    dropout: float = 0.05  # share of samples without a caption, which makes guidance work
    whole: float = 0.5  # share of the captions that keep all tags
    least: float = 0.15  # smallest share of tags that the others keep on average


def compose(tags: dict[str, list[str]], key: Key, captioning: Captioning) -> list[str]:
    """The tags of one reading of a sample, in order; empty when the caption is dropped."""
    rng = generator(*key, CAPTION_STREAM)
    pool = [tag for group in tags.values() for tag in group]
    if rng.random() < captioning.dropout:
        return []
    share = 1.0 if rng.random() < captioning.whole else rng.uniform(captioning.least, 1.0)
    kept = [tag for tag in pool if rng.random() < share]
    return [kept[i] for i in rng.permutation(len(kept))]


class Captions:
    """Composes and encodes captions."""

    def __init__(self, tokenizer: Tokenizer, length: int = 77, captioning: Captioning = Captioning()):
        self.tokenizer, self.length, self.captioning = tokenizer, length, captioning

    def ids(self, tags: list[str]) -> list[int]:
        """Ids of "a, b, c", of as many of the first tags as fit in a chunk."""
        # The whole text is encoded, never tag by tag: a comma after a quote or a bracket is one token with it.
        while len(result := self.tokenizer.encode(", ".join(tags))) > self.length - 2:
            tags = tags[:-1]
        return result

    def encode(self, tags: list[dict[str, list[str]]], keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) and mask (B, L), false on padding: the chunk that drawing makes of the same text."""
        tokens = torch.full((len(keys), self.length), self.tokenizer.pad)
        mask = torch.zeros(len(keys), self.length, dtype=torch.bool)
        for row, (groups, key) in enumerate(zip(tags, keys, strict=True)):
            ids = [self.tokenizer.bos, *self.ids(compose(groups, key, self.captioning)), self.tokenizer.eos]
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        return tokens, mask


def make_tokenizer(folder: Folder, size: int, path: Path) -> FolderTokenizer:
    """The tokenizer in the folder `path`, learnt from the captions of `folder` when it is not there yet."""
    if not (path / "tokenizer.json").is_file():
        path.mkdir(parents=True, exist_ok=True)
        texts = [", ".join(tag for group in entry.tags.values() for tag in group) for entry in folder.entries[:CENSUS]]
        train_bpe(texts, size, path / "tokenizer.json")
    return FolderTokenizer(path)
