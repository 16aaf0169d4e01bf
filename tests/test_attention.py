"""Attention while training on a CPU: torch's values and torch's gradients, however few heads are worked on at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sotediffusion.models import attention
from sotediffusion.models.attention import attend


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4))
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    return q, k, v


def masks() -> dict[str, Tensor | None]:
    seen = torch.zeros(2, 1, 1, 7, dtype=torch.float64)
    seen[1, ..., 4:] = -torch.inf
    causal = torch.zeros(5, 7, dtype=torch.float64)
    causal[:, 3:] = -10.0
    return {"none": None, "tokens": seen, "causal": causal[None, None]}


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("cache", [1, 600, 1 << 20])
def test_values_and_gradients_are_those_of_torch(mask: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CACHE", cache)
    (q, k, v), hidden = given(), masks()[mask]
    ours, theirs = attend(q, k, v, hidden), F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    loss = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for own, other in zip(torch.autograd.grad(ours, (q, k, v), loss), torch.autograd.grad(theirs, (q, k, v), loss), strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *x: attend(*x, hidden), (q, k, v))


def test_under_autocast_it_computes_in_bfloat16_and_gradients_keep_their_type() -> None:
    q, k, v = given(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v, None)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and q.grad is not None and q.grad.dtype == torch.float32
    assert torch.allclose(found.float(), F.scaled_dot_product_attention(q, k, v), atol=0.03)


def test_no_weights_are_kept_for_the_backward_pass() -> None:
    q, k, v = (torch.randn(1, 1, 64, 4, requires_grad=True) for _ in range(3))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attend(q, k, v, torch.zeros(1, 1, 1, 64))
    assert kept and max(kept) == 64 * 4
