"""LoRA of random values for the tiny cascade."""

from pathlib import Path

import torch
from tiny import tiny_cascade

from sotediffusion.weights.lora import Lora, Pair, save
from sotediffusion.weights.lora_merge import places

ATTENTION = ("to_q", "to_k", "to_v", "out_proj", "kv_mapper.1")


def targets(part: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of what may be changed in a part of the tiny cascade."""
    network = getattr(tiny_cascade(), part)
    sizes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    return {name: (place.last - place.first, place.columns) for name, place in places(part, sizes).items()}


def random_lora(seed: int = 0, rank: int = 2, parts=("stage_c", "text"), size: float = 0.5, dtype=torch.float32,
                ends: tuple[str, ...] = (*ATTENTION, "channelwise.0", "fc1"), **more) -> Lora:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for part in parts:
        for name, (out, into) in targets(part).items():
            if name.endswith(ends):
                down, up = (torch.randn(shape, generator=random) * size for shape in ((rank, into), (out, rank)))
                pairs[name] = Pair(down.to(dtype), up.to(dtype), torch.tensor(1.0 + seed))
    return Lora(pairs, **more)


def lora_file(path: Path, form: str = "kohya", **more) -> Path:
    return save(random_lora(**more), path, form)
