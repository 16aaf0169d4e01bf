"""What goes on behind the doors, in threads: the worker is watched, old jobs go, receivers of webhooks are told."""

import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger

from sotediffusion.serve.engine.supervisor import Supervisor
from sotediffusion.serve.storage.jobs import StoreDown
from sotediffusion.serve.storage.retention import remove_stale, sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.webhooks.delivery import Sender
from sotediffusion.types import UserError

TICK_S = 0.25  # between two looks at the worker when it says nothing
CLEAN_S = 60.0  # between two removals of old jobs
SWEEP_S = 6 * 3600.0  # between two walks over all files
log = getLogger(__name__)


@dataclass
class Keeper:
    """Keeps a server going. Without a supervisor the workers are others' business."""

    store: JobStore
    shelf: Shelf
    retention_s: float
    supervisor: Supervisor | None = None
    sender: Sender | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """From now on it all goes on by itself."""
        tasks: list[Callable[[], None]] = [self._clean]
        if self.supervisor is not None:
            tasks.append(self._supervise)
        if self.sender is not None:
            sender = self.sender
            tasks.append(lambda: sender.run(self._stop))
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    @property
    def drained(self) -> bool:
        """Whether the worker has ended, after `drain`."""
        return self.supervisor is None or self.supervisor.over

    def drain(self) -> None:
        """Let the worker finish what it draws, or give it back, and end."""
        if self.supervisor is not None:
            self.supervisor.stop()

    def stop(self) -> None:
        """End the threads; the worker too, at once, if it is still there."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)
        if self.supervisor is not None and self.supervisor.child is not None:
            self.supervisor.child.process.kill()

    def _supervise(self) -> None:
        assert self.supervisor is not None
        told = ""
        while not self._stop.is_set():
            try:
                self.supervisor.tick()
            except Exception:  # no memory or no process left, say: it is tried again
                log.exception("the worker cannot be looked after")
                self._stop.wait(CLEAN_S / 60)
            if self.supervisor.trouble != told:
                told = self.supervisor.trouble
                if told:
                    log.warning("%s", told)
            self._listen(self.supervisor)

    def _listen(self, supervisor: Supervisor) -> None:
        """Wait until the worker says something, but no longer than a tick."""
        child = supervisor.child
        if child is None or not child.channel.open:
            self._stop.wait(TICK_S)
        else:
            select.select([child.channel.end], [], [], TICK_S)

    def _clean(self) -> None:
        swept = time.monotonic()
        while not self._stop.wait(CLEAN_S):
            with suppress(StoreDown, UserError):
                remove_stale(self.store, self.shelf, self.retention_s)
                if time.monotonic() - swept > SWEEP_S:
                    swept = time.monotonic()
                    sweep(self.store, self.shelf)
