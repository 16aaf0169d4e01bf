"""Latents of every picture of a data folder, computed once and kept in shards under a name that holds the weights' hash."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sotediffusion.train.data import open_array, pixels
from sotediffusion.train.draw import save_array

ROWS = 16  # pictures a forward


def fingerprint(module: nn.Module) -> str:
    """12 hex digits that change with any weight."""
    hasher = hashlib.blake2b(digest_size=6)
    for key, value in sorted(module.state_dict().items()):
        hasher.update(key.encode())
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def encode(data: Path, name: str, network: nn.Module, forward: Callable[[Tensor], Tensor],
           progress: Callable[[int, int], None]) -> str:
    """Encode all pictures in `data` with `forward` (pixels (B, 3, H, W) -> latents) and return the sub-folder of the latents.

    Shards that are there already are kept; `progress` is told (shards done, shards in all). UserError: `data` cannot be written.
    """
    target = f"{name}-{fingerprint(network)}"
    shards = sorted((data / "pictures").glob("*.npy"))
    device = next(network.parameters()).device
    for done, shard in enumerate(shards):
        path = data / target / shard.name
        if not path.is_file():
            save_array(path, _encode_shard(open_array(shard), forward, device), "data")
        progress(done + 1, len(shards))
    return target


@torch.inference_mode()
def _encode_shard(pictures: "np.ndarray", forward: Callable[[Tensor], Tensor], device: torch.device) -> "np.ndarray":  # type: ignore[type-arg]
    rows = [
        forward(pixels(torch.from_numpy(pictures[i : i + ROWS].copy()).to(device))).cpu().half().numpy()
        for i in range(0, len(pictures), ROWS)
    ]
    return np.concatenate(rows)
