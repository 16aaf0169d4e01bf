"""Workers for tests: forked from the test's own process, so that they start in no time, with the tiny cascade in memory."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tiny import tiny_cascade

from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.engine.memory import EngineLimits
from sotediffusion.serve.engine.supervisor import Patience, Supervisor
from sotediffusion.serve.engine.worker import main
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import LOCAL, Job, new_id, pack
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.types import Request

SMALL = Request("1girl, cat ears", "oldest", 64, 64, steps=3, decoder_steps=2, seed=1)
OPEN: list[Database] = []
QUICK = Patience(first_s=0.01, most_s=0.05)


def tiny(path: Path, dtype: str | None, device: str) -> Any:
    return tiny_cascade()


class Forked:
    """A process that looks like subprocess.Popen."""

    def __init__(self, work: Callable[[], None]):
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass
class Place:
    """A store and a shelf in a folder, and the supervisor of a worker on them."""

    folder: Path
    opener: Any = tiny
    limits: Limits = Limits()
    engine: EngineLimits = EngineLimits(memory=2**32)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = Database(self.folder / "jobs.db")
        OPEN.append(self.database)
        self.store, self.shelf = JobStore(self.database, self.limits), Shelf(self.folder / "shelf")
        places = (str(self.folder / "jobs.db"), str(self.folder / "shelf"), {"tiny": "tiny"})
        told = {"lease_s": 90.0, "beat_s": 0.02, "poll_s": 0.02, **self.settings}
        self.told = WorkerSettings(*places, engine=self.engine, **told)
        self.ended: list[str] = []
        self.supervisor = Supervisor(self.told, self.store, QUICK, self.fork, self.ended.append)

    def fork(self, number: int) -> Forked:
        for database in OPEN:  # SQLite's connections must not go over a fork
            database.close()
        return Forked(lambda: main(number, self.opener))

    def submit(self, order: Request = SMALL, **more: Any) -> str:
        job = Job(new_id(), LOCAL, pack(order), "tiny")
        return self.store.submit(replace(job, **more)).id

    def job(self, id: str) -> Job:
        job = self.store.get(id)
        assert job is not None
        return job

    def until(self, true: Callable[[], Any], seconds: float = 900.0) -> None:
        """Let the supervisor watch until something is so."""
        end = time.monotonic() + seconds
        while not true():
            self.supervisor.tick()
            time.sleep(0.005)
            assert time.monotonic() < end, "it did not come to pass"

    def watch(self, seconds: float) -> None:
        """Let the supervisor watch for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def until_ended(self, *ids: str) -> list[Job]:
        self.until(lambda: all(self.job(id).state.ended for id in ids))
        return [self.job(id) for id in ids]


@contextmanager
def serving(folder: Path, **more: Any) -> Iterator[Place]:
    """A place whose worker starts with the first look at it, and is gone in the end."""
    place = Place(folder, **more)
    try:
        yield place
    finally:
        if place.supervisor.child is not None:
            place.supervisor.child.process.kill()
            while place.supervisor.child.process.poll() is None:
                time.sleep(0.01)
        place.database.close()
        OPEN.remove(place.database)
