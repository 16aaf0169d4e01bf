"""Which text an embedding stands for: those that this process made are remembered, so that the policy can be asked about them."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ..types import UserError

KINDS = (torch.float32, torch.bfloat16, torch.float16)  # that a caller may cast embeddings to without making others of them
MOST = 30_000  # digests; the oldest are forgotten

_TEXTS: dict[bytes, str] = {}


def remember(text: str, hidden: Tensor, pooled: Tensor) -> None:
    """Keeps in mind that the hidden states (L, D) and the pooled ones (1, P) were made of `text`."""
    for kind in KINDS:
        _TEXTS[_digest(hidden.to(kind), pooled.to(kind))] = text
    while len(_TEXTS) > MOST:
        _TEXTS.pop(next(iter(_TEXTS)), None)


def recall(field: str, hidden: Tensor, pooled: Tensor) -> Iterator[str]:
    """The texts of embeddings (B, L, D) and their pooled ones (B, 1, P), which were made together. UserError: of none known."""
    for one, other in zip(hidden, pooled, strict=True):
        text = _TEXTS.get(_digest(one, other))
        if text is None:
            raise UserError(field, "are not what encode_prompt made of a text in this process, so the policy cannot be asked "
                                   "about them; give them and their pooled ones unchanged, or give the text")  # fmt: skip
        yield text


def _digest(hidden: Tensor, pooled: Tensor) -> bytes:
    values = torch.cat([hidden.flatten(), pooled.flatten()]).float().cpu().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
