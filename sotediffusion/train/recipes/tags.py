"""Telling tags: which of a vocabulary samples have, and how far an answer is from that."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def marks(samples: Sequence[Iterable[Hashable]], index: Mapping[Any, int]) -> Tensor:
    """(B, tags), one where a sample has a tag; what is not in the index is left out."""
    result = torch.zeros(len(samples), len(index))
    for row, tags in enumerate(samples):
        result[row, [index[tag] for tag in tags if tag in index]] = 1.0
    return result


def telling_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of (B, tags), summed over the tags, a mean over the samples."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1).mean()


def told_wrong(logits: Tensor, truth: Tensor) -> float:
    """How many tags of a sample are told wrong, on average."""
    return ((logits > 0) != (truth > 0.5)).float().sum(1).mean().item()
