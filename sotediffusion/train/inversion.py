"""Textual inversion while it is trained (Gal et al. 2022): a few rows below a text tower's table of tokens, which stays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sotediffusion.models.text import TextTower
from sotediffusion.text.tokenizer import Tokenizer
from sotediffusion.text.words import WordTokenizer
from sotediffusion.types import UserError
from sotediffusion.weights.embeddings import MAX_VECTORS


@dataclass(frozen=True)
class EmbeddingSettings:
    """A word of one's own in the place of weights; 0 vectors train the weights. Its name is the run's `name`."""

    vectors: int = 0
    start: str = "1girl"  # the text whose tokens it begins as, over and over

    def check(self) -> None:
        """UserError for a number that means nothing."""
        if not 0 <= self.vectors <= MAX_VECTORS:
            raise UserError("embedding.vectors", f"{self.vectors} is out of range; give 1 to {MAX_VECTORS}, or 0 for none")


class Longer:
    """A table of vectors with more rows, which are not copied together: looking up takes from both, everything else the sum."""

    def __init__(self, base: Tensor, rows: Tensor):
        self.base, self.rows = base, rows

    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding:
            return args[1].look_up(args[0])
        return func(*(torch.cat([arg.base, arg.rows.to(arg.base)]) if isinstance(arg, Longer) else arg for arg in args),
                    **(kwargs or {}))  # fmt: skip

    def look_up(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of ids (...)."""
        count = len(self.base)
        known = F.embedding(ids.clamp(max=count - 1), self.base)
        own = F.embedding((ids - count).clamp(min=0), self.rows).to(known.dtype)
        return torch.where((ids >= count)[..., None], own, known)


class _Below(nn.Module):
    """What the tower asks its table of."""

    def __init__(self, rows: nn.Parameter):
        super().__init__()
        self.own = [rows]  # in a list: another module's

    def forward(self, base: Tensor) -> Longer:
        return Longer(base, self.own[0])


class Words(nn.Module):
    """The vectors of one word, below the table of a tower that is not among this module's children."""

    def __init__(self, tower: TextTower, tokenizer: Tokenizer, name: str, settings: EmbeddingSettings):
        """UserError: a name that cannot be written in a prompt, a start without tokens."""
        super().__init__()
        table = tower.text_model.embeddings.token_embedding
        ids = tokenizer.encode(settings.start)
        if not ids:
            raise UserError("embedding.start", f"{settings.start!r} says nothing; name what the word is near to, such as 1girl")
        begin = torch.tensor((ids * settings.vectors)[: settings.vectors], device=table.weight.device)
        self.vectors = nn.Parameter(table.weight.detach()[begin].float().clone())
        count = len(table.weight)
        self.tokenizer = WordTokenizer(tokenizer, {name: range(count, count + settings.vectors)})
        self.said = [*range(count, count + settings.vectors), *tokenizer.encode(",")]
        self.eos, self.pad, self.tower = tokenizer.eos, tokenizer.pad, [tower]
        parametrize.register_parametrization(table, "weight", _Below(self.vectors), unsafe=True)

    def say(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Captions (B, K, 77) that begin with the word; empty ones stay empty, the first chunk loses what then is too long."""
        tokens, mask = tokens.clone(), mask.clone()
        for row, seen in zip(tokens[:, 0], mask[:, 0], strict=True):
            last = int((row == self.eos).int().argmax())
            if last > 1:
                hidden = bool(seen[-1]) if last + 1 < len(row) else True
                text = [*self.said, *row[1:last].tolist()][: len(row) - 2]
                end = len(text) + 1
                row[1:end] = torch.tensor(text)
                row[end], row[end + 1 :] = self.eos, self.pad
                seen[: end + 1], seen[end + 1 :] = True, hidden
        return tokens, mask

    def train(self, mode: bool = True) -> "Words":
        """Also of the tower."""
        self.tower[0].train(mode)
        return super().train(mode)
