"""A database that fails at the worst moment: replies are lost, claims end midway, and nothing that was promised is."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
from job_places import clock, emptied, order, place, quick, server, store  # noqa: F401  fixtures
from PIL import Image
from sqlalchemy import event, text
from web import Site, png

from sotediffusion.serve.engine import desk
from sotediffusion.serve.engine.desk import Desk
from sotediffusion.serve.engine.pulse import Held, Pulse
from sotediffusion.serve.gateway import Ask
from sotediffusion.serve.storage import changes, lines
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import LOCAL, JobState, Progress, StoreDown
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import Picture, Request, UserError

# ruff: noqa: F811  fixtures are arguments


class Lost(JobStore):
    """The database commits, but the reply to the first call does not arrive."""

    calls = 0

    def submit(self, *said):
        return self._unless_lost(super().submit(*said))

    def succeed(self, *said):
        return self._unless_lost(super().succeed(*said))

    def _unless_lost(self, reply):
        self.calls += 1
        if self.calls == 1:
            raise StoreDown("made for the test")
        return reply


def test_a_result_whose_commit_was_not_heard_of_keeps_its_pictures(store, quick, monkeypatch):
    monkeypatch.setattr(desk, "PAUSES", (0.01,))
    store.submit(order())
    [job] = store.claim("here", ["m"], 1, 60)
    shelf, ended = Shelf(quick / "shelf", reserve=0), []
    writer, held = Desk(Lost(store.database), shelf, ended.append), Held(job.id, job.fence)
    writer.shelve(held, Picture(Image.new("RGB", (8, 8)), 1, {"seed": 1}))
    writer.succeed(held)
    while writer.pending:
        time.sleep(0.01)
    writer.close()
    job = store.get(job.id)
    assert job.state == JobState.SUCCEEDED and ended == [held]
    assert Image.open(BytesIO(shelf.read(job.pictures[0].name))).size == (8, 8)


def test_a_result_is_taken_once_and_from_nobody_else(store):
    store.submit(order())
    [job] = store.claim("here", ["m"], 1, 60)
    assert store.succeed(job.id, job.fence, []) and store.succeed(job.id, job.fence, [])
    assert store.get(job.id).version == job.version + 1
    assert not store.succeed(job.id, job.fence + 1, []) and not store.succeed("f" * 32, job.fence, [])


def test_an_order_that_was_accepted_unheard_keeps_the_picture_it_starts_from(quick: Path) -> None:
    made = Site(quick)
    made.gateway.store = Lost(made.database)
    ask = Ask(Request("1girl", width=64, height=64, init=png()))
    with pytest.raises(StoreDown):
        asyncio.run(made.gateway.submit(LOCAL, ask))
    [job] = made.store.find()
    assert made.shelf.read(job.request["init"]) == png()
    made.gateway.close()


@pytest.mark.parametrize("fault", [StoreDown("made for the test"), UserError("disk", "no space is left; free some")])
def test_a_claim_that_fails_midway_gives_what_it_has_claimed(store, monkeypatch, fault):
    for _ in range(3):
        store.submit(order())
    lease, calls = changes.lease, []

    def fails_from_the_third_on(*said):
        calls.append(said)
        if len(calls) > 2:
            raise fault
        return lease(*said)

    monkeypatch.setattr(changes, "lease", fails_from_the_third_on)
    claimed = store.claim("here", ["m"], 3, 60)
    running = store.find(states=[JobState.RUNNING])
    assert len(claimed) == 2 and {job.id for job in claimed} == {job.id for job in running}
    with pytest.raises(type(fault)):
        store.claim("other", ["m"], 3, 60)
    assert store.depth() == {JobState.QUEUED: 1, JobState.RUNNING: 2}


@pytest.mark.system
def test_a_server_that_takes_no_writes_for_now_is_said_to_be_down(server):
    database = emptied(Database(server.url))

    @event.listens_for(database.engine, "begin")
    def read_only(connection):
        connection.exec_driver_sql("set transaction read only")

    store = JobStore(database)
    with pytest.raises(StoreDown, match="read-only"):
        store.submit(order())
    event.remove(database.engine, "begin", read_only)
    store.submit(order())
    database.close()


def test_a_heart_goes_on_after_whatever_went_wrong_in_a_beat(store, monkeypatch, caplog):
    store.submit(order())
    [job] = store.claim("here", ["m"], 1, 60)
    heartbeat, beats, also = store.heartbeat, [], threading.Event()

    def fails_at_first(*said):
        beats.append(said)
        if len(beats) == 1:
            raise RuntimeError("made for the test")
        return heartbeat(*said)

    monkeypatch.setattr(store, "heartbeat", fails_at_first)
    pulse = Pulse(store, "here", 60.0, 0.01, also.set)
    held = pulse.hold(job.id, job.fence)
    held.progress = Progress("text")
    pulse.start()
    end = time.monotonic() + 120
    while held.told is None and pulse._thread.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    pulse.stop()
    assert store.get(job.id).progress == Progress("text") and also.is_set()
    assert "a heartbeat failed" in caplog.text and "made for the test" in caplog.text


@pytest.mark.system
def test_a_server_that_vanishes_without_a_word_is_given_up_soon(server):
    database = Database(server.url)
    with database.engine.connect() as connection:
        told = connection.connection.driver_connection.info.get_parameters()
    assert int(told["tcp_user_timeout"]) == 10_000  # ms
    assert [int(told[f"keepalives_{what}"]) for what in ("idle", "interval", "count")] == [5, 5, 3]  # s, s
    database.close()


def test_who_finds_every_connection_taken_is_told_that_the_database_is_down(place):
    database = Database(place)
    database.engine.pool._timeout = 0.01
    with ExitStack() as taken:
        for _ in range(database.engine.pool.size() + database.engine.pool._max_overflow):
            taken.enter_context(database.read())
        with pytest.raises(StoreDown, match="no connection"), database.read():
            pass
    with database.read() as connection:
        assert connection.scalar(text("select 1")) == 1
    database.close()


@pytest.mark.system
def test_who_claims_while_late_jobs_expire_does_not_wait_in_a_circle(server):
    store, other = JobStore(emptied(Database(server.url))), Database(server.url)
    waits = text("select count(*) from pg_locks where not granted")
    taken = store.submit(order(start_by=1.0))
    store.submit(order(deadline=1.0))
    with ThreadPoolExecutor(1) as pool, other.read() as looking:
        with other.write() as connection:
            row = lines.choose(connection, "here", ["m"], 0.0)  # a claim, as far as the job
            assert row.id == taken.id
            expired = pool.submit(store.expire)
            end = time.monotonic() + 10
            while not looking.scalar(waits) and time.monotonic() < end:
                time.sleep(0.01)
            lines.served(connection, row.owner)  # and on to its line
        assert len(expired.result()) == 2
    other.close()
    store.database.close()
