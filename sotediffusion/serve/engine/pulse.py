"""A worker's heartbeat, in a thread of its own: leases last through long steps, and a cancelled job is heard of soon."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import getLogger

from sotediffusion.serve.storage.jobs import Progress, StoreDown, StoredPicture
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError

EXPIRE_S = 1.0  # between two looks for jobs past their deadline
log = getLogger(__name__)


@dataclass(eq=False)
class Held:
    """A claimed job, from its claim until its end is written."""

    id: str
    fence: int
    progress: Progress | None = None
    told: Progress | None = None  # what the store knows of it
    preview: str | None = None  # the latest one's name on the shelf
    pictures: list[StoredPicture] = field(default_factory=list)  # finished and on the shelf
    over: bool = False  # ended, or not ours any more: nothing more is to be done for it


@dataclass
class Pulse:
    """Renews the leases of what is held, tells how far it is, and hears what is to be dropped."""

    store: JobStore
    worker: str
    lease_s: float
    beat_s: float
    also: Callable[[], None] = lambda: None  # at every beat
    held: dict[str, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock, self._over, self._expired = threading.Lock(), threading.Event(), 0.0
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """From now on leases last."""
        self._thread.start()

    def stop(self) -> None:
        """No beat comes after this."""
        self._over.set()
        self._thread.join()

    def hold(self, job: str, fence: int) -> Held:
        """A job that was claimed."""
        with self._lock:
            self.held[job] = Held(job, fence)
            return self.held[job]

    def let_go(self, held: Held) -> None:
        """It ended, or is to be forgotten."""
        held.over = True
        with self._lock:
            if self.held.get(held.id) is held:
                del self.held[held.id]

    def beat(self) -> None:
        """Renew all leases and tell what is new; what is not ours any more is over. A store that is down is asked again."""
        with self._lock:
            now = [(held, held.progress) for held in self.held.values()]
        said = {held.id: (held.fence, progress if progress != held.told else None) for held, progress in now}
        try:
            verdicts = self.store.heartbeat(self.worker, said, self.lease_s) if said else {}
            if time.monotonic() - self._expired > EXPIRE_S:
                self.store.expire()
                self._expired = time.monotonic()
        except (StoreDown, UserError):
            return
        for held, progress in now:
            held.told = progress
            if verdicts[held.id] != "keep":
                self.let_go(held)

    def _run(self) -> None:
        while not self._over.wait(self.beat_s):
            for task in (self.beat, self.also):
                try:
                    task()
                except Exception:  # whatever it is: without beats every lease runs out, and other beats may go well
                    log.exception("a heartbeat failed")
