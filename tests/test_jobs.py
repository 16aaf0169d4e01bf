"""The queue's promises, one by one, on SQLite and on PostgreSQL."""

import json
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_places import clock, emptied, order, place, quick, server, store  # noqa: F401  fixtures
from sqlalchemy import event, text

from sotediffusion.serve.storage import database
from sotediffusion.serve.storage.database import Database, masked
from sotediffusion.serve.storage.jobs import Failure, JobState, Progress, QueueFull, StoreDown, StoredPicture, pack, unpack
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.types import Request, UserError

# ruff: noqa: F811  fixtures are arguments


def submit(store, owners, **more):
    return [store.submit(order(owner, **more)) for owner in owners]


def claimed(store, worker="w", models=("m",), limit=1, lease_s=30):
    return store.claim(worker, models, limit, lease_s)


def drain(store, models=("m",)):
    """Who gets the next turn, until nobody waits."""
    turns = []
    while batch := claimed(store, f"w{len(turns)}", models):
        turns += batch
    return turns


def test_owners_take_turns_however_many_jobs_one_of_them_has(store):
    submit(store, ["anna"] * 5 + ["ben"] * 2)
    assert [job.owner for job in drain(store)] == ["anna", "ben", "anna", "ben", "anna", "anna", "anna"]


def test_who_comes_back_with_one_job_at_a_time_is_served_no_more_often_than_who_waits(store):
    submit(store, ["anna"] * 4 + ["ben"])
    turns = []
    for number in range(6):
        [job] = claimed(store, f"w{number}")
        turns.append(job.owner)
        if job.owner == "ben":
            submit(store, ["ben"])
    assert turns == ["anna", "ben", "anna", "ben", "anna", "ben"]


def test_two_models_give_an_owner_no_second_turn(store):
    submit(store, ["anna", "anna"], model="m") + submit(store, ["anna", "anna"], model="n")
    submit(store, ["ben", "ben"], model="n")
    owners = [job.owner for job in drain(store, ("m", "n"))]
    assert owners[:4] == ["anna", "ben", "anna", "ben"]


def test_a_higher_priority_goes_first_whoever_asks(store):
    submit(store, ["anna", "ben"])
    first = submit(store, ["anna", "anna"], priority=1)
    assert [job.id for job in drain(store)[:2]] == [job.id for job in first]


def test_a_worker_gets_only_what_it_has_the_model_for(store):
    [other, mine] = submit(store, ["anna"], model="other") + submit(store, ["anna"])
    assert [job.id for job in drain(store)] == [mine.id]
    assert store.get(other.id).state is JobState.QUEUED


def test_the_innocent_finish_uncharged_and_the_poison_fails_with_its_reason(store):
    jobs = submit(store, ["anna"] * 3)
    assert len(claimed(store, "w0", limit=5)) == 3
    assert {job.alone for job in store.suspects("w0", "the worker was killed by signal 9")} == {True}
    poison, deaths = jobs[1].id, 0
    for number in range(10):
        batch = claimed(store, f"w{number + 1}", limit=5)
        if not batch:
            break
        [job] = batch
        assert claimed(store, f"w{number + 1}", limit=5) == []  # nothing beside it
        if job.id == poison:
            store.suspects(job.worker, "the worker was killed by signal 9")
            deaths += 1
        else:
            assert store.succeed(job.id, job.fence, [])
    assert deaths == 3
    found = [store.get(job.id) for job in jobs]
    assert [(job.state, job.attempts) for job in found] == [("succeeded", 0), ("failed", 3), ("succeeded", 0)]
    assert found[1].error == Failure("worker_died", "the worker was killed by signal 9")


def test_busy_workers_make_room_for_a_job_that_waits_long_to_run_alone(store, clock):
    [suspect] = submit(store, ["anna"])
    claimed(store, "dead")
    submit(store, ["ben"] * 5)
    running = claimed(store, "busy")
    store.suspects("dead", "it died")
    running += claimed(store, "busy")
    assert [job.owner for job in running] == ["ben", "ben"]
    clock.now += store.limits.patience
    assert claimed(store, "busy") == []
    for job in running:
        store.succeed(job.id, job.fence, [])
    assert [job.id for job in claimed(store, "busy", limit=5)] == [suspect.id]


def test_progress_raises_the_version_and_a_lease_alone_does_not(store):
    [job] = submit(store, ["anna"])
    [job] = claimed(store)
    before = store.versions([job.id, "0" * 32])
    assert before == {job.id: job.version}
    assert store.heartbeat("w", {job.id: (job.fence, None)}, 30) == {job.id: "keep"}
    assert store.versions([job.id]) == before
    progress = Progress("stage c", 3, 30, 1.5, "ab/x.jpg")
    assert store.heartbeat("w", {job.id: (job.fence, progress)}, 30) == {job.id: "keep"}
    assert store.versions([job.id])[job.id] == job.version + 1
    assert store.get(job.id).progress == progress


