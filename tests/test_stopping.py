"""A server that is asked to end does, at whatever moment of its worker's life that is."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.engine.supervisor import Supervisor
from sotediffusion.serve.run import _drain
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.store import JobStore

TOLD = WorkerSettings("jobs", "shelf", {})


class Started:
    """A process that ends well when it is asked to."""

    pid = 0

    def __init__(self) -> None:
        self.code: int | None = None
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.code = 0

    def kill(self) -> None:
        self.code = -signal.SIGKILL


def test_a_worker_that_is_just_starting_is_told_to_end_too(tmp_path):
    process = Started()

    def start(number: int) -> Started:
        supervisor.stop()  # from another thread, which sees no worker yet
        return process

    supervisor = Supervisor(TOLD, JobStore(Database(tmp_path / "jobs.sqlite")), start=start)
    supervisor.tick()
    assert process.signals == [signal.SIGTERM]
    supervisor.tick()
    assert supervisor.over


class Passing(Supervisor):
    """One whose worker dies, and is taken away by the thread that watches it, as soon as anybody has seen it."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "child":
            self.child = None
        return found


@pytest.mark.parametrize("what", ["ready", "wake", "stop", "kill"])
def test_a_worker_that_dies_while_it_is_spoken_to_is_no_fault(tmp_path, what):
    supervisor = Passing(TOLD, JobStore(Database(tmp_path / "jobs.sqlite")), start=lambda number: Started())
    supervisor._start(0.0)
    said = getattr(supervisor, what)
    assert said is False if what == "ready" else said() is None


def test_the_doors_close_even_where_the_worker_cannot_be_asked_to_end():
    gateway = SimpleNamespace(draining=asyncio.Event(), closing=asyncio.Event())
    gateway.draining.set()

    def drain() -> None:
        raise OSError("whatever it is")

    server: Any = SimpleNamespace(house=SimpleNamespace(gateway=gateway), keeper=SimpleNamespace(drain=drain))
    web: Any = SimpleNamespace(should_exit=False, force_exit=False)
    with pytest.raises(OSError, match="whatever it is"):
        asyncio.run(_drain(server, web))
    assert web.should_exit and gateway.closing.is_set()
