"""Learning rates as functions of progress, so that a run may be planned in images, steps or minutes on any number of GPUs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sotediffusion.names import unknown
from sotediffusion.types import UserError


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over a run: a linear warm-up, then a shape over progress in [0, 1]."""

    shape: str = "cooldown"  # a key of SHAPES
    warmup: int = 2000  # images
    cooldown: float = 0.25  # last share of the run over which `cooldown` falls to zero
    floor: float = 0.01  # lowest share of the peak
    restarts: int = 0  # times `cosine` and `linear` begin again at their peak


def _again(progress: float, schedule: Schedule) -> float:
    """Progress within the present cycle; the run ends at the end of its last one."""
    cycles = progress * (schedule.restarts + 1)
    return cycles - min(math.floor(cycles), schedule.restarts)


def _cosine(progress: float, schedule: Schedule) -> float:
    return 0.5 * (1 + math.cos(math.pi * _again(progress, schedule)))


def _linear(progress: float, schedule: Schedule) -> float:
    return 1 - _again(progress, schedule)


def _constant(progress: float, schedule: Schedule) -> float:
    return 1.0


def _cooldown(progress: float, schedule: Schedule) -> float:
    # Constant, then 1 - sqrt (Haegele et al. 2024): as good as cosine, and any point before it can be continued.
    if progress <= 1 - schedule.cooldown:
        return 1.0
    return 1 - math.sqrt(min((progress - (1 - schedule.cooldown)) / schedule.cooldown, 1.0))


SHAPES: dict[str, Callable[[float, Schedule], float]] = {
    "cooldown": _cooldown, "cosine": _cosine, "linear": _linear, "constant": _constant,
}  # fmt: skip


def check(schedule: Schedule) -> None:
    """UserError for a shape that does not exist, and for restarts of one that has none."""
    if schedule.shape not in SHAPES:
        raise unknown("schedule.shape", schedule.shape, SHAPES)
    if schedule.restarts and schedule.shape not in ("cosine", "linear"):
        message = f"{schedule.restarts} restarts mean nothing to {schedule.shape}; take cosine or linear"
        raise UserError("schedule.restarts", message)


def rate(schedule: Schedule, images: int, progress: float) -> float:
    """Share of the peak learning rate after `images` of this run, at `progress` of its images or its time."""
    check(schedule)
    warm = min(1.0, (images + 1) / max(schedule.warmup, 1))
    return warm * max(SHAPES[schedule.shape](min(progress, 1.0), schedule), schedule.floor)
