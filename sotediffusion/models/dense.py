"""Linear maps as a CPU draws with them fastest: by whose product they are made, and with fewer passes over memory.

M rows, K features in, N features out. Values are those of `F.linear` and `F.gelu`, to rounding.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MANY = 512  # rows from which oneDNN's float32 product, its GELU included, beats MKL's and a GELU after it
MANY_ABROAD = 128  # rows from which it beats MKL's on processors that are not Intel's, with a GELU or without
_one_pass = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
_bfloat16 = _one_pass is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def dense(x: Tensor, weight: Any, bias: Any, gelu: bool = False) -> Tensor:
    """x (..., K) by weight (N, K) and bias (N,) or None, and GELU of that if asked for: (..., N)."""
    if _one_pass is not None and _in_one_pass(x, weight, gelu):
        return _one_pass(x, weight, bias, "gelu" if gelu else "none", [], "none")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def plus(x: Tensor, change: Tensor) -> Tensor:
    """x + change, where nothing else needs the memory of `change`."""
    return x + change if torch.is_grad_enabled() or change.dtype != x.dtype else change.add_(x)


def _in_one_pass(x: Tensor, weight: Tensor, gelu: bool) -> bool:
    """Whether oneDNN's product with what follows it is there and pays; it knows no gradients."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or weight.dtype != x.dtype or torch.compiler.is_compiling():
        return False
    if x.dtype == torch.bfloat16:  # here always
        return _bfloat16
    many = MANY_ABROAD if _abroad() else MANY if gelu else math.inf
    return x.dtype == torch.float32 and x.numel() >= many * x.shape[-1]


@cache
def _abroad() -> bool:
    """Whether MKL runs on a processor of another maker than its own."""
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
