"""Pictures opened in processes of their own, for steps that ask for one now and then: what kills those leaves the step alive."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity
from threading import BoundedSemaphore
from typing import Any

import numpy as np

from sotediffusion.curate.engine.processes import KILLS, PATIENCE, Died, Worker
from sotediffusion.curate.step import Pictures

Array = np.ndarray[Any, Any]
TRIES = 2  # a process may have died of something else


class Guarded:
    """A source that opens each picture under a limit of memory; pickles, and starts nothing before it is asked.

    Threads may share it: one process a core is started at most, and all end with it or with the process that it is in.
    """

    def __init__(self, source: Pictures, memory: int, make: Callable[[Array], Array]):
        """`memory`: bytes that opening may take, 0 for any. `make`: a module's function or a partial of one, done there too, so
        that little has to travel."""
        self.source, self.memory, self.make = source, memory, make
        self._prepare()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.source, self.memory, self.make

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.source, self.memory, self.make = state
        self._prepare()

    def _prepare(self) -> None:
        self.idle: list[Worker] = []
        self.places = BoundedSemaphore(len(sched_getaffinity(0)))
        self.starter = ThreadPoolExecutor(1)  # a process ends with the thread that started it, so that thread has to last

    def decode(self, path: str) -> Array:
        """What `make` makes of a picture, RGB uint8 (H, W, 3), upright, alpha on white.

        Raises ValueError with the reason for one that is no good or kills its process twice, OSError for one out of reach.
        """
        with self.places:
            for _ in range(TRIES):
                worker = self._worker()
                worker.send(("see", path))
                try:
                    if not worker.connection.poll(PATIENCE):
                        raise Died
                    kind, found = worker.receive()
                except Died:
                    worker.end()
                    continue
                self.idle.append(worker)
                if kind == "seen":
                    picture: Array = found
                    return picture
                raise (ValueError if kind == "no picture" else OSError)(found)
        raise ValueError(KILLS)

    def _worker(self) -> Worker:
        try:
            return self.idle.pop()
        except IndexError:
            worker = self.starter.submit(Worker, self.memory).result()
            worker.send(("source", self.source, self.make))
            return worker
