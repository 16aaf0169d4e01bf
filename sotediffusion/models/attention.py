"""Scaled dot-product attention, with a backward pass of its own on a CPU. B batch, N queries, T keys, d width of a head.

torch's fused kernel takes several times as long there to differentiate, and spelled out it keeps every one of the N x T weights,
several times over. Here heads go one after another through products that stay in the cache, and backward makes the weights
again from queries and keys (as Dao et al. 2022, "FlashAttention", section 3.1, does in tiles).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHE = 1 << 20  # bytes of weights that are worked on at once


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q (B, heads, N, d) over k, v (B, heads, T, d); mask, which is added to the
    scores and learns nothing, broadcasts to (B, heads, N, T)."""
    if not (torch.is_grad_enabled() and q.device.type == "cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else v.dtype
    return attend_by_heads(q.to(kind), k.to(kind), v.to(kind), mask)


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What `attend` gives of q, k, v of one type, with the gradients of this file."""
    rows = None if mask is None else mask.to(q.dtype).expand(*q.shape[:2], -1, -1).flatten(0, 1)
    found: Tensor = _Attend.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), rows)
    return found.unflatten(0, q.shape[:2])


def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """What each query takes of each key, (R, N, T)."""
    scale = q.shape[-1] ** -0.5
    scores = torch.bmm(q * scale, k.mT) if mask is None else torch.baddbmm(mask, q, k.mT, alpha=scale)
    return scores.softmax(-1)


def _heads(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Heads (of all rows, R) that are worked on together."""
    size = max(1, CACHE // (q.shape[1] * k.shape[1] * q.element_size()))
    for start in range(0, len(q), size):
        yield slice(start, start + size)


class _Attend(torch.autograd.Function):
    """softmax(q k' / sqrt(d) + mask) v of q (R, N, d), k, v (R, T, d), mask (R, 1 or N, T) or None."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        out = torch.empty_like(q)
        for some in _heads(q, k):
            torch.bmm(_weights(q[some], k[some], None if mask is None else mask[some]), v[some], out=out[some])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, mask = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for some in _heads(q, k):
            weights, given = _weights(q[some], k[some], None if mask is None else mask[some]), grad[some]
            torch.bmm(weights.mT, given, out=grads[2][some])
            slopes = torch.ops.aten._softmax_backward_data(torch.bmm(given, v[some].mT), weights, -1, weights.dtype)
            torch.bmm(slopes, k[some], out=grads[0][some]).mul_(scale)
            torch.bmm(slopes.mT, q[some], out=grads[1][some]).mul_(scale)
        return *grads, None
