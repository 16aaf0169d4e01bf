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

    Latents of as many pictures as their shard holds are kept; `progress` is told (shards done, shards in all). UserError: `data`
    cannot be written, or a shard cannot be read.
    """
    target = f"{name}-{fingerprint(network)}"
    shards = sorted((data / "pictures").glob("*.npy"))
    device = next(network.parameters()).device
    open_array.cache_clear()  # what it has mapped may have grown since
    for done, shard in enumerate(shards):
        path, pictures = data / target / shard.name, open_array(shard)
        if not path.is_file() or len(open_array(path)) != len(pictures):  # a larger number drew more into the last shard
            save_array(path, _encode_shard(pictures, forward, device), "data")
            open_array.cache_clear()
        progress(done + 1, len(shards))
    return target


@torch.inference_mode()
def _encode_shard(pictures: "np.ndarray", forward: Callable[[Tensor], Tensor], device: torch.device) -> "np.ndarray":  # type: ignore[type-arg]
    rows = [
        forward(pixels(torch.from_numpy(pictures[i : i + ROWS].copy()).to(device))).cpu().half().numpy()
        for i in range(0, len(pictures), ROWS)
    ]
    return np.concatenate(rows)
