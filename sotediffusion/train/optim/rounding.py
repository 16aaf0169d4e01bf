"""What a step comes to in the weights' own type: which steps vanish in it, and rounding by chance so that none does."""

import math
from functools import cache

import torch
from torch import Tensor

from sotediffusion.types import UserError

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
TYPICAL = 0.02  # standard deviation of a large network's weights
ENOUGH = 0.5  # share of weights that a step must reach


def stochastic(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16, up or down with the chances that keep the mean: a step far below the spacing is kept on average.

    The mantissa bits that bfloat16 lacks are added to as many random ones, and the carry decides. (Zamirai et al. 2020.)
    """
    bits = x.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=x.device, generator=generator)
    return noise.add_(bits).bitwise_and_(-65536).view(torch.float32).to(torch.bfloat16)


@cache
def share_moved(lr: float, dtype: torch.dtype) -> float:
    """Of weights of TYPICAL size kept in `dtype`, the share that steps of size `lr` change; both normally distributed."""
    weights, steps = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    kept = (TYPICAL * weights).to(dtype)
    return float(((kept.float() - lr * steps).to(dtype) != kept).float().mean())


def check_rate(name: str, lr: float, dtype: torch.dtype, by_chance: bool) -> None:
    """UserError where a learning rate comes to nothing in the weights' type: optimizers take steps of about `lr` a weight."""
    if dtype == torch.float16:
        raise UserError("precision.weights", "float16 cannot be trained in, Stage C overflows; take float32 or bfloat16")
    if by_chance or lr <= 0 or dtype == torch.float64:
        return
    share = share_moved(lr, dtype)
    if share < ENOUGH:
        kind = NAMES[dtype]
        spacing = 2.0 ** math.floor(math.log2(TYPICAL)) * torch.finfo(dtype).eps
        reach = f"a step of {lr:g} reaches {share:.1%} of {kind} weights, whose spacing at {TYPICAL:g} is {spacing:.1g}"
        raise UserError(name, f"{reach}; keep them in float32, or in bfloat16 with precision.rounding=stochastic")
