"""What learns beside one weight W: two thin matrices (LoRA), or a Kronecker product (LoKr), and with either the lengths of W's
rows (DoRA). A map of x goes through the small matrices, so that no matrix of W's size is kept for the way back; only lengths ask
for one, for as long as they are measured.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.weights import lora_kinds
from sotediffusion.weights.lora_kinds import Kind, lengths


class Thin(nn.Module):
    """A change s M of a weight W (out, in), 0 at first, and lengths of the rows of W + s M where these learn too."""

    down: nn.Parameter  # what x meets first

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale
        self.magnitude: nn.Parameter | None = None  # (out,)

    def map(self, x: Tensor) -> Tensor:
        """x (..., in) by M."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """M (out, in)."""
        raise NotImplementedError

    def kind(self, weights: Mapping[str, Tensor], alpha: Tensor, kernel: tuple[int, ...]) -> Kind:
        """It with these weights as a file has it; `kernel` is ones, as many as a convolution's kernel has sides."""
        raise NotImplementedError

    def measure(self, weight: Tensor) -> None:
        """Let the lengths of the rows of a weight (out, in) learn as well."""
        self.magnitude = nn.Parameter(lengths(weight.detach().float()).flatten().to(self.down.device))

    def factor(self, base: Tensor) -> Tensor:
        """What the rows of W + s M are multiplied by, (out,): lengths over those they have, through which nothing is learnt (Liu
        et al. 2024, section 4.3).
        """
        assert self.magnitude is not None
        with torch.no_grad():
            long = lengths(base.detach().flatten(1).float() + self.scale * self.matrix().float()).flatten()
        return self.magnitude / long


class Pair(Thin):
    """M = up @ down (Hu et al. 2021)."""

    def __init__(self, rows: int, columns: int, rank: int, alpha: float, random: torch.Generator):
        super().__init__(alpha / rank)
        self.down = _drawn(rank, columns, random)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def map(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down), self.up)

    def matrix(self) -> Tensor:
        return self.up @ self.down

    def kind(self, weights: Mapping[str, Tensor], alpha: Tensor, kernel: tuple[int, ...]) -> Kind:
        down, up = weights["down"], weights["up"]
        return lora_kinds.Pair(down.view(*down.shape, *kernel), up.view(*up.shape, *kernel), alpha, _lines(weights, kernel))


class Product(Thin):
    """M = left (x) right (LoKr, Yeh et al. 2023): (a, b) by (c, d), the second in two factors where these are smaller."""

    def __init__(self, rows: int, columns: int, rank: int, alpha: float, random: torch.Generator, most: int):
        a, b = divisor(rows, most), divisor(columns, most)
        c, d = rows // a, columns // b
        factors = rank * (c + d) < c * d
        super().__init__(alpha / rank if factors else 1.0)
        self.left = _drawn(a, b, random)
        self.down = _drawn(rank, d, random) if factors else nn.Parameter(torch.zeros(c, d))
        self.up = nn.Parameter(torch.zeros(c, rank)) if factors else None

    def map(self, x: Tensor) -> Tensor:
        blocks = F.linear(x.unflatten(-1, (self.left.shape[1], -1)), self.down)  # (..., b, r) or (..., b, c)
        blocks = blocks if self.up is None else F.linear(blocks, self.up)
        return (self.left.to(blocks.dtype) @ blocks).flatten(-2)

    def matrix(self) -> Tensor:
        return torch.kron(self.left, self.down if self.up is None else self.up @ self.down)

    def kind(self, weights: Mapping[str, Tensor], alpha: Tensor, kernel: tuple[int, ...]) -> Kind:
        down = weights["down"].view(*weights["down"].shape, *kernel)
        right = (weights["up"], down) if "up" in weights else (down,)
        return lora_kinds.Kronecker((weights["left"],), right, alpha, _lines(weights, kernel))


def divisor(side: int, most: int) -> int:
    """The largest divisor that is at most `most`."""
    return next(number for number in range(min(side, most), 0, -1) if side % number == 0)


def _drawn(rows: int, columns: int, random: torch.Generator) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(rows, columns))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=random)
    return weight


def _lines(weights: Mapping[str, Tensor], kernel: tuple[int, ...]) -> Tensor | None:
    """Lengths as files have them, a row each."""
    return weights["magnitude"].view(-1, 1, *kernel) if "magnitude" in weights else None
