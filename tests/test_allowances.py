"""A key has bounds of its own: how many of its jobs wait, what its pictures take, how long they stay; old databases learn it."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from job_places import clock, emptied, order, place, quick, server, store  # noqa: F401  fixtures
from web import ORDER, quick_folder, site

from sotediffusion.serve.storage import schema
from sotediffusion.serve.storage.allowances import Allowance
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import JobState, QueueFull, StoredPicture
from sotediffusion.serve.storage.keys import KeyStore
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.serve.storage.upgrades import ADDED
from sotediffusion.types import UserError

# ruff: noqa: F811  fixtures are arguments

OLD = Path(__file__).parent / "data" / "jobs-1.sql"
OLD_KEY = "c8e7f3eea6f22568:-wbDMpolxotAz7sAx3E5tRQL5MfcboMrstTNB0j75zY"  # opens nothing but that file
ORDERS = {  # where each dialect takes orders, and what it calls a full queue and a full shelf
    "/api/v1/jobs": (429, 507),
    "/v1/images/generations": (429, 507),
    "/sdapi/v1/txt2img": (429, 507),
    "/fal/queue/fal-ai/stable-cascade": (429, 507),
}


def done(store, job, size=60):
    [claimed] = store.claim("w", ["m"], 1, 30)
    assert claimed.id == job.id
    assert store.succeed(job.id, claimed.fence, [StoredPicture("a", 8, 8, 1, bytes=size)])
    return job


def test_a_key_has_its_own_bound_of_waiting_jobs_in_place_of_the_servers(place):
    database = Database(place)
    store, keys = JobStore(database, Limits(queued=10, queued_per_owner=2)), KeyStore(database)
    few, many, usual = (keys.add("k", allowance=Allowance(waiting=n))[0].id for n in (1, 4, None))
    for owner, bound in ((few, 1), (many, 4), (usual, 2)):
        accepted = [store.submit(order(owner)).id for _ in range(bound)]
        with pytest.raises(QueueFull, match=f"^{bound} of your jobs wait already") as full:
            store.submit(order(owner))
        assert full.value.retry_after >= 1
        assert {job.id for job in store.waiting(owner)} == set(accepted)
    assert keys.allow(few, Allowance()) and store.submit(order(few))
    with pytest.raises(QueueFull, match="^8 jobs wait"):
        store.submit(order(many), longest=8)


def test_a_key_has_its_own_quota_and_what_was_accepted_before_is_kept(store):
    keys = KeyStore(store.database)
    ann, bob = keys.add("ann", allowance=Allowance(bytes=100))[0].id, keys.add("bob")[0].id
    first, second, third = (store.submit(order(ann)) for _ in range(3))
    done(store, first)
    done(store, second)
    with pytest.raises(UserError, match="your pictures take 120 of 100 bytes"):
        store.submit(order(ann))
    assert store.get(third.id).state == JobState.QUEUED
    done(store, third)
    store.submit(order(bob))
    store.forget([first.id, second.id])
    store.submit(order(ann))


def test_jobs_of_a_key_are_kept_as_long_as_it_says(store, clock):
    keys = KeyStore(store.database)
    brief, long, usual = (keys.add("k", allowance=Allowance(keep_s=s))[0].id for s in (10.0, 1000.0, None))
    ids = {owner: done(store, store.submit(order(owner))).id for owner in (brief, long, usual, "local")}
    gone = {seconds: [] for seconds in (9, 10, 99, 100, 999, 1000)}
    begun = clock.now
    for seconds, found in gone.items():
        clock.now = begun + seconds
        found += sorted(job.id for job in store.stale(100))
    usual_ones = sorted((ids[usual], ids["local"]))
    assert gone[9] == [] and gone[10] == gone[99] == [ids[brief]]
    assert gone[100] == gone[999] == sorted([ids[brief], *usual_ones])
    assert gone[1000] == sorted(ids.values())


def test_nothing_is_no_bound():
    for values in ({"waiting": 0}, {"bytes": -1}, {"keep_s": 0.0}, {"keep_s": float("nan")}, {"keep_s": float("inf")}):
        with pytest.raises(UserError, match="is no bound of a key"):
            Allowance(**values)


@pytest.mark.parametrize("path", ORDERS)
def test_each_dialect_says_that_a_key_has_used_up_what_it_may(path):
    with quick_folder() as folder, site(folder, asks=True) as made:
        headers = made.key()
        ann, [key] = made.calling(headers), made.keys.all()
        ann.submit()
        body = {"prompt": ORDER["prompt"]}
        for allowance, status, words in ((Allowance(waiting=1), ORDERS[path][0], "of your jobs wait already"),
                                         (Allowance(bytes=1), ORDERS[path][1], "delete some")):  # fmt: skip
            made.keys.allow(key.id, allowance)
            if allowance.bytes:
                made.hand.draw()
            reply = ann.client.post(path, json=body)
            assert reply.status_code == status and words in reply.text, reply.text
            assert {"error", "detail"} & set(reply.json())
            assert ("Retry-After" in reply.headers) == (status == 429)
        made.keys.allow(key.id, Allowance(keep_s=86400.0))
        assert ann.client.get("/api/v1/about").json()["retention_s"] == 86400


def test_a_database_of_the_first_release_goes_on_with_all_that_was_in_it(tmp_path):
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(OLD.read_text())
    for _ in range(2):  # the second time there is nothing left to do
        database = Database(path)
        store, keys = JobStore(database), KeyStore(database)
        key = keys.check(OLD_KEY)
        assert key.name == "ann" and key.allowance == Allowance()
        assert sorted(job.state for job in store.find(key.id)) == [JobState.QUEUED, JobState.SUCCEEDED]
        database.close()
    assert keys.allow(key.id, Allowance(waiting=1))
    with pytest.raises(QueueFull):
        store.submit(order(key.id))
    [job] = store.claim("w", ["m"], 1, 30)
    assert store.succeed(job.id, job.fence, [])
    store.submit(order(key.id))


def test_what_an_upgrade_adds_is_what_new_tables_have(place):
    emptied(Database(place)).close()
    database = Database(place)
    with database.write() as connection:
        for version in sorted(ADDED, reverse=True):
            for part in reversed(ADDED[version]):
                if isinstance(part, sa.Index):
                    part.drop(connection)
                else:
                    connection.exec_driver_sql(f"alter table {part.table.name} drop column {part.name}")
        connection.execute(schema.about.update().values(version=1))
    database.close()
    again = Database(place)
    seen = sa.inspect(again.engine)
    for table in schema.metadata.sorted_tables:
        assert {column["name"] for column in seen.get_columns(table.name)} == set(table.columns.keys())
        assert {index["name"] for index in seen.get_indexes(table.name)} >= {index.name for index in table.indexes}
    with again.read() as connection:
        assert connection.scalar(sa.select(schema.about.c.version)) == schema.VERSION
