"""From a prompt to what the stages are conditioned on: chunks through the text tower, weighted, and pooled.

B rows, K chunks of 77 tokens, L = 77 K, D text width, P projection width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .models.text import TextTower
from .text.prompt import Chunk, chunk_pair, chunk_prompt
from .text.tokenizer import Tokenizer


def encode_pair(tower: TextTower, tokenizer: Tokenizer, prompt: str, negative: str, text_mask: str) -> tuple[Tensor, Tensor]:
    """A prompt and its negative, wildcards already chosen -> hidden (2, L, D) and pooled (2, 1, P)."""
    wanted, avoided = chunk_pair(prompt, negative, tokenizer, text_mask)
    empty = chunk_prompt("", tokenizer, text_mask)
    texts = [encode_chunks(tower, chunks, empty) for chunks in (wanted, avoided)]
    hidden, pooled = zip(*texts, strict=True)
    return torch.cat(hidden), torch.cat(pooled)


def encode_chunks(tower: TextTower, chunks: Sequence[Chunk], empty: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """The chunks of one text -> hidden (1, L, D), chunk after chunk, and pooled (1, 1, P) of the first chunk.

    A weight w moves a token's state away from what it is in the empty prompt: empty + w (state - empty), as ComfyUI does.
    """
    hidden, pooled = _run(tower, chunks)
    if any(weight != 1 for chunk in chunks for weight in chunk.weights):
        weights = torch.tensor([chunk.weights for chunk in chunks], device=hidden.device)[..., None]
        nothing, _ = _run(tower, empty)
        hidden = torch.where(weights == 1, hidden, torch.lerp(nothing, hidden, weights.to(hidden.dtype)))
    return hidden.flatten(0, 1)[None], pooled[:1, None]


def _run(tower: TextTower, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """Hidden (K, 77, D) and pooled (K, P) of chunks."""
    device = tower.text_projection.weight.device
    tokens = torch.tensor([chunk.tokens for chunk in chunks], device=device)
    return tower(tokens, torch.tensor([chunk.mask for chunk in chunks], device=device))
