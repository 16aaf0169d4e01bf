"""The diffusion loss of every stage: predict the noise, weighted by how noisy the sample is.

Time and noise of a sample follow from its own key alone, so neither the batch it lies in nor the number of processes
changes what is learned from it. Formulas: Pernias et al. 2023 (Wuerstchen); P2: Choi et al. 2022; min-SNR: Hang et al. 2023.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sotediffusion.diffusion.schedule import alpha_sigma, log_snr, time_condition
from sotediffusion.types import UserError

Predict = Callable[[Tensor, Tensor], Tensor]  # noised (B, ...), time condition (B,) -> eps (B, ...)

EDGES = (-10.0, -6.0, -3.0, -1.0, 1.0, 3.0, 6.0, 10.0)  # log-SNR ranges whose losses are logged apart
CROP_STREAM, CAPTION_STREAM, DROP_STREAM = 1, 2, 3  # what else is random about a sample, apart from its time and noise


@dataclass(frozen=True)
class Objective:
    """What is minimised. Defaults are those of the published models."""

    weight: str = "p2"  # a key of WEIGHTS, or "adaptive"
    distance: str = "mse"  # a key of DISTANCES
    shift: float = 1.0  # of the noise schedule
    noise_offset: float = 0.0  # share of noise that is constant over a channel


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on `key` only."""
    return np.random.default_rng(key)


def draw(keys: list[tuple[int, ...]], shape: tuple[int, ...], offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Time (B,) in [0.001, 1] and noise (B, *shape) of the samples with these keys, float32."""
    times, noises = [], []
    for key in keys:
        rng = generator(*key)
        times.append((1 - rng.random(dtype=np.float32)) + np.float32(0.001))
        noise = rng.standard_normal(shape, dtype=np.float32)
        if offset:
            noise += np.float32(offset) * rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1), dtype=np.float32)
        noises.append(noise)
    return torch.from_numpy(np.array(times)).clamp(0.001, 1.0), torch.from_numpy(np.stack(noises))


def p2(logsnr: Tensor) -> Tensor:
    """(k + snr)^-gamma at k = gamma = 1."""
    return torch.sigmoid(-logsnr)


def min_snr(logsnr: Tensor, gamma: float = 5.0) -> Tensor:
    """min(snr, gamma) / snr, the form for a noise target."""
    return (math.log(gamma) - logsnr).clamp(max=0.0).exp()


def x0(logsnr: Tensor, most: float = 20.0) -> Tensor:
    """min(1 / snr, most): an error in the noise counts as the error in the picture that it makes, up to a limit.

    What a text says is decided where there is more noise than picture, and there errors in eps look small.
    """
    return torch.exp(-logsnr).clamp(max=most)


def uniform(logsnr: Tensor) -> Tensor:
    """Every noise level alike."""
    return torch.ones_like(logsnr)


WEIGHTS = {"p2": p2, "min_snr": min_snr, "x0": x0, "none": uniform}


class AdaptiveWeight:
    """One over a moving average of the raw loss in each of 300 log-SNR buckets; its state is part of a checkpoint."""

    def __init__(self) -> None:
        self.edges = torch.linspace(-10.0, 10.0, 299)
        self.average = torch.ones(300)

    def weigh(self, logsnr: Tensor, raw: Tensor) -> Tensor:
        """Weights (B,) for raw per-sample losses (B,), which are then taken into the average."""
        bucket = torch.searchsorted(self.edges, logsnr.cpu())
        weight = (1 / self.average[bucket]).clamp(1e-7, 1e7)
        self.average[bucket] = 0.99 * self.average[bucket] + 0.01 * raw.detach().float().cpu()
        return weight.to(raw.device)

    def state_dict(self) -> dict[str, Tensor]:
        """The 300 averages."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages."""
        self.average.copy_(state["average"])


def _huber(difference: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=0.1)


DISTANCES = {"mse": torch.square, "mae": torch.abs, "huber": _huber}


class DiffusionLoss:
    """mean_b( w_b * mean_chw distance(eps_hat, eps) ), with the adaptive weight's state when that is the weight."""

    def __init__(self, objective: Objective = Objective()):
        known = (*WEIGHTS, "adaptive")
        if objective.weight not in known:
            raise UserError("objective.weight", f"{objective.weight!r} is unknown; choose from {', '.join(known)}")
        if objective.distance not in DISTANCES:
            raise UserError("objective.distance", f"{objective.distance!r} is unknown; choose from {', '.join(DISTANCES)}")
        self.objective = objective
        self.adaptive = AdaptiveWeight() if objective.weight == "adaptive" else None

    def __call__(self, predict: Predict, x0: Tensor, keys: list[tuple[int, ...]]) -> tuple[Tensor, dict[str, float]]:
        """Loss of `predict` on clean latents `x0` (B, ...), and raw losses per log-SNR range."""
        t, noise = draw(keys, tuple(x0.shape[1:]), self.objective.noise_offset)
        logsnr = log_snr(t, self.objective.shift).float().to(x0.device)
        noise = noise.to(x0.device)
        a, b = (value.float().view(-1, *[1] * (x0.ndim - 1)) for value in alpha_sigma(logsnr))
        predicted = predict(a * x0 + b * noise, time_condition(logsnr).float())
        raw = DISTANCES[self.objective.distance](predicted.float() - noise).flatten(1).mean(1)
        weight = self.adaptive.weigh(logsnr, raw) if self.adaptive else WEIGHTS[self.objective.weight](logsnr)
        return (weight * raw).mean(), by_range(logsnr, raw)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the loss."""
        return self.adaptive.state_dict() if self.adaptive else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        if self.adaptive:
            self.adaptive.load_state_dict(state)


def by_range(logsnr: Tensor, raw: Tensor) -> dict[str, float]:
    """Mean raw loss in each range of EDGES that has samples, named by the range's middle."""
    raw, bucket = raw.detach().cpu(), torch.bucketize(logsnr.cpu(), torch.tensor(EDGES[1:-1]))
    return {
        f"loss at logsnr {EDGES[i]:+.0f}..{EDGES[i + 1]:+.0f}": float(raw[bucket == i].mean())
        for i in sorted(set(bucket.tolist()))
    }
