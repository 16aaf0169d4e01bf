"""What is read of every sample of a batch: latents from a cache or encoded on the way, pictures, masks of the loss."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sotediffusion.buckets import CELL, Fits
from sotediffusion.train.fill import Encoder, Loader
from sotediffusion.train.fit import Faults, fitted_alpha, fitted_mask, output_fit
from sotediffusion.train.latents import LatentCache, keys_of
from sotediffusion.train.samples import Numbers, Samples

Rows = list[NDArray[Any] | None]  # one array a sample, None for a sample that cannot be had


class Field(Protocol):
    """One thing that is read of every sample of a batch."""

    def read(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Rows:
        """It, for these rows of the table."""

    def blank(self, fit: "NDArray[np.int32]") -> NDArray[Any]:
        """What it is like for a sample of this fit of which nothing is known."""


class CachedLatents:
    """EffNet's latents from a cache, (C, h, w) float16."""

    def __init__(self, samples: Samples, fits: Fits, cache: LatentCache, faults: Faults, flip: bool):
        self.samples, self.cache, self.faults = samples, cache, faults
        ways = [False, True] if flip else [False]
        keys = [keys_of(samples.content, fits, np.full(len(fits), mirrored)) for mirrored in ways]
        self.places = cache.find(np.concatenate(keys)).reshape(len(ways), -1)
        for row in np.flatnonzero((self.places < 0).any(0) & (fits[:, 0] > 0)).tolist():
            faults.add(samples.path(row), "no latents")

    def read(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Rows:
        places = self.places[0][rows]
        if mirrored.any():
            places = np.where(mirrored, self.places[1][rows], places)
        found: Rows = [None] * len(rows)
        there = np.flatnonzero(places >= 0)
        for row, latent in zip(there.tolist(), self.cache.read(places[there]), strict=True):
            found[row] = latent
            if latent is None:
                name = self.cache.name(int(places[row]))
                self.faults.add(name, "damaged: delete the shard with its .arrow file to have it made again")
        return found

    def blank(self, fit: "NDArray[np.int32]") -> NDArray[Any]:
        channels = self.cache.shards[0].shape[1] if self.cache.shards else 1
        return np.zeros((channels, fit[1] // CELL, fit[0] // CELL), np.float16)


class OnlineLatents:
    """The same, encoded when they are read."""

    def __init__(self, loader: Loader, encoder: Encoder):
        self.loader, self.encoder = loader, encoder

    def read(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Rows:
        pictures = self.loader.load(rows, fits, mirrored)
        there = [picture for picture in pictures if picture is not None]
        latents = iter(self.encoder.encode(there)) if there else iter(())
        return [None if picture is None else next(latents) for picture in pictures]

    def blank(self, fit: "NDArray[np.int32]") -> NDArray[Any]:
        return self.encoder.encode([np.zeros((fit[1], fit[0], 3), np.uint8)])[0]


class Pictures:
    """Pictures (H, W, 3) uint8 at the size that is drawn, for the stages that work on pixels."""

    def __init__(self, loader: Loader, scale: float):
        self.loader, self.scale = loader, scale

    def read(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Rows:
        return list(self.loader.load(rows, output_fit(fits, self.scale), mirrored))

    def blank(self, fit: "NDArray[np.int32]") -> NDArray[Any]:
        width, height = output_fit(fit[None], self.scale)[0, :2].tolist()
        return np.zeros((height, width, 3), np.uint8)


class Masks:
    """Masks of the loss (1, h, w) float32 in latent cells; a sample without one counts in full."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def read(self, rows: Numbers, fits: Fits, mirrored: NDArray[np.bool_]) -> Rows:
        return [self._mask(*row) for row in zip(rows.tolist(), fits, mirrored.tolist(), strict=True)]

    def blank(self, fit: "NDArray[np.int32]") -> NDArray[Any]:
        return np.ones((1, fit[1] // CELL, fit[0] // CELL), np.float32)

    def _mask(self, row: int, fit: "NDArray[np.int32]", mirrored: bool) -> NDArray[Any] | None:
        path = self.loader.samples.mask(row)
        if path is None:
            return self.blank(fit)
        try:
            data = Path(path).read_bytes() if os.path.isabs(path) else self.loader.source.read(path)
            return (fitted_alpha if path == self.loader.samples.path(row) else fitted_mask)(data, fit, mirrored)
        except (OSError, ValueError) as error:
            self.loader.faults.add(path, str(error)[:100])
            return None
