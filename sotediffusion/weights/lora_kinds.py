"""The kinds of change that a LoRA file holds of one module's weight: two thin matrices or a Kronecker product, and with either
the lengths of the changed rows (DoRA, Liu et al. 2024).

A weight W (out, in) becomes W + s M; with lengths m it becomes m (W + s M) / ||W + s M|| (their equation 5), row by row as PEFT
and LyCORIS have it, or column by column. Of a convolution in is in * y * x.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..types import UserError

DOWN, UP, ALPHA, MAGNITUDE, MAGNITUDE_PEFT = "down", "up", "alpha", "magnitude", "magnitude of peft"
LEFT, RIGHT = ("w1", "w1_a", "w1_b"), ("w2", "w2_a", "w2_b")
SUFFIXES = {
    ".lora_down.weight": DOWN, ".lora_up.weight": UP, ".alpha": ALPHA, ".lora_A.weight": DOWN, ".lora_B.weight": UP,
    ".lora_A.default.weight": DOWN, ".lora_B.default.weight": UP, ".lora.down.weight": DOWN, ".lora.up.weight": UP,
    ".dora_scale": MAGNITUDE, ".lora_magnitude_vector": MAGNITUDE_PEFT, ".lora_magnitude_vector.weight": MAGNITUDE_PEFT,
    ".lora_magnitude_vector.default.weight": MAGNITUDE_PEFT, **{f".lokr_{half}": half for half in (*LEFT, *RIGHT)},
}  # fmt: skip
OTHERS = {
    "lokr_t2": "LoKr with a core", "hada_": "LoHa", "oft_": "OFT", "lora_mid": "LoCon with a core", "glora": "GLoRA",
    "diff": "whole changes of weights",
}  # fmt: skip
Group = Mapping[str, Tensor]  # what a file holds of one module, by the values of SUFFIXES


class _Measured:
    """What both kinds do with the lengths of rows or columns."""

    magnitude: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what it changes."""
        raise NotImplementedError

    def matrix(self, factor: float, device: torch.device) -> Tensor:
        """`factor` times s M (out, in), float32."""
        raise NotImplementedError

    def change(self, factor: float, weight: Tensor) -> Tensor:
        """`factor` times what it changes of a weight (out, in), float32. Changes are counted from the weight as it is without
        any, so that of several the order is of no matter."""
        if self.magnitude is None:
            return self.matrix(factor, weight.device)
        base = weight.float()
        moved = base + self.matrix(1.0, weight.device)
        return (self._measured(moved) - base) * factor

    def _measured(self, moved: Tensor) -> Tensor:
        """The rows, or the columns of each input, at the lengths that the file says."""
        assert self.magnitude is not None
        wanted = self.magnitude.to(moved.device, torch.float32)
        if self.by_rows:
            return moved * (wanted.view(-1, 1) / lengths(moved))
        inputs = moved.unflatten(1, (wanted.shape[1], -1))  # (out, in, y * x)
        long = inputs.square().sum((0, 2), keepdim=True).sqrt().clamp(min=TINY)
        return (inputs * (wanted.view(1, -1, 1) / long)).flatten(1)

    @property
    def by_rows(self) -> bool:
        """Whether lengths are of rows, one for each output."""
        return self.magnitude is not None and self.magnitude.shape[0] == self.magnitude.numel() == self.shape[0]


TINY = torch.finfo(torch.float32).tiny


def lengths(weight: Tensor) -> Tensor:
    """Of the rows (out, 1) of a float32 weight (out, in); never 0, by which one could not divide."""
    return weight.norm(dim=1, keepdim=True).clamp(min=TINY)


@dataclass(frozen=True)
class Pair(_Measured):
    """M is up @ down (Hu et al. 2021). `alpha` over the rank scales it; None is the rank, a scale of 1."""

    down: Tensor  # (r, in), or (r, in, y, x) of a convolution
    up: Tensor  # (out, r), or (out, r, 1, 1)
    alpha: Tensor | None = None  # ()
    magnitude: Tensor | None = None  # (out, 1, ...) of rows, or (1, in, ...) of columns

    @property
    def kind(self) -> str:
        """What it is called."""
        return "LoRA" if self.magnitude is None else "DoRA"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What up @ down is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha.item() / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down[0].numel()

    def matrix(self, factor: float, device: torch.device) -> Tensor:
        down, up = (half.to(device, torch.float32).flatten(1) for half in (self.down, self.up))
        return (up * (self.scale * factor)) @ down


