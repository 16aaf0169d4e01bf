"""What goes on behind the doors goes on: no file that vanishes, no fault and no full disk ends it for good."""

import fcntl
import resource
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sotediffusion.serve import keeper
from sotediffusion.serve.engine.channel import Channel, WorkerSettings
from sotediffusion.serve.engine.supervisor import Child, Supervisor
from sotediffusion.serve.keeper import Keeper, look_after
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import new_id
from sotediffusion.serve.storage.retention import sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.webhooks import delivery
from sotediffusion.serve.webhooks.delivery import Sender, Signer
from sotediffusion.serve.webhooks.outbox import Outbox
from sotediffusion.types import UserError


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_file_that_goes_between_two_looks_does_not_end_the_sweep(tmp_path, monkeypatch, place):
    shelf = Shelf(tmp_path / "shelf" if place == "disk" else f"memory://{new_id()}", reserve=0)
    job = new_id()
    gone, stays = sorted([shelf.put(job, b"a"), shelf.put(job, b"b")])
    listed = shelf._names

    def names(folder: str) -> list[str]:
        found = listed(folder)
        if folder.endswith(job):
            shelf.remove([gone])  # a user or another server's sweep, this moment
        return found

    monkeypatch.setattr(shelf, "_names", names)
    assert set(shelf.written(job)) == {stays}
    assert sweep(JobStore(Database(tmp_path / "jobs.sqlite")), shelf, grace_s=-10) == 1
    assert shelf.written(job) == {}


class Faulty:
    """Does its work at the third time only."""

    def __init__(self) -> None:
        self.times, self.done = 0, threading.Event()

    def __call__(self, *arguments: Any) -> None:
        self.times += 1
        if self.times < 3:
            raise RuntimeError("a fault of ours")
        self.done.set()


def test_no_fault_ends_what_is_done_again_and_again(tmp_path, monkeypatch, caplog):
    store, cleaning, expiring = JobStore(Database(tmp_path / "jobs.sqlite")), Faulty(), Faulty()
    monkeypatch.setattr(keeper, "remove_stale", cleaning)
    monkeypatch.setattr(store, "expire", expiring)
    monkeypatch.setattr(keeper, "CLEAN_S", 0.01)
    monkeypatch.setattr(keeper, "EXPIRE_S", 0.01)
    kept = Keeper(store, Shelf(tmp_path / "shelf"), float("inf"))
    kept.start()
    try:
        assert cleaning.done.wait(10) and expiring.done.wait(10)
    finally:
        kept.stop()
    assert caplog.text.count("RuntimeError: a fault of ours") == 4


@pytest.mark.parametrize("error", [UserError("disk", "no space is left"), RuntimeError("a fault of ours")])
def test_a_full_disk_or_a_fault_does_not_end_the_webhooks(tmp_path, monkeypatch, error):
    database, stop, times = Database(tmp_path / "jobs.sqlite"), threading.Event(), []
    outbox = Outbox(database)

    def take(limit: int) -> list[Any]:
        times.append(limit)
        if len(times) < 3:
            raise error
        stop.set()
        return []

    monkeypatch.setattr(outbox, "take", take)
    monkeypatch.setattr(delivery, "_PAUSE", 0.01)
    Sender(outbox, Signer(database), lambda job: b"").run(stop)
    assert len(times) == 3


def test_workers_are_looked_after_again_where_listening_failed(monkeypatch, caplog):
    monkeypatch.setattr(keeper, "AGAIN_S", 0.01)
    listening, stop, ticks = Faulty(), threading.Event(), []
    monkeypatch.setattr(listening, "done", stop)
    workers: Any = SimpleNamespace(trouble="", tick=lambda: ticks.append(1), listen=listening)
    look_after(workers, stop)
    assert len(ticks) == 3 and "RuntimeError: a fault of ours" in caplog.text


@pytest.fixture
def high():
    """Both ends of a line; the number of ours is above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= 1100:
        pytest.skip("no process may have so many descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    low, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD, 1100))
    with low, ours, theirs:
        yield ours, theirs
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_is_heard_whatever_the_number_of_its_line(tmp_path, high):
    ours, theirs = high
    process: Any = SimpleNamespace(poll=lambda: None)
    child = Child("worker", process, Channel(ours), 0.0)
    supervisor = Supervisor(WorkerSettings("jobs", "shelf", {}), JobStore(Database(tmp_path / "jobs.sqlite")), child=child)
    supervisor.listen(0.01)
    theirs.send(b'{"say": "ready"}')
    supervisor.listen(600)
    supervisor.tick()
    assert supervisor.ready
