"""The diffusion loss of every stage: predict the noise, weighted by how noisy the sample is.

Time and noise of a sample follow from its own key alone, so neither the batch it lies in nor the number of processes
changes what is learned from it. Formulas: Pernias et al. 2023 (Wuerstchen); P2: Choi et al. 2022; min-SNR: Hang et al. 2023.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sotediffusion.diffusion.prediction import noise_of
from sotediffusion.diffusion.schedule import alpha_sigma, log_snr, time_condition
from sotediffusion.types import UserError

Predict = Callable[[Tensor, Tensor], Tensor]  # noised (B, ...), time condition (B,) -> eps or v (B, ...)

EDGES = (-10.0, -6.0, -3.0, -1.0, 1.0, 3.0, 6.0, 10.0)  # log-SNR ranges whose losses are logged apart
CROP_STREAM, CAPTION_STREAM, DROP_STREAM = 1, 2, 3  # what else is random about a sample, apart from its time and noise


@dataclass(frozen=True)
class Objective:
    """What is minimised. Defaults are those of the published models."""

    weight: str = "p2"  # a key of WEIGHTS, or "adaptive"
    distance: str = "mse"  # a key of DISTANCES
    shift: float = 1.0  # of the noise schedule
    noise_offset: float = 0.0  # share of noise that is constant over a channel
    pyramid: float = 0.0  # factor from level to level of noise that is coarse as well; the reference's Stage B has .75
    gamma: float = 5.0  # of the min-SNR weight
    most: float = 20.0  # of the x0 weight
    huber: float = 0.1  # error up to which `huber` is a square

    def check(self) -> None:
        """UserError for a name that is not known or a number that means nothing."""
        if self.weight not in (known := (*WEIGHTS, "adaptive")):
            raise UserError("objective.weight", f"{self.weight!r} is unknown; choose from {', '.join(known)}")
        if self.distance not in DISTANCES:
            raise UserError("objective.distance", f"{self.distance!r} is unknown; choose from {', '.join(DISTANCES)}")
        for name, low in (("shift", 0.0), ("gamma", 0.0), ("most", 0.0), ("huber", 0.0)):
            if not getattr(self, name) > low:
                raise UserError(f"objective.{name}", f"{getattr(self, name):g} is not above 0; give a positive number")
        if not 0 <= self.pyramid < 1:
            raise UserError("objective.pyramid", f"{self.pyramid:g} is out of range; give 0 for none, or a factor below 1")


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on `key` only."""
    return np.random.default_rng(key)


def draw(keys: list[tuple[int, ...]], shape: tuple[int, ...], offset: float = 0.0, pyramid: float = 0.0) -> tuple[Tensor, Tensor]:
    """Time (B,) in [0.001, 1] and noise (B, *shape) of the samples with these keys, float32."""
    times, noises = [], []
    for key in keys:
        rng = generator(*key)
        times.append((1 - rng.random(dtype=np.float32)) + np.float32(0.001))
        noise = rng.standard_normal(shape, dtype=np.float32)
        if offset:
            noise += np.float32(offset) * rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1), dtype=np.float32)
        if pyramid:
            noise = _pyramid(rng, noise, pyramid)
        noises.append(noise)
    return torch.from_numpy(np.array(times)).clamp(0.001, 1.0), torch.from_numpy(np.stack(noises))


COARSE = (1, 16)  # cells a side of the levels that are added