@dataclass(frozen=True)
class Kronecker(_Measured):
    """M is the Kronecker product of a small matrix and a larger one (LoKr, Yeh et al. 2023), each whole or as two factors.

    `alpha` over the rank of what comes in factors scales it; where both are whole the scale is 1.
    """

    left: tuple[Tensor, ...]  # (a, b), or (a, r) and (r, b)
    right: tuple[Tensor, ...]  # (c, d), or (c, d, y, x), or (c, r) and (r, d), or (r, d, y, x); out is a c, in is b d
    alpha: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def kind(self) -> str:
        """What it is called."""
        return "LoKr" if self.magnitude is None else "LoKr with DoRA"

    @property
    def rank(self) -> int:
        """Of what comes in factors; of whole matrices the least side of the second."""
        factors = next((pair for pair in (self.right, self.left) if len(pair) == 2), None)
        return factors[1].shape[0] if factors else min(self.right[0].shape[:2])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        whole = len(self.left) == len(self.right) == 1
        return 1.0 if whole or self.alpha is None else self.alpha.item() / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        return self.left[0].shape[0] * self.right[0].shape[0], self.left[-1].shape[1] * prod(self.right[-1].shape[1:])

    def matrix(self, factor: float, device: torch.device) -> Tensor:
        left, right = (_product([half.to(device, torch.float32) for half in pair]) for pair in (self.left, self.right))
        left = left.view(*left.shape, *(1,) * (right.dim() - 2))
        return torch.kron(left * (self.scale * factor), right).flatten(1)


Kind = Pair | Kronecker


def _product(halves: list[Tensor]) -> Tensor:
    first, last = halves[0], halves[-1]
    return first if len(halves) == 1 else (first.flatten(1) @ last.flatten(1)).view(first.shape[0], *last.shape[1:])


def read_kinds(group: Group, alpha: Tensor | None, count: int, source: str) -> list[Kind]:
    """The change of a module, or of `count` modules packed one below the other. UserError: not whole, or without sense."""
    for name, tensor in group.items():
        if name != ALPHA and not tensor.is_floating_point():
            raise UserError(source, f"{_called(name)} is of {str(tensor.dtype)[6:]}; a pair has matrices of numbers with a point")
        if not tensor.isfinite().all():
            raise UserError(source, f"{_called(name)} has values that are not finite; its training failed, take an earlier one")
    alpha = group.get(ALPHA, alpha)
    if alpha is not None and alpha.numel() != 1:
        raise UserError(source, "alpha is not one number; take a file that is whole")
    alpha = None if alpha is None else alpha.reshape(())
    kronecker = {half: group[half] for half in (*LEFT, *RIGHT) if half in group}
    kinds = _products(kronecker, alpha, count, source) if kronecker else _pairs(group, alpha, count, source)
    return _with_magnitudes(kinds, group, source)


def _called(name: str) -> str:
    return f"lora_{name}" if name in (DOWN, UP) else f"lokr_{name}" if name in (*LEFT, *RIGHT) else name


def _pairs(group: Group, alpha: Tensor | None, count: int, source: str) -> list[Kind]:
    for half in (DOWN, UP):
        if half not in group:
            raise UserError(source, f"has no lora_{half}; the file is not whole, fetch it again")
        if group[half].dim() not in (2, 4):
            raise UserError(source, f"lora_{half} has shape {tuple(group[half].shape)}; a pair has matrices of numbers")
    down, up = group[DOWN], group[UP]
    if up[0].numel() != down.shape[0] or not down.shape[0] or up.shape[0] % count:
        raise UserError(source, f"lora_up of shape {tuple(up.shape)} and lora_down of shape {tuple(down.shape)} do not meet in "
                                "one rank; take a file that is whole")
    return [Pair(down, rows.contiguous(), alpha) for rows in up.chunk(count)]


