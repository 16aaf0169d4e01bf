"""A step's samples as the pieces that one process runs forward at a time, and what share of the step each piece is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sotediffusion.train.data import Batch
from sotediffusion.train.distributed import Ranks


@dataclass(frozen=True)
class Piece:
    """Samples for one forward pass."""

    batch: Batch
    share: float  # of the step; 0 where they only stand in
    whole: int  # samples of the step, of all processes
    last: bool  # of this process's pieces


def pieces(batches: Iterator[Batch], size: int, ranks: Ranks) -> Iterator[Piece]:
    """The next step: a source that knows the processes gives it piece by piece, other batches are whole steps and cut here."""
    while True:
        batch = next(batches)
        if batch.whole is None:
            yield from _cut(batch, size, ranks)
            return
        yield Piece(batch, 0.0 if batch.void else batch.size / batch.whole, batch.whole, batch.last)
        if batch.last:
            return


def _cut(batch: Batch, size: int, ranks: Ranks) -> Iterator[Piece]:
    """This process's rows in pieces of at most `size`, all where it is 0: as many pieces in every process.

    Where the samples are not enough for all, a process runs one sample that counts for nothing, so that nobody waits for it.
    """
    whole, rows = batch.size, ranks.rows(batch.size)
    if ranks.count == 1 and not 0 < size < whole:
        yield Piece(batch, 1.0, whole, True)
        return
    most = -(-whole // ranks.count)
    size = min(size or most, most)
    for first in range(0, most, size):
        own = rows[first : first + size]
        part = batch.take(own) if own else replace(batch.take([0]), void=True)
        yield Piece(part, len(own) / whole, whole, first + size >= most)