def test_a_worker_hears_what_became_of_its_jobs(store, clock):
    keeps, stopped, taken = submit(store, ["anna"] * 3)
    [late] = submit(store, ["anna"], deadline=clock.now + 5)
    held = {job.id: (job.fence, None) for job in claimed(store, limit=4)}
    store.cancel(stopped.id, "anna")
    clock.now += 6
    store.release({taken.id: 1})
    claimed(store, "other")
    store.expire()
    expected = {keeps.id: "keep", stopped.id: "cancel", late.id: "cancel", taken.id: "lost", "f" * 32: "lost"}
    assert store.heartbeat("w", held | {"f" * 32: (1, None)}, 30) == expected


def test_what_was_to_begin_by_now_expires_unless_it_has_begun(store, clock):
    begun, late, other = (submit(store, [owner], start_by=clock.now + 5)[0] for owner in ("anna", "ben", "eve"))
    [job] = claimed(store)
    assert job.id == begun.id
    clock.now += 4.9
    assert store.expire() == []
    store.release({job.id: job.fence})  # it has begun once, which was asked for
    clock.now += 0.1
    assert {job.id for job in store.expire()} == {late.id, other.id}
    assert store.get(late.id).state == JobState.EXPIRED and "did not begin" in store.get(late.id).error.message
    assert [job.id for job in drain(store)] == [begun.id]


def test_what_is_past_its_deadline_is_not_begun(store, clock):
    [job] = submit(store, ["anna"], deadline=clock.now + 5)
    clock.now += 5
    assert claimed(store) == []
    assert store.get(job.id).state is JobState.EXPIRED
    assert store.get(job.id).error.code == "deadline"


def test_a_lost_submission_repeated_gives_the_same_job(store):
    first = order(idempotency="the one")
    assert store.submit(first).id == store.submit(first).id == store.submit(order(idempotency="the one")).id == first.id
    assert store.submit(order("ben", idempotency="the one")).id != first.id
    assert store.submit(order()).id != store.submit(order()).id


def test_the_same_order_from_many_gateways_at_once_is_one_job(place):
    ids = at_once(8, lambda: JobStore(Database(place)).submit(order(idempotency="x")).id)
    assert len(set(ids)) == 1


def test_a_file_that_another_opens_in_the_same_moment_is_waited_for(tmp_path):
    with sqlite3.connect(tmp_path / "jobs.sqlite", check_same_thread=False, isolation_level=None) as other:
        other.execute("begin immediate")
        leaves = threading.Timer(0.3, lambda: other.execute("commit"))
        leaves.start()
        assert Database(tmp_path / "jobs.sqlite").engine.connect().scalar(text("pragma journal_mode")) == "wal"
        leaves.join()
    other.close()


def test_the_bound_holds_for_many_gateways_at_once(place):
    def fill():
        store, taken = JobStore(Database(place), Limits(queued=10)), 0
        for _ in range(5):
            try:
                store.submit(order())
                taken += 1
            except QueueFull as full:
                assert full.retry_after >= 1
        return taken

    assert sum(at_once(6, fill)) == 10
    assert JobStore(Database(place)).depth()[JobState.QUEUED] == 10


def test_many_claim_at_once_and_nobody_gets_what_another_has(place):
    store = JobStore(Database(place))
    ids = {job.id for job in submit(store, [owner for _ in range(15) for owner in ("anna", "ben", "cleo", "dora")])}
    names = iter(range(100))

    def work():
        store, worker, mine = JobStore(Database(place)), f"w{next(names)}", []
        while batch := claimed(store, worker, limit=2):
            mine += [(job.id, job.fence) for job in batch]
        return mine

    taken = [claim for claims in at_once(4, work) for claim in claims]
    assert sorted(taken) == sorted((id, 1) for id in ids)


