"""Samplers as tables of numbers: every one we offer asks the network once a step and is linear in what it knows.

Legend: x = a x0 + b eps the noisy picture, eps the network's answer, sigma = b / a; N steps, B rows, primes are the next level.
One step is x' = c0 x + c1 eps + c2 history + c3 noise, where history is the previous step's x0 and x0 = (x - b eps) / a.
The samplers of Karras et al. 2022 live in x / a and are written there as x' / a' = p x / a + q x0 + r history + n noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sotediffusion.diffusion.schedule import Grid, alpha_sigma, network_times


@dataclass(frozen=True)
class Trajectory:
    """All that a drawing needs to know of its sampler and schedule, computed before the first step.

    `coefficients` (N, 4) float64 over (x, eps, history, noise); `scales` (N, 2) float64 the (a, b) of each step;
    `times` (N,) float32 what the network is told.
    """

    coefficients: Tensor
    scales: Tensor
    times: Tensor

    @property
    def steps(self) -> int:
        return len(self.times)


def trajectory(sampler: str, grid: Grid, convention: str) -> Trajectory:
    """Return the table of a sampler (a key of SAMPLERS) over a grid, for a network told "raw" or "clamped" times.

    Raises ValueError for an unknown name.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    scales = torch.stack(alpha_sigma(grid.log_snr[:-1]), dim=1)
    return Trajectory(SAMPLERS[sampler](grid.log_snr), scales, network_times(grid, convention))


def advance(
    x: Tensor, eps: Tensor, history: Tensor | None, noise: Tensor | None, coefficients: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one step with every row and return (x', x0), both in float32 or, if x is so, in float64.

    x, eps, history, noise (B, ...); `coefficients` (B, 4) and `scales` (B, 2) are each row's own line of its own table.
    history may be None on first steps and noise where no row has a coefficient for it; x0 is the next step's history.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    shape = (-1, *[1] * (x.dim() - 1))
    c0, c1, c2, c3 = (column.view(shape) for column in coefficients.to(x.device, dtype).unbind(1))
    a, b = (column.view(shape) for column in scales.to(x.device, dtype).unbind(1))
    x, eps = x.to(dtype), eps.to(dtype)
    following = c0 * x + c1 * eps
    if history is not None:
        following = following + c2 * history.to(dtype)
    if noise is not None:
        following = following + c3 * noise.to(dtype)
    return following, (x - b * eps) / a


def ddpm(log_snr: Tensor) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, eq. 7) as diffusers' Wuerstchen scheduler does it: the last step adds no noise."""
    (a, b), (a_next, b_next) = _levels(log_snr)
    alpha = (a / a_next) ** 2
    noise = ((1 - alpha).clamp(min=0)).sqrt() * b_next / b
    noise[-1] = 0
    return torch.stack([a_next / a, -(1 - alpha) * a_next / (a * b), torch.zeros_like(a), noise], dim=1)


def euler(log_snr: Tensor) -> Tensor:
    """Euler steps along the probability flow (Karras et al. 2022), which in x are DDIM (Song et al. 2021, eta 0)."""
    levels = _to_clean(log_snr)
    fall = _fall(levels)
    return _table(levels, fall, 1 - fall)


def euler_ancestral(log_snr: Tensor) -> Tensor:
    """Euler steps to below the next level, noised up again to it (k-diffusion's ancestral step at eta 1)."""
    levels = _to_clean(log_snr)
    fall, sigma_next = _fall(levels), _sigma(levels)[1:]
    # sigma_up = sigma' sqrt(1 - fall^2) and sigma_down = sigma' fall
    return _table(levels, fall**2, 1 - fall**2, noise=sigma_next * (1 - fall**2).clamp(min=0).sqrt())


def dpmpp_2m(log_snr: Tensor) -> Tensor:
    """DPM-Solver++ of order two (Lu et al. 2022), whose first and last steps are of order one."""
    levels = _to_clean(log_snr)
    fall = _fall(levels)
    past = (1 - fall) * _half_ratio(levels)
    return _table(levels, fall, 1 - fall + past, history=-past)


def dpmpp_2m_sde(log_snr: Tensor) -> Tensor:
    """DPM-Solver++ of order two for the stochastic equation, midpoint form at eta 1."""
    levels = _to_clean(log_snr)
    fall = _fall(levels) ** 2
    past = (1 - fall) * _half_ratio(levels)
    noise = _sigma(levels)[1:] * (1 - fall).clamp(min=0).sqrt()
    return _table(levels, fall, 1 - fall + past, history=-past, noise=noise)


def lcm(log_snr: Tensor) -> Tensor:
    """Jump to the predicted picture and noise it to the next level (Luo et al. 2023, latent consistency models)."""
    levels = _to_clean(log_snr)
    nothing = torch.zeros_like(levels[1:])
    return _table(levels, nothing, nothing + 1, noise=_sigma(levels)[1:])


SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ddpm": ddpm,
    "ddim": euler,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "lcm": lcm,
}


def _to_clean(log_snr: Tensor) -> Tensor:
    """End at a clean picture as k-diffusion does, also on a grid whose own end keeps a rest of noise."""
    return torch.cat([log_snr[:-1], log_snr.new_full((1,), torch.inf)])


def _levels(log_snr: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    a, b = alpha_sigma(log_snr)
    return (a[:-1], b[:-1]), (a[1:], b[1:])


def _sigma(log_snr: Tensor) -> Tensor:
    return torch.exp(-log_snr / 2)


def _fall(log_snr: Tensor) -> Tensor:
    """sigma' / sigma of each step, 0 at the last."""
    return torch.exp((log_snr[:-1] - log_snr[1:]) / 2)


def _half_ratio(log_snr: Tensor) -> Tensor:
    """h / (2 h_last) with h the step in ln sigma: the weight of the slope, 0 where there is no slope to know."""
    h = log_snr.diff() / 2
    ratio = torch.zeros_like(h)
    ratio[1:-1] = h[1:-1] / (2 * h[:-2])
    return ratio.nan_to_num(nan=0.0, posinf=0.0)  # where the clamped ends of the schedule repeat a level, h_last is 0


def _table(
    log_snr: Tensor, keep: Tensor, jump: Tensor, history: Tensor | None = None, noise: Tensor | None = None
) -> Tensor:
    """Turn the (p, q, r, n) of the legend, each (N,), into the coefficients (N, 4) of x' over (x, eps, history, noise)."""
    (a, b), (a_next, _) = _levels(log_snr)
    nothing = torch.zeros_like(a)
    history, noise = (nothing if part is None else part for part in (history, noise))
    columns = [(keep + jump) / a, -jump * b / a, history, noise]
    return torch.stack(columns, dim=1) * a_next[:, None]
