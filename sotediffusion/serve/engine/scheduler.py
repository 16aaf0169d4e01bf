"""Whose turn it is: the run that has waited longest since its last step names the key, and the runs of that key go along."""

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

Key = tuple[Hashable, ...]  # (model, phase, latent shape): runs with equal keys share forwards


class Waiting(Protocol):
    """What a line is made of; compared by identity."""

    @property
    def key(self) -> Key:
        """What it shares forwards by."""

    @property
    def rows(self) -> int:
        """How many rows of a forward it takes: two while it is guided."""


T = TypeVar("T", bound=Waiting)


class Scheduler(Generic[T]):
    """A line of runs, the one that has waited longest since its last step first.

    Nobody waits for a neighbour to finish and nobody starves: with K different keys in the line, every run's key is named at
    least once in any K turns, and `fit` only bounds how many runs of a key go at once, in the order they have waited.
    """

    def __init__(self, fit: Callable[[Key], int]):
        """`fit` says how many rows of a key one forward may have; the first of a line goes even where it is less."""
        self.fit = fit
        self.line: list[T] = []

    def join(self, run: T) -> None:
        """It goes along from the next turn of its key on."""
        self.line.append(run)

    def leave(self, run: T) -> None:
        """Its row is free from the next turn on. ValueError: it is not in the line."""
        self.line.remove(run)

    def turn(self) -> list[T]:
        """The runs of the next forward, put to the end of the line; empty where nobody waits."""
        if not self.line:
            return []
        key = self.line[0].key
        alike = [run for run in self.line if run.key == key]
        group = alike[: _fitting(alike, self.fit(key))]
        self.line = [run for run in self.line if run not in group] + group
        return group


def _fitting(runs: list[T], rows: int) -> int:
    """How many of the first runs take no more than `rows` together, but at least one."""
    count = taken = 0
    for run in runs:
        taken += run.rows
        if taken > rows:
            break
        count += 1
    return max(count, 1)