def _products(halves: Group, alpha: Tensor | None, count: int, source: str) -> list[Kind]:
    sides: list[tuple[Tensor, ...]] = []
    for whole, first, last in (LEFT, RIGHT):
        found = [halves[name] for name in ((whole,) if whole in halves else (first, last)) if name in halves]
        if not found or (whole not in halves and len(found) < 2):
            raise UserError(source, f"has no lokr_{whole}, nor both its factors; the file is not whole, fetch it again")
        if any(half.dim() not in (2, 4) or not half.numel() for half in found) or (
                len(found) == 2 and found[0][0].numel() != found[1].shape[0]):  # fmt: skip
            shapes = " and ".join(str(tuple(half.shape)) for half in found)
            raise UserError(source, f"lokr_{whole} of shape {shapes} is no matrix; take a file that is whole")
        sides.append(tuple(found))
    left, right = sides
    if left[-1].dim() != 2 or left[0].shape[0] % count:
        raise UserError(source, f"lokr_w1 of shape {tuple(left[0].shape)} cannot be cut into {count} matrices; take a file of "
                                "another form")  # fmt: skip
    return [Kronecker((rows.contiguous(), *left[1:]), right, alpha) for rows in left[0].chunk(count)]


def _with_magnitudes(kinds: list[Kind], group: Group, source: str) -> list[Kind]:
    """The same with what the file says of lengths. UserError: as many as there are neither rows nor columns."""
    given = group.get(MAGNITUDE, group.get(MAGNITUDE_PEFT))
    if given is None:
        return kinds
    rows, axes = sum(kind.shape[0] for kind in kinds), _axes(kinds[0])
    columns = kinds[0].shape[1] // prod(axes)
    by_rows = given.numel() == rows and (MAGNITUDE_PEFT in group or given.dim() < 2 or given.shape[0] == rows)
    if by_rows:
        parts = given.reshape(rows, 1, *(1,) * len(axes)).split([kind.shape[0] for kind in kinds])
        return [replace(kind, magnitude=part.contiguous()) for kind, part in zip(kinds, parts, strict=True)]
    if len(kinds) > 1 or given.dim() < 2 or given.shape[0] != 1 or given.numel() != columns:
        raise UserError(source, f"dora_scale of shape {tuple(given.shape)} has a length neither for each of {rows} rows nor for "
                                f"each of {columns} inputs; take a file that is whole")
    return [replace(kinds[0], magnitude=given)]


def _axes(kind: Kind) -> tuple[int, ...]:
    """Sides of a convolution's kernel, none of a matrix."""
    return tuple((kind.down if isinstance(kind, Pair) else kind.right[-1]).shape[2:])


def tensors_of(kind: Kind, form: str, name: str) -> dict[str, Tensor]:
    """Its tensors by what follows a module's `name` in a file of this form. UserError: the form has no place for it."""
    peft = form == "peft"
    if isinstance(kind, Kronecker):
        if peft:
            raise UserError("form", f"{name} is changed by LoKr, which peft's form has no place for; take kohya, comfyui or sote")
        found = {f".lokr_{half}": tensor for side, names in ((kind.left, LEFT), (kind.right, RIGHT))
                 for half, tensor in zip(names[:1] if len(side) == 1 else names[1:], side, strict=True)}  # fmt: skip
    else:
        down, up = (".lora_A.weight", ".lora_B.weight") if peft else (".lora_down.weight", ".lora_up.weight")
        found = {down: kind.down, up: kind.up}
    if kind.alpha is not None and not peft:
        found[".alpha"] = kind.alpha
    if kind.magnitude is not None:
        if peft and not kind.by_rows:
            raise UserError("form", f"{name} has DoRA's lengths of columns, and peft's form those of rows; take another form")
        lines = kind.magnitude.view(1, -1, *(1,) * len(_axes(kind))) if _axes(kind) else kind.magnitude.flatten()
        found |= {".lora_magnitude_vector": lines} if peft else {".dora_scale": kind.magnitude}
    return found
