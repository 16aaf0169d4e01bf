"""Classifier-free guidance (Ho and Salimans 2022) row by row, so that no picture depends on its neighbours in a batch.

Legend: B pictures, G of them guided (scale above 1), in a forward of B + G rows: first every picture's own text,
then the negative text of the guided ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-9  # what a flat prediction is divided by


@dataclass(frozen=True)
class Rows:
    """Which rows a forward needs: `count` pictures, and the indices of those that need a second row for their negative text."""

    count: int
    guided: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.count + len(self.guided)


def plan_rows(scales: Sequence[float]) -> Rows:
    """Return the rows of a forward for pictures with these guidance scales; 1 and below need no negative text."""
    return Rows(len(scales), tuple(index for index, scale in enumerate(scales) if scale > 1))


def repeat_guided(values: Tensor, rows: Rows) -> Tensor:
    """Return values (B, ...) with the guided rows repeated at the end (B + G, ...)."""
    if len(rows.guided) in (0, rows.count):  # the usual cases, which need no index on the device
        return torch.cat([values, values]) if rows.guided else values
    return torch.cat([values, values[torch.tensor(rows.guided, device=values.device)]])


def combine(predictions: Tensor, rows: Rows, scale: Tensor, rescale: Tensor | None = None) -> Tensor:
    """Return one prediction per picture (B, ...) from those of a planned forward (B + G, ...), in float32 at least.

    `scale` and `rescale` are (B,); rows that are not guided come out as they went in.
    """
    cond = predictions[: rows.count].to(torch.promote_types(predictions.dtype, torch.float32))
    if len(rows.guided) in (0, rows.count):
        return guide(cond, predictions[rows.count :], scale, rescale) if rows.guided else cond
    index = torch.tensor(rows.guided, device=cond.device)
    chosen = None if rescale is None else rescale.to(cond.device)[index]
    guided = guide(cond[index], predictions[rows.count :], scale.to(cond.device)[index], chosen)
    return cond.index_copy(0, index, guided)


def guide(cond: Tensor, uncond: Tensor, scale: Tensor, rescale: Tensor | None = None) -> Tensor:
    """Return uncond + scale (cond - uncond) per row, in float32 at least.

    cond, uncond (B, ...); scale, rescale (B,). `rescale` blends in the same prediction at the spread of `cond`
    (Lin et al. 2023, eq. 15 and 16), the spread taken over each row alone.
    """
    dtype = torch.promote_types(cond.dtype, torch.float32)
    cond, uncond = cond.to(dtype), uncond.to(dtype)
    guided = torch.lerp(uncond, cond, _per_row(scale, cond))
    if rescale is None:
        return guided
    spread = _spread(cond) / _spread(guided).clamp(min=SMALLEST_SPREAD)
    return guided * torch.lerp(torch.ones_like(spread), spread, _per_row(rescale, cond))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))


def _spread(values: Tensor) -> Tensor:
    return values.std(dim=tuple(range(1, values.dim())), keepdim=True)
