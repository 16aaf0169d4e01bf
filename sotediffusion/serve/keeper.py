"""What goes on behind the doors, in threads: the worker is watched, old jobs go, receivers of webhooks are told."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from typing import Protocol

from sotediffusion.serve.storage.jobs import StoreDown
from sotediffusion.serve.storage.retention import remove_stale, sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.webhooks.delivery import Sender
from sotediffusion.types import UserError

TICK_S = 0.25  # between two looks at the workers when they say nothing
AGAIN_S = 1.0  # after a look that failed
EXPIRE_S = 1.0  # between two looks for jobs past their time
CLEAN_S = 60.0  # between two removals of old jobs
SWEEP_S = 6 * 3600.0  # between two walks over all files
log = getLogger(__name__)


class Workers(Protocol):
    """What draws for a server: a `Supervisor` with its process, or replicas on a cluster."""

    @property
    def ready(self) -> bool:
        """Whether one is there with its first model open."""

    @property
    def trouble(self) -> str:
        """Why one ended or cannot begin; empty where all is well."""

    @property
    def over(self) -> bool:
        """Whether all is stopped and told, after `stop`."""

    def tick(self) -> None:
        """See what has happened and do what is due."""

    def listen(self, seconds: float) -> None:
        """Wait until something happens, but no longer than so many seconds."""

    def wake(self) -> None:
        """There is a new job."""

    def stop(self) -> None:
        """Ask them to finish or release their jobs and to end."""

    def kill(self) -> None:
        """End them at once."""


@dataclass
class Keeper:
    """Keeps a server going. Without workers of its own the drawing is others' business."""

    store: JobStore
    shelf: Shelf
    retention_s: float
    workers: Workers | None = None
    sender: Sender | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._swept = time.monotonic()

    def start(self) -> None:
        """From now on it all goes on by itself."""
        tasks: list[Callable[[], None]] = [
            lambda: self._repeat(self._clean, CLEAN_S),
            lambda: self._repeat(self.store.expire, EXPIRE_S),  # workers do it too, but a job is also late where there is none
        ]
        if self.workers is not None:
            workers = self.workers
            tasks.append(lambda: look_after(workers, self._stop))
        if self.sender is not None:
            sender = self.sender
            tasks.append(lambda: sender.run(self._stop))
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    @property
    def drained(self) -> bool:
        """Whether the workers have ended, after `drain`."""
        return self.workers is None or self.workers.over

    def drain(self) -> None:
        """Let the workers finish what they draw, or give it back, and end."""
        if self.workers is not None:
            self.workers.stop()

    def stop(self) -> None:
        """End the threads; the workers too, at once, if they are still there."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)
        if self.workers is not None:
            self.workers.kill()

    def _repeat(self, task: Callable[[], object], pause: float) -> None:
        """Do something again and again until it is time to stop; no fault ends it."""
        while not self._stop.wait(pause):
            try:
                with suppress(StoreDown, UserError):  # a store that is away or full: others tell of it
                    task()
            except Exception:
                log.exception("what is done behind the doors has failed, and is tried again")

    def _clean(self) -> None:
        remove_stale(self.store, self.shelf, self.retention_s)
        if time.monotonic() - self._swept > SWEEP_S:
            self._swept = time.monotonic()
            sweep(self.store, self.shelf)


def look_after(workers: Workers, stop: threading.Event) -> None:
    """Let workers be seen to until it is time to stop, and log what troubles them."""
    told = ""
    while not stop.is_set():
        try:
            workers.tick()
            workers.listen(TICK_S)
        except Exception:  # no memory or no process left, say: it is tried again
            log.exception("the workers cannot be looked after")
            stop.wait(AGAIN_S)
        if workers.trouble != told:
            told = workers.trouble
            if told:
                log.warning("%s", told)
