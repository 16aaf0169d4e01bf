"""LoRA of random values for the tiny cascade."""

from pathlib import Path

import torch
from tiny import tiny_cascade

from sotediffusion.weights.lora import Lora, save
from sotediffusion.weights.lora_kinds import Kind, Kronecker, Pair
from sotediffusion.weights.lora_merge import places

KINDS = ("lora", "dora", "columns", "lokr", "whole lokr", "lokr dora")
ATTENTION = ("to_q", "to_k", "to_v", "out_proj", "kv_mapper.1")


def targets(part: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of what may be changed in a part of the tiny cascade."""
    network = getattr(tiny_cascade(), part)
    sizes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    return {name: (place.last - place.first, place.columns) for name, place in places(part, sizes).items()}


def random_lora(seed: int = 0, rank: int = 2, parts=("stage_c", "text"), size: float = 0.5, dtype=torch.float32,
                kind: str = "lora", ends: tuple[str, ...] = (*ATTENTION, "channelwise.0", "fc1"), **more) -> Lora:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for part in parts:
        for name, (out, into) in targets(part).items():
            if name.endswith(ends):
                pairs[name] = random_kind(kind, out, into, rank, lambda *shape: (torch.randn(shape, generator=random) * size
                                                                                 ).to(dtype), torch.tensor(1.0 + seed))
    return Lora(pairs, **more)


def random_kind(kind: str, out: int, into: int, rank: int, draw, alpha) -> Kind:
    """A change of a weight (out, into) with the values that `draw` gives for a shape."""
    if "lokr" in kind:
        right = (draw(out // 2, into // 2),) if "whole" in kind else (draw(out // 2, rank), draw(rank, into // 2))
        return Kronecker((draw(2, 2),), right, alpha, draw(out, 1) if "dora" in kind else None)
    down, up = draw(rank, into), draw(out, rank)
    lengths = {"dora": (out, 1), "columns": (1, into)}
    return Pair(down, up, alpha, draw(*lengths[kind]) if kind in lengths else None)


def lora_file(path: Path, form: str = "kohya", **more) -> Path:
    return save(random_lora(**more), path, form)
