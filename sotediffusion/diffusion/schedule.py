"""The cosine schedule of Wuerstchen (Pernias et al. 2023) and the grids of noise levels that a picture is drawn over.

Legend: t diffusion time in [0, 1], 1 is all noise; log_snr = ln(a^2 / b^2) with x = a x0 + b eps and a^2 + b^2 = 1;
sigma = b / a, the noise level of Karras et al. 2022; r the time a network is told; N steps.

Everything is computed in float64. A float64 argument gives a float64 result and every other dtype a float32 one, never less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OFFSET = 0.008  # s of the cosine schedule (Nichol and Dhariwal 2021, eq. 17)
LIMITS = (0.0001, 0.9999)  # of a^2
START = math.cos(OFFSET / (1 + OFFSET) * math.pi / 2) ** 2  # makes a^2 one at t = 0
KARRAS_RHO = 7.0


@dataclass(frozen=True)
class Grid:
    """The noise levels of one drawing, most noisy first, in float64.

    `log_snr` (N + 1,) holds the level before each step and, last, the one it ends at (inf is a clean picture);
    `t` (N,) is the time of each step on the raw scale of diffusers, 1.0 first.
    """

    log_snr: Tensor
    t: Tensor

    @property
    def steps(self) -> int:
        return len(self.t)


def log_snr(t: Tensor, shift: float = 1.0) -> Tensor:
    """Return the log signal-to-noise ratio of the cosine schedule at time `t`, any shape.

    `shift` > 1 makes every time noisier (Hoogeboom et al. 2023): 2 ln(1 / shift) is added, within the limits of shift 1.
    """
    kept = _result_dtype(t)
    low, high = (float(torch.tensor(limit, dtype=kept)) for limit in LIMITS)  # the reference rounds them to its own dtype
    signal = torch.cos((t.double() + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2 / START
    level = torch.logit(signal.clamp(low, high)) - 2 * math.log(shift)
    return level.clamp(_logit(low), _logit(high)).to(kept)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return (a, b), the shares of picture and noise at a log_snr of any shape; inf gives (1, 0)."""
    exact, kept = log_snr.double(), _result_dtype(log_snr)
    return torch.sigmoid(exact).sqrt().to(kept), torch.sigmoid(-exact).sqrt().to(kept)


def time_condition(log_snr: Tensor) -> Tensor:
    """Return the time r at which the unshifted schedule has this log_snr: what training tells the network.

    Any shape. The limits keep it within .002257 and .993583 on every log_snr of this schedule.
    """
    signal = torch.sigmoid(log_snr.double()) * START
    return (torch.acos(signal.sqrt()) / (math.pi / 2) * (1 + OFFSET) - OFFSET).to(_result_dtype(log_snr))


def grid(schedule: str, steps: int, shift: float = 1.0, strength: float = 1.0) -> Grid:
    """Return the noise levels of a drawing in `steps` steps.

    `schedule` is a key of SCHEDULES; `strength` in (0, 1] is the time to start from, so that less than 1 redraws a given
    picture in part. Raises ValueError for anything else.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}")
    if steps < 1 or not 0 < strength <= 1 or not 0 < shift < math.inf:
        raise ValueError(f"steps {steps}, shift {shift} or strength {strength} is out of range")
    return SCHEDULES[schedule](steps, shift, strength)


def network_times(grid: Grid, convention: str) -> Tensor:
    """Return r (N,) in float32, the time the network is told at each step.

    `convention` "raw" is what diffusers hands over (1.0 first), "clamped" what training saw (.993583 at most).
    """
    if convention not in ("raw", "clamped"):
        raise ValueError(f"time convention {convention!r} is not one of raw, clamped")
    return (grid.t if convention == "raw" else time_condition(grid.log_snr[:-1])).float()


def _default(steps: int, shift: float, strength: float) -> Grid:
    """diffusers' Wuerstchen grid: even in t, down to t = 0, in its own float32 so that raw times agree to the last bit."""
    t = torch.linspace(strength, 0.0, steps + 1, dtype=torch.float32).double()
    levels = log_snr(t, shift)
    return Grid(levels, t[:-1] if shift == 1 else time_condition(levels[:-1]))


def _sgm_uniform(steps: int, shift: float, strength: float) -> Grid:
    """Even in the time that training saw, the last point replaced by a clean picture."""
    first, last = (float(time_condition(level)) for level in _ends(1.0, strength))
    return _to_clean(log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64)[:-1], shift))


def _karras(steps: int, shift: float, strength: float) -> Grid:
    """Even in sigma^(1/7) between the schedule's ends (Karras et al. 2022, eq. 5), then a clean picture."""
    first, last = (torch.exp(-level / (2 * KARRAS_RHO)) for level in _ends(shift, strength))
    return _to_clean(-2 * KARRAS_RHO * torch.log(torch.lerp(first, last, _ramp(steps))))


def _exponential(steps: int, shift: float, strength: float) -> Grid:
    """Even in ln sigma between the schedule's ends, then a clean picture."""
    first, last = _ends(shift, strength)
    return _to_clean(torch.lerp(first, last, _ramp(steps)))


SCHEDULES: dict[str, Callable[[int, float, float], Grid]] = {
    "default": _default,
    "sgm_uniform": _sgm_uniform,
    "karras": _karras,
    "exponential": _exponential,
}


def _to_clean(levels: Tensor) -> Grid:
    return Grid(torch.cat([levels, levels.new_full((1,), math.inf)]), time_condition(levels))


def _ends(shift: float, strength: float) -> tuple[Tensor, Tensor]:
    first, last = log_snr(torch.tensor([strength, 0.0], dtype=torch.float64), shift)
    return first, last


def _ramp(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _result_dtype(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
