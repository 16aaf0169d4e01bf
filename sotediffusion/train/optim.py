"""AdamW over named groups, and learning rates as functions of progress so that a run may be planned in images or minutes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sotediffusion.types import UserError


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over a run: a linear warm-up, then a shape over progress in [0, 1]."""

    shape: str = "cooldown"  # a key of SHAPES
    warmup: int = 2000  # images
    cooldown: float = 0.25  # last share of the run over which `cooldown` falls to zero
    floor: float = 0.01  # lowest share of the peak


def _cosine(progress: float, cooldown: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, cooldown: float) -> float:
    return 1 - progress


def _constant(progress: float, cooldown: float) -> float:
    return 1.0


def _cooldown(progress: float, cooldown: float) -> float:
    # Constant, then 1 - sqrt (Haegele et al. 2024): as good as cosine, and any point before it can be continued.
    if progress <= 1 - cooldown:
        return 1.0
    return 1 - math.sqrt(min((progress - (1 - cooldown)) / cooldown, 1.0))


SHAPES = {"cooldown": _cooldown, "cosine": _cosine, "linear": _linear, "constant": _constant}


def rate(schedule: Schedule, images: int, progress: float) -> float:
    """Share of the peak learning rate after `images` of this run, at `progress` of its images or its time."""
    if schedule.shape not in SHAPES:
        raise UserError("schedule", f"{schedule.shape!r} is unknown; choose from {', '.join(SHAPES)}")
    warm = min(1.0, (images + 1) / max(schedule.warmup, 1))
    shape = SHAPES[schedule.shape](min(progress, 1.0), schedule.cooldown)
    return warm * max(shape, schedule.floor)


def groups(module: nn.Module, lr: float, decay: float = 0.0) -> list[dict[str, object]]:
    """AdamW groups of the trained parameters: matrices and kernels decay, biases and gains do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    return [
        {"params": params, "peak": lr, "lr": lr, "weight_decay": wd}
        for params, wd in ((matrices, decay), (vectors, 0.0)) if params
    ]


def adamw(parameter_groups: list[dict[str, object]], betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); raises UserError where a weight dtype cannot express small steps."""
    for group in parameter_groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            if parameter.dtype not in (torch.float32, torch.float64):
                raise UserError("dtype", f"trained weights are {parameter.dtype}; small steps vanish in it, train float32")
    return torch.optim.AdamW(parameter_groups, betas=betas, eps=1e-8, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give every group its peak learning rate times `share`; the first group's is returned."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    first: float = optimizer.param_groups[0]["lr"]
    return first


def clip(parameters: Iterable[nn.Parameter], norm: float) -> float:
    """Scale all gradients jointly to at most `norm`; their norm before that."""
    return float(torch.nn.utils.clip_grad_norm_(list(parameters), norm, foreach=True))
