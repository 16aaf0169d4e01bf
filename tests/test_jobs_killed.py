"""SIGKILL at any moment, to gateways, workers and senders: no accepted job is lost and none has two results."""

import random
import time
from collections import Counter

from job_places import order, place, quick, server  # noqa: F401  fixtures
from killed_workers import LIMITS, gateway, kill, start, worker

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import JobState
from sotediffusion.serve.storage.retention import sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore

# ruff: noqa: F811  fixtures are arguments

KILLS = 20


def lines(path):
    return path.read_text().split() if path.exists() else []


def until(reached):
    end = time.monotonic() + 600
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_workers_killed_at_random_lose_no_job_and_store_none_twice(place, quick):
    chance = random.Random(7)
    store, stored, shelf = JobStore(Database(place), LIMITS), quick / "stored", quick / "shelf"
    ids = set()

    def results():
        if store.depth()[JobState.QUEUED] < 10:  # however fast they are, there is work for as long as there are kills
            ids.update(store.submit(order(owner)).id for owner in ["anna", "ben"] * 10)
        return len(lines(stored))

    results()
    store.database.close()
    names = (f"w{number}" for number in range(1000))
    running = {name: start(worker, place, shelf, stored, name) for name in [next(names), next(names)]}
    for number in range(KILLS):
        done = results()
        until(lambda done=done: results() > done)  # they work, and so are killed at work
        time.sleep(chance.uniform(0, 0.03))
        name = chance.choice(list(running))
        kill(running.pop(name))
        if number % 2:  # the other half is left to its lease
            store.suspects(name, "it was killed")
        name = next(names)
        running[name] = start(worker, place, shelf, stored, name)
    until(lambda: store.expire() is None or store.depth() == {JobState.QUEUED: 0, JobState.RUNNING: 0})
    for process in running.values():
        kill(process)
    check_results(store, Shelf(shelf), ids, Counter(lines(stored)))


def check_results(store, shelf, ids, stored):
    jobs = {job.id: job for job in store.find(limit=1000)}
    assert jobs.keys() == ids
    assert max(stored.values()) == 1
    for job in jobs.values():
        assert job.state is JobState.SUCCEEDED and len(job.pictures) == 1
        assert shelf.read(job.pictures[0].name) == f"{job.id} {job.fence}".encode()
    assert any(job.fence > 1 for job in jobs.values())  # some were claimed by one that was killed
    sweep(store, shelf, grace_s=-60)
    assert sorted(name for id in shelf.jobs() for name in shelf.written(id)) == sorted(j.pictures[0].name for j in jobs.values())


def test_what_a_killed_gateway_accepted_is_there(place, quick):
    chance, accepted = random.Random(3), quick / "accepted"
    JobStore(Database(place)).database.close()
    for number in range(6):
        before = len(lines(accepted))
        process = start(gateway, place, accepted, f"owner{number}")
        until(lambda before=before: len(lines(accepted)) > before + 3)
        time.sleep(chance.uniform(0, 0.03))
        kill(process)
    found = {job.id for job in JobStore(Database(place)).find(limit=100_000)}
    promised = set(lines(accepted))
    assert promised <= found and len(found - promised) <= 6  # one may be on the disk before its gateway could say so


def test_a_sqlite_file_is_sound_after_its_writers_were_killed(quick):
    place, accepted = str(quick / "jobs.sqlite"), quick / "accepted"
    JobStore(Database(place)).database.close()
    for number in range(4):
        writers = [start(gateway, place, accepted, f"{number}-{n}") for n in range(2)]
        before = len(lines(accepted))
        until(lambda before=before: len(lines(accepted)) > before + 5)
        for writer in writers:
            kill(writer)
    with Database(place).read() as connection:
        assert connection.exec_driver_sql("pragma integrity_check").scalar() == "ok"
