"""Batches of a table of samples: all that is in them follows from the cursor, for any number of ranks."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sotediffusion.buckets import CELL, BucketSettings, Fits, Size, fit_all
from sotediffusion.config import build, plain
from sotediffusion.train.captions import CaptionSettings
from sotediffusion.train.data import Batch, Key
from sotediffusion.train.fields import Field, Rows
from sotediffusion.train.fit import Faults, FitSettings, varied
from sotediffusion.train.order import Order, Piece, Ranks
from sotediffusion.train.samples import Samples
from sotediffusion.train.wording import Wording
from sotediffusion.types import UserError

ANY_RULE = ("resolution", "shortest", "longest")  # of a part's own settings of buckets; the others only hold under kohya's rules


@dataclass(frozen=True)
class Making:
    """What decides the content of batches besides the samples and how they lie in their buckets."""

    fit: FitSettings = FitSettings()
    captions: CaptionSettings = CaptionSettings()
    last: str = "keep"
    scale: float = 0.75  # EffNet's px to one of the picture
    encoder: dict[str, Any] = field(default_factory=dict)  # which EffNet


class Bucket(NamedTuple):
    """A bucket and how many samples an epoch has of it."""

    size: Size  # px of the picture
    cells: Size  # of its latents
    samples: int


def fits_of(samples: Samples, settings: BucketSettings) -> Fits:
    """The fit of every sample (N, 6), by the run's settings and those of its part."""
    fits = np.zeros((len(samples), 6), np.int32)
    width, height, part = (samples.column(name).astype(np.int64) for name in ("width", "height", "part"))
    for number, own in enumerate(part.buckets for part in samples.parts):
        rows = np.flatnonzero(part == number)
        if len(rows):
            kohya = settings.rule.startswith("kohya")
            changed = {key: value for key, value in own.items() if kohya or key in ANY_RULE}
            fits[rows] = fit_all(width[rows], height[rows], build(BucketSettings, plain(settings) | changed, "buckets"))
    return fits


class Stream:
    """A source of batches, part by part in lockstep with those of other ranks."""

    def __init__(self, samples: Samples, fits: Fits, fields: Mapping[str, Field], wording: Wording, making: Making,
                 ranks: Ranks = Ranks(), faults: Faults | None = None):  # fmt: skip
        self.samples, self.fits, self.fields, self.wording, self.ranks = samples, fits, fields, wording, ranks
        self.making, self.faults = making, faults or Faults(0)
        sizes = fits[:, 0].astype(np.int64) << 32 | fits[:, 1]
        names, self.buckets = np.unique(sizes, return_inverse=True)
        if len(names) and names[0] == 0:  # pictures that no bucket can hold
            self.buckets = self.buckets - 1
        self._weights = samples.column("weight")
        self._weighted = bool((self._weights != 1).any())
        if not (self.buckets >= 0).any():
            raise UserError("data", f"none of {len(samples)} pictures can be trained on; give larger ones, or another resolution")

    @property
    def identity(self) -> str:
        """Changes with the pictures, their captions and what is made of them."""
        hasher = hashlib.blake2b(json.dumps([self.samples.identity, plain(self.making)]).encode(), digest_size=8)
        hasher.update(self.fits.tobytes())
        return hasher.hexdigest()

    def __len__(self) -> int:
        """Samples in an epoch, repeats counted."""
        return int(self.samples.column("repeats")[self.buckets >= 0].sum())

    def order(self, size: int) -> Order:
        """The order for steps of `size` samples."""
        return Order(self.buckets, self.samples.column("repeats"), size, self.making.last)

    def sizes(self) -> list[Bucket]:
        """The buckets of an epoch, the fullest first."""
        there = self.buckets >= 0
        found, place = np.unique(self.fits[there, :2], axis=0, return_inverse=True)
        counts = np.bincount(place, self.samples.column("repeats")[there]).astype(int).tolist()
        cells = [(width // CELL, height // CELL) for width, height in found.tolist()]
        px = [(round(width / self.making.scale), round(height / self.making.scale)) for width, height in found.tolist()]
        return sorted(map(Bucket, px, cells, counts), key=lambda bucket: -bucket.samples)

    def notes(self, size: int) -> list[str]:
        """What is worth knowing before a run with steps of `size` samples begins."""
        buckets = self.sizes()
        small, lost = sum(bucket.samples < size for bucket in buckets), int((self.buckets < 0).sum())
        said = []
        if small:
            said.append(f"{small} of {len(buckets)} buckets hold fewer samples than a step of {size}; they share steps")
        if len(self) < size:
            said.append(f"an epoch has {len(self)} samples, less than a step of {size}; steps are smaller than asked for")
        if lost:
            said.append(f"{lost} of {len(self.samples)} pictures are smaller or longer than any bucket and are left out")
        return said

    def batches(self, seed: int, images: int, size: int) -> Iterator[Batch]:
        """What this rank computes, forward by forward for ever, from the step that holds image number `images` of the run."""
        order = self.order(size)
        for epoch, number, step in order.steps(seed, images):
            for piece in order.pieces(step, self.ranks):
                batch = self.read(piece, seed, epoch, number)
                yield replace(batch, whole=len(step), last=piece.last)

    def read(self, piece: Piece, seed: int, epoch: int, step: int = 0) -> Batch:
        """The samples of a piece without those that cannot be had; void where nothing is left."""
        keys: list[Key] = [(seed, epoch, number) for number in piece.numbers.tolist()]
        rows = piece.numbers % len(self.samples)
        fits, mirrored = varied(self.fits[rows], keys, self.making.fit)
        found = {name: field.read(rows, fits, mirrored) for name, field in self.fields.items()}
        there = [place for place in range(len(rows)) if all(some[place] is not None for some in found.values())]
        void = piece.void or not there
        if not there:
            found, there = {name: [field.blank(fits[0])] for name, field in self.fields.items()}, [0]
        keys, rows = [keys[place] for place in there], rows[there]
        texts, tokens, mask = self.wording.read(rows, keys, step)
        fields = {name: _stacked(some, there) for name, some in found.items()} | {"tokens": tokens, "token_mask": mask}
        if self._weighted:
            fields["weight"] = torch.from_numpy(self._weights[rows])
        return Batch(keys, [{"caption": [text]} for text in texts], fields, void=void)


def _stacked(rows: Rows, there: list[int]) -> Tensor:
    return torch.from_numpy(np.stack([row for place in there if (row := rows[place]) is not None]))
