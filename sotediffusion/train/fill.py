"""Fills a latent cache: pictures are opened, fitted and encoded once, and a run that was stopped goes on where it was."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sotediffusion.buckets import Fits
from sotediffusion.curate.scan.sources import PictureSource, open_source
from sotediffusion.pictures.pixels import Pixels
from sotediffusion.train.data import pixels
from sotediffusion.train.encode import fingerprint
from sotediffusion.train.fit import VERSION, Faults, FitSettings, fitted
from sotediffusion.train.latents import Keys, LatentCache, Latents, firsts, keys_of
from sotediffusion.train.order import Ranks
from sotediffusion.train.samples import CONTENT, Numbers, Samples
from sotediffusion.types import UserError

GROUP = 16  # pictures a forward
SHARD = 4096  # latents
SECONDS = 300.0  # after which a shard is closed though it is small, so that a killed run loses no more
DTYPE = "float16"

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much
Loaded = list[Pixels | None]


class Loader:
    """Pictures of a table as pixels of their buckets; threads decode side by side, as decoders let each other run."""

    def __init__(self, samples: Samples, settings: FitSettings, faults: Faults, checked: bool = False):
        import cv2

        cv2.setNumThreads(1)  # pictures are opened side by side, not each by several threads
        self.samples, self.settings, self.faults, self.checked = samples, settings, faults, checked
        self._widths, self._heights = samples.column("width"), samples.column("height")
        self._threads = ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0))))

    @cached_property
    def source(self) -> PictureSource:
        """Where the pictures are; not looked for until one is needed."""
        return open_source(self.samples.source)

    def load(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Loaded:
        """The pictures of some rows; None for one that cannot be had, which is noted."""
        paths = [self.samples.path(row) for row in rows.tolist()]
        work = zip(rows.tolist(), self.source.read_all(paths), fits, mirrored.tolist(), strict=True)
        found = []
        for path, made in zip(paths, self._threads.map(self._open, work), strict=True):
            if isinstance(made, str):
                self.faults.add(path, made)
            found.append(None if isinstance(made, str) else made)
        return found

    def _open(self, work: tuple[int, bytes | OSError, Any, bool]) -> Pixels | str:
        """Pixels, or why there are none."""
        row, data, fit, mirrored = work
        if isinstance(data, OSError):
            return "missing" if isinstance(data, FileNotFoundError) else str(data)[:100]
        if self.checked and hashlib.sha256(data).digest()[:CONTENT] != self.samples.content[row].tobytes():
            return "changed since it was listed"
        try:
            size = int(self._widths[row]), int(self._heights[row])
            return fitted(data, fit, mirrored, self.settings.alpha, size)
        except ValueError as error:
            return str(error)[:100]


class Encoder:
    """EffNet, wherever it is, as a function from pictures of one size to latents."""

    def __init__(self, network: nn.Module, settings: FitSettings):
        self.network = network.eval()
        weights = fingerprint(network)
        self.about: dict[str, Any] = {"EffNet": weights, "preprocessing": VERSION, "alpha": settings.alpha, "dtype": DTYPE}

    @torch.inference_mode()
    def encode(self, pictures: list[Pixels]) -> Latents:
        """Latents (B, C, h, w) as they are kept."""
        device = next(self.network.parameters()).device
        latents: Latents = self.network(pixels(torch.from_numpy(np.stack(pictures)).to(device))).half().cpu().numpy()
        return latents


def fill(samples: Samples, fits: Fits, cache: LatentCache, encoder: Encoder, loader: Loader, ranks: Ranks,
         progress: Progress) -> None:  # fmt: skip
    """Encode the pictures that have no latents in `cache` yet; of several ranks each does its own part.

    Raises UserError when too many pictures cannot be read, and where EffNet gives no numbers.
    """
    rows, mirrored, keys = wanted(samples, fits, loader.settings.flip)
    missing = cache.find(keys) < 0
    # Chunks are cut from all that is wanted, so that ranks agree on them whatever the others have written meanwhile.
    distinct = firsts(keys)
    by_bucket = distinct[np.lexsort((distinct, fits[rows[distinct], 1], fits[rows[distinct], 0]))]
    chunks = [by_bucket[chunk] for chunk in _chunks(fits[rows[by_bucket], :2])][ranks.rank :: ranks.ranks]
    own = [chunk[missing[chunk]] for chunk in chunks]
    done, total = 0, sum(map(len, own))
    for some in own:
        for count in _encode(rows[some], mirrored[some], keys[some], fits, (cache, encoder, loader)):
            done += count
            progress("latents", done, total)


def wanted(samples: Samples, fits: Fits, flip: bool) -> tuple[Numbers, NDArray[np.bool_], Keys]:
    """Rows, whether mirrored, and keys of all latents that a run needs; mirrored ones come after all others."""
    rows = np.flatnonzero(fits[:, 0] > 0)
    mirrored = np.repeat([False, True], len(rows)) if flip else np.zeros(len(rows), bool)
    rows = np.tile(rows, 2) if flip else rows
    return rows, mirrored, keys_of(samples.content[rows], fits[rows], mirrored)


def _chunks(sizes: Fits) -> Iterator[slice]:
    """Stretches of one size, at most SHARD long."""
    edges = np.flatnonzero((np.diff(sizes, axis=0) != 0).any(1)) + 1
    for start, stop in pairwise([0, *edges.tolist(), len(sizes)]):
        for first in range(start, stop, SHARD):
            yield slice(first, min(first + SHARD, stop))


def _encode(rows: Numbers, mirrored: NDArray[np.bool_], keys: Keys, fits: Fits,
            means: tuple[LatentCache, Encoder, Loader]) -> Iterator[int]:  # fmt: skip
    """One chunk into one shard, or several where it takes long; yields how many pictures were done each time."""
    if not len(rows):
        return
    cache, encoder, loader = means
    held: list[tuple[Keys, Latents]] = []
    since = time.monotonic()

    def load(start: int) -> Loaded:
        some = slice(start, start + GROUP)
        return loader.load(rows[some], fits[rows[some]], mirrored[some])

    with ThreadPoolExecutor(1) as ahead:  # the next pictures are opened while EffNet looks at these
        coming = ahead.submit(load, 0)
        for start in range(0, len(rows), GROUP):
            pictures, some = coming.result(), slice(start, start + GROUP)
            if start + GROUP < len(rows):
                coming = ahead.submit(load, start + GROUP)
            there = [place for place, picture in enumerate(pictures) if picture is not None]
            if there:
                latents = encoder.encode([picture for picture in pictures if picture is not None])
                _check(latents, [loader.samples.path(row) for row in rows[some][there].tolist()])
                held.append((keys[some][there], latents))
            if held and (start + GROUP >= len(rows) or time.monotonic() - since > SECONDS):
                cache.write(np.concatenate([part for part, _ in held]), np.concatenate([part for _, part in held]))
                held, since = [], time.monotonic()
            yield len(pictures)


def _check(latents: Latents, paths: list[str]) -> None:
    finite = np.isfinite(latents).all((1, 2, 3))
    if not finite.all():
        path = paths[int(np.argmin(finite))]
        raise UserError("model", f"EffNet makes no numbers of {path}; its weights are broken, or need float32")