def _pyramid(rng: np.random.Generator, noise: "np.ndarray[Any, Any]", factor: float) -> "np.ndarray[Any, Any]":
    """Noise (C, H, W) with coarser noise added, each level half as large and `factor` as strong as the last."""
    channels, height, width = noise.shape
    total, strength, size = noise, 1.0, [height, width]
    power = 1.0
    while min(size) > 1:
        size, strength = [side // 2 for side in size], strength * factor
        if COARSE[0] <= min(size) and min(size) <= COARSE[1]:
            rows, columns = (np.arange(n) * side // n for n, side in zip((height, width), size, strict=True))
            level = rng.standard_normal((channels, *size), dtype=np.float32)
            total = total + np.float32(strength) * level[:, rows[:, None], columns]
            power += strength**2
    return total / np.float32(math.sqrt(power))


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

    def weigh(self, logsnr: Tensor) -> Tensor:
        """Weights (B,) as what was seen before has it."""
        bucket = torch.searchsorted(self.edges, logsnr.cpu())
        return (1 / self.average[bucket]).clamp(1e-7, 1e7).to(logsnr.device)

    def learn(self, logsnr: Tensor, raw: Tensor) -> None:
        """Take raw per-sample losses (B,) into the averages; of several in one bucket the last one counts."""
        buckets = torch.searchsorted(self.edges, logsnr.cpu().contiguous()).tolist()
        last = dict(zip(buckets, raw.detach().float().cpu().tolist(), strict=True))
        bucket, loss = torch.tensor(list(last), dtype=torch.long), torch.tensor(list(last.values()))
        self.average[bucket] = 0.99 * self.average[bucket] + 0.01 * loss

    def state_dict(self) -> dict[str, Tensor]:
        """The 300 averages."""
        return {"average": self.average}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved averages."""
        self.average.copy_(state["average"])


def _huber(difference: Tensor, delta: float) -> Tensor:
    return torch.nn.functional.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)


DISTANCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mse": lambda difference, delta: difference.square(),
    "mae": lambda difference, delta: difference.abs(),
    "huber": _huber,
}


@dataclass(frozen=True)
class Rows:
    """What counts of each sample: a factor (B,) and a mask (B, 1, h, w) of the loss, None where all counts."""

    weight: Tensor | None = None
    mask: Tensor | None = None
    void: bool = False  # they count for nothing


class DiffusionLoss:
    """mean_b( w_b * mean_chw distance(eps_hat, eps) ), with the adaptive weight's state when that is the weight.

    Of a network that says v eps_hat is what follows from it, so weights mean the same for it.

    An adaptive weight learns when `conclude` is called after a step, from the losses of all processes, so that neither their
    number nor that of micro-batches changes it.
    """

    def __init__(self, objective: Objective = Objective(), prediction: str = "epsilon"):
        objective.check()
        self.objective, self.prediction = objective, prediction
        self.adaptive = AdaptiveWeight() if objective.weight == "adaptive" else None
        self.seen: list[Tensor] = []  # (B, 2): log-SNR and raw loss of the batch so far

    def __call__(self, predict: Predict, x0: Tensor, keys: list[tuple[int, ...]],
                 rows: Rows = Rows()) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        """Loss of `predict` on clean latents `x0` (B, ...), and raw losses per log-SNR range."""
        own = self.objective
        t, noise = draw(keys, tuple(x0.shape[1:]), own.noise_offset, own.pyramid)
        logsnr = log_snr(t, own.shift).float().to(x0.device)
        noise = noise.to(x0.device)
        scales = torch.stack(alpha_sigma(logsnr), dim=1).float()
        a, b = (share.view(-1, *[1] * (x0.ndim - 1)) for share in scales.unbind(1))
        noised = a * x0 + b * noise
        predicted = noise_of(predict(noised, time_condition(logsnr).float()), noised, scales, self.prediction)
        error = DISTANCES[own.distance](predicted.float() - noise, own.huber)
        raw = (error if rows.mask is None else error * rows.mask.to(error)).flatten(1).mean(1)
        weight = self._weigh(logsnr, raw, rows.void)
        weight = weight if rows.weight is None else weight * rows.weight.to(weight)
        return (weight * raw).mean(), by_range(logsnr, raw)

    def _weigh(self, logsnr: Tensor, raw: Tensor, void: bool) -> Tensor:
        if self.adaptive:
            if not void:
                self.seen.append(torch.stack([logsnr, raw.detach()], 1))
            return self.adaptive.weigh(logsnr)
        if self.objective.weight == "min_snr":
            return min_snr(logsnr, self.objective.gamma)
        if self.objective.weight == "x0":
            return x0(logsnr, self.objective.most)
        return WEIGHTS[self.objective.weight](logsnr)

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """Let an adaptive weight learn from a whole batch; `join` makes of this process's rows those of all."""
        if self.adaptive:
            logsnr, raw = join(torch.cat([torch.zeros(0, 2), *(rows.cpu() for rows in self.seen)])).unbind(1)
            self.adaptive.learn(logsnr, raw)
            self.seen = []

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the loss."""
        return self.adaptive.state_dict() if self.adaptive else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint; weights that turn adaptive only now begin to learn."""
        if self.adaptive and state:
            self.adaptive.load_state_dict(state)


def by_range(logsnr: Tensor, raw: Tensor) -> dict[str, float]:
    """Mean raw loss in each range of EDGES that has samples, named by the range's middle."""
    raw, bucket = raw.detach().cpu(), torch.bucketize(logsnr.cpu(), torch.tensor(EDGES[1:-1]))
    return {
        f"loss at logsnr {EDGES[i]:+.0f}..{EDGES[i + 1]:+.0f}": float(raw[bucket == i].mean())
        for i in sorted(set(bucket.tolist()))
    }
