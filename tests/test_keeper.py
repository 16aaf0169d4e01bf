"""What goes on behind the doors goes on: no file that vanishes, no fault and no full disk ends it for good."""

import threading
from typing import Any

import pytest

from sotediffusion.serve import keeper
from sotediffusion.serve.keeper import Keeper
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