def test_who_does_what_he_likes_at_the_same_time_upsets_no_count_and_blocks_nobody(place):
    names = iter(range(1000))

    def live():
        number = next(names)
        chance, store, held = random.Random(number), JobStore(Database(place)), {}
        for step in range(10):
            owner, worker = chance.choice("ab"), f"w{number}.{step // 4}"
            for job in store.find(owner, states=[JobState.QUEUED], limit=3):
                chance.choice([store.cancel, store.position, store.get])(job.id)
                store.reorder(job.id, owner, chance.choice([None, job.id, "f" * 32]))
            store.submit(order(owner, chance.choice("mn"), priority=chance.choice([0, 1])))
            store.submit(order(owner, deadline=chance.choice([None, 1.0])))
            held |= {job.id: job.fence for job in store.claim(worker, ["m", "n"], 2, 0.05)}
            store.heartbeat(worker, {id: (fence, Progress("text")) for id, fence in held.items()}, 0.05)
            for id in chance.sample(sorted(held), len(held) // 2):
                chance.choice([store.succeed, lambda id, fence, none: store.release({id: fence})])(id, held.pop(id), [])
            chance.choice([store.expire, lambda worker=worker: store.suspects(worker, "it died"), store.depth])()

    at_once(4, live)
    check_counts(JobStore(Database(place)))


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_position_is_of_one_moment_though_the_job_ends_between_two_questions(place, asked):
    store, other = JobStore(Database(place)), JobStore(Database(place))
    job = submit(store, ["ben", "anna"])[1]
    questions = []

    @event.listens_for(store.database.engine, "after_cursor_execute")
    def ends(connection, cursor, statement, *rest):
        questions.append(statement)
        if sum(question.startswith("SELECT") for question in questions) == asked and other.get(job.id).state == JobState.QUEUED:
            other.cancel(job.id)

    assert store.position(job.id) == 1
    assert other.get(job.id).state == JobState.CANCELLED
    event.remove(store.database.engine, "after_cursor_execute", ends)
    assert store.position(job.id) is None


def check_counts(store):
    queued = store.find(states=[JobState.QUEUED], limit=10_000)
    assert store.depth()[JobState.QUEUED] == len(queued) > 0
    assert sorted(store.position(job.id) for job in queued if job.alone) == list(range(sum(job.alone for job in queued)))
    assert sorted(store.position(job.id) for job in queued) == list(range(len(queued)))


def at_once(count, work):
    """What each of several threads that start together gives back."""
    ready = threading.Barrier(count)

    def run():
        ready.wait()
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


def test_a_caller_may_ask_for_a_shorter_queue(store):
    submit(store, ["anna"] * 3)
    with pytest.raises(QueueFull) as full:
        store.submit(order(), longest=3)
    assert full.value.length == 3
    store.submit(order(), longest=4)


def test_an_owner_whose_pictures_fill_the_quota_is_refused_until_some_are_gone(place, clock):
    store = JobStore(Database(place, clock), Limits(bytes_per_owner=100))
    submit(store, ["anna"])
    [job] = claimed(store)
    store.succeed(job.id, job.fence, [StoredPicture("a", 8, 8, 1, bytes=60), StoredPicture("b", 8, 8, 2, bytes=40)])
    assert store.usage("anna") == 100
    with pytest.raises(UserError, match="quota"):
        submit(store, ["anna"])
    submit(store, ["ben"])
    store.forget([job.id])
    submit(store, ["anna"])


def test_favourites_outlive_the_retention(store, clock):
    jobs = submit(store, ["anna", "anna"])
    for job, favourite in zip(claimed(store, limit=2), (False, True), strict=True):
        store.succeed(job.id, job.fence, [StoredPicture("a", 8, 8, 1, favourite=favourite)])
    clock.now += 100
    assert [job.id for job in store.stale(100)] == [jobs[0].id]


def test_jobs_are_found_page_by_page_the_latest_first(store):
    jobs = submit(store, ["anna"] * 5 + ["ben"])
    page = store.find("anna", limit=2)
    rest = store.find("anna", limit=10, before=page[-1].id)
    assert [job.id for job in page + rest] == [job.id for job in reversed(jobs[:5])]
    store.cancel(jobs[0].id)
    assert [job.id for job in store.find(states=[JobState.CANCELLED])] == [jobs[0].id]


def test_the_own_queue_is_shown_in_the_order_of_its_turns(store):
    low, high, last = submit(store, ["anna"]) + submit(store, ["anna"], priority=1) + submit(store, ["anna"])
    assert store.reorder(last.id, "anna", low.id)
    assert [job.id for job in store.waiting("anna")] == [high.id, last.id, low.id] == [job.id for job in drain(store)]


REQUESTS = st.builds(
    Request,
    prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    guidance=st.floats(0, 100),
    seed=st.none() | st.integers(0, 2**63 - 1),
    width=st.none() | st.integers(8, 8192),
)


@given(request=REQUESTS, init=st.binary())
def test_a_request_is_the_same_after_its_way_through_json(request, init):
    packed = json.loads(json.dumps(pack(replace(request, init=init), "ab/name.png")))
    assert unpack(packed, init) == replace(request, init=init)


def test_every_request_comes_back_from_the_store_as_it_went_in(store):
    @given(REQUESTS)
    @settings(max_examples=20)
    def check(request):
        job = order()
        job = replace(job, request=pack(request))
        store.submit(job)
        assert unpack(store.get(job.id).request) == request

    check()


def test_no_question_of_every_second_walks_over_the_whole_table(tmp_path):
    """EXPLAIN QUERY PLAN of every statement that these calls run: each goes by an index to the jobs it wants."""
    database = Database(tmp_path / "jobs.sqlite")
    store, asked = JobStore(database), []

    @event.listens_for(database.engine, "before_cursor_execute")
    def listen(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    jobs = submit(store, ["anna", "ben", "anna"], webhook="https://example.org", idempotency=None, deadline=9e9, start_by=9e9)
    [job] = claimed(store)
    store.heartbeat("w", {job.id: (job.fence, Progress("text"))}, 30)
    store.versions([job.id])
    store.get(job.id, "anna")
    store.find("anna", limit=5)
    store.waiting("anna")
    store.position(jobs[2].id)
    store.reorder(jobs[2].id, "anna")
    store.depth()
    store.release({job.id: job.fence})
    [job] = claimed(store)
    store.succeed(job.id, job.fence, [])
    store.suspects("w", "it died")
    store.cancel(jobs[1].id, "ben")
    store.expire()
    store.stale(60)
    store.usage("anna")
    plans = []
    with database.read() as connection:
        for statement, parameters in list(asked):
            if statement.split()[0].lower() in ("select", "update", "insert", "delete"):
                rows = connection.exec_driver_sql(f"explain query plan {statement}", parameters)
                plans += [(row[3], statement) for row in rows]
    assert len(plans) > 20
    small = ("jobs_suspect", "jobs_held", "jobs_leased")  # indexes of what runs or is to run alone
    assert not [plan for plan in plans if plan[0].startswith("SCAN jobs") and not plan[0].endswith(small)]


def test_promises_wait_for_the_disk_and_progress_does_not(tmp_path):
    database = Database(tmp_path / "jobs.sqlite")
    for durable, synchronous in ((True, 2), (False, 1)):
        with database.write(durable) as connection:
            assert connection.exec_driver_sql("pragma synchronous").scalar() == synchronous
            assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"


def test_a_full_disk_is_said_in_words_and_loses_nothing(tmp_path):
    store = JobStore(Database(tmp_path / "jobs.sqlite"))
    first = store.submit(order())
    with store.database.write() as connection:
        connection.exec_driver_sql("pragma max_page_count = 60")
    with pytest.raises(UserError, match="disk: no space is left"):
        for _ in range(500):
            store.submit(replace(order(), request={"prompt": "x" * 4000}))
    assert store.get(first.id) == first
    assert claimed(store)[0].id == first.id


def test_a_database_is_private_and_of_one_version(tmp_path):
    path = tmp_path / "new" / "jobs.sqlite"
    database = Database(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with database.write() as connection:
        connection.exec_driver_sql("update about set version = 99")
    with pytest.raises(UserError, match="version 99"):
        Database(path)


WRONG = ["mysql://u:secret@h/x", "postgresql://u:secret@127.0.0.1:1/x?password=secret", "postgresql://u:secret@:x/", "/proc/no/x"]


@pytest.mark.parametrize("place", WRONG)
def test_a_place_that_cannot_be_opened_is_named_without_its_password(place):
    with pytest.raises((UserError, StoreDown)) as refusal:
        Database(place)
    assert "secret" not in str(refusal.value) and "secret" not in masked(place)


def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="no database of jobs"):
        Database(path)
    assert path.read_bytes() == b"not a database at all" * 100


def test_a_database_that_others_hold_is_said_to_be_down_and_is_there_again_later(quick, monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE", 0.1)
    store, other = (JobStore(Database(quick / "jobs.sqlite")) for _ in range(2))
    with other.database.write():
        with pytest.raises(StoreDown):
            store.submit(order())
        assert store.depth()[JobState.QUEUED] == 0  # who only asks waits for nobody
    store.submit(order())


def test_a_statement_that_fails_tells_nothing_of_the_prompt_in_it(quick):
    store = Database(quick / "jobs.sqlite")
    with pytest.raises(StoreDown) as refusal, store.write() as connection:
        connection.execute(text("insert into nowhere values (:prompt)"), {"prompt": "1girl, alone"})
    assert "nowhere" in str(refusal.value.__cause__) and "alone" not in str(refusal.value.__cause__)


@pytest.mark.system
def test_a_server_that_crashed_and_came_back_has_all_it_promised(server):
    store = JobStore(emptied(Database(server.url)))
    job = store.submit(order())
    [held] = claimed(store)
    server.stop()
    with pytest.raises(StoreDown):
        store.submit(order())
    server.start()
    assert store.submit(job).id == job.id
    assert store.succeed(held.id, held.fence, [])
