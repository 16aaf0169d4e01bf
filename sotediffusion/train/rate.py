"""How fast the device multiplies, and how much of that a step can ask for: what model FLOPs utilisation (MFU) is measured by."""

import time
from typing import Any

import torch
from torch import nn

from sotediffusion.train.footprint import operations
from sotediffusion.train.plan import Load, piece
from sotediffusion.train.settings import Settings
from sotediffusion.weights import shapes

SIDES = {"cpu": 512, "cuda": 8192}  # of the square matrices that are multiplied
TRIES = 4


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few products."""
    side = SIDES[device]
    one = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TRIES):
        started = _now(device)
        torch.mm(one, one)
        best = min(best, _now(device) - started)
    return 2 * side**3 / best


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def work(settings: Settings, configs: dict[str, Any], cells: float) -> float:
    """Operations that training takes for a sample of so many latent cells: a forward pass, and twice that to go back.

    What is computed again to spare memory does not count; networks that are only used count once.
    """
    parts = ("stage_c", "text") if settings.train.part == "stage_c" else ("stage_b", "text", "stage_a")
    networks: dict[str, nn.Module] = {name: shapes.build(name, configs[name]).requires_grad_(False) for name in parts}
    side = max(1, round(cells**0.5))
    forward = operations(piece(networks, settings, Load(1, (side, side), cells), 1))
    used = _text(networks["text"], settings) if not settings.train.text_lr else 0.0
    return 3 * forward - 2 * used


def _text(network: nn.Module, settings: Settings) -> float:
    """Operations of the text tower: two for each weight and token."""
    tokens = 77 * settings.data.captions.chunks
    return 2.0 * tokens * sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and "embedding" not in name)


def full_speed(settings: Settings, configs: dict[str, Any], cells: float, device: str, count: int) -> float:
    """Images a second that `count` such devices would train if they did nothing but products."""
    dtype = torch.bfloat16 if settings.precision.compute == "bfloat16" else torch.float32
    return count * matmul_rate(device, dtype) / work(settings, configs, cells)
