"""The order in which a run sees its samples: each one `repeats` times an epoch, in steps of one size, whoever computes them.

A step is what the optimizer does at once. Its samples are of one bucket where the bucket has enough of them; what is left over of
all buckets shares steps. The order follows from (data, seed, epoch, step size) alone, so it is the same for any number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sotediffusion.names import unknown
from sotediffusion.types import UserError

Numbers = NDArray[np.int64]

LAST = ("keep", "fill")


@dataclass(frozen=True)
class Piece:
    """Samples of one bucket that one rank sees in one forward."""

    numbers: Numbers  # row + copy * length of the table: a repeat is a sample of its own
    last: bool  # of its step
    void: bool  # stands in where this rank has none, so that all ranks do as many forwards; it counts for nothing


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and the most samples that it takes at once."""

    rank: int = 0
    ranks: int = 1
    micro: int | None = None


class Order:
    """Epochs over `buckets` (N,), the bucket of each row, negative for rows left out, with `repeats` (N,) of each."""

    def __init__(self, buckets: Numbers, repeats: Numbers, size: int, last: str = "keep"):
        check(last)
        if size < 1:
            raise UserError("batch", f"{size} samples cannot be a step; take 1 or more")
        self.size, self.last, self.length = size, last, len(buckets)
        self.buckets = buckets
        times = np.where(buckets < 0, 0, repeats)
        rows = np.repeat(np.arange(len(buckets)), times)
        copies = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
        self.numbers: Numbers = rows + copies * len(buckets)

    @property
    def epoch_images(self) -> int:
        """Samples in an epoch, repeats counted, and with them what fills its last step."""
        count = len(self.numbers)
        return -(-count // self.size) * self.size if self.last == "fill" else count

    def row(self, numbers: Numbers) -> Numbers:
        """The rows of the table that samples are of."""
        return numbers % self.length

    def epoch(self, seed: int, epoch: int) -> Numbers:
        """All samples of an epoch in order; step number i is [i * size, (i + 1) * size) of them, sorted by bucket."""
        rng = np.random.default_rng((seed, epoch))
        mixed = rng.permutation(self.numbers)
        names = rng.permutation(int(self.buckets.max(initial=0)) + 1)[self.buckets[self.row(mixed)]]
        by_bucket = np.argsort(names, kind="stable")
        mixed, names = mixed[by_bucket], names[by_bucket]
        counts = np.bincount(names)
        within = np.arange(len(mixed)) - np.repeat(np.cumsum(counts) - counts, counts)
        whole = within < np.repeat(counts // self.size * self.size, counts)
        steps = [*mixed[whole].reshape(-1, self.size), *_cut(mixed[~whole], self.size)]
        short = len(steps) - 1 if steps and len(steps[-1]) < self.size else len(steps)
        places = [*rng.permutation(short).tolist(), *range(short, len(steps))]
        if self.last == "fill" and short < len(steps):
            steps[short] = self._filled(steps[short], rng)
        return np.concatenate([mixed[:0], *(steps[place] for place in places)])

    def steps(self, seed: int, images: int) -> Iterator[tuple[int, int, Numbers]]:
        """(epoch, number of the step in the run, samples) for ever, from the step that holds sample number `images`."""
        epoch, done = divmod(images, self.epoch_images)
        an_epoch = -(-self.epoch_images // self.size)
        while True:
            samples = self.epoch(seed, epoch)
            for place in range(done // self.size, an_epoch):
                yield epoch, epoch * an_epoch + place, samples[place * self.size : (place + 1) * self.size]
            epoch, done = epoch + 1, 0

    def pieces(self, step: Numbers, ranks: Ranks) -> list[Piece]:
        """What one rank sees of a step: rows r::n of it, cut where the bucket changes and at `micro`; equally many for all."""
        names = self.buckets[self.row(step)]
        starts = np.flatnonzero(np.diff(names, prepend=-1)).tolist()
        micro = ranks.micro or len(step)
        found: list[tuple[Numbers, bool]] = []
        for start, stop in pairwise([*starts, len(step)]):
            own = step[start + (ranks.rank - start) % ranks.ranks : stop : ranks.ranks]
            most = -(-(stop - start) // ranks.ranks)  # of any rank
            stand_in = step[start : start + 1]
            found += [(own[i : i + micro], False) if i < len(own) else (stand_in, True) for i in range(0, most, micro)]
        return [Piece(numbers, place == len(found) - 1, void) for place, (numbers, void) in enumerate(found)]

    def _filled(self, step: Numbers, rng: np.random.Generator) -> Numbers:
        """A step made whole with further copies of samples."""
        rows = rng.permutation(np.flatnonzero(self.buckets >= 0))
        more = np.arange(self.size - len(step))
        copy = int(self.numbers.max()) // self.length + 1 + more // len(rows)
        whole = np.concatenate([step, rows[more % len(rows)] + copy * self.length])
        return whole[np.argsort(self.buckets[self.row(whole)], kind="stable")]


def check(last: str) -> None:
    """Raise UserError for an unknown rule for the last step of an epoch."""
    if last not in LAST:
        raise unknown("data.last", last, LAST)


def _cut(samples: Numbers, size: int) -> list[Numbers]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]
