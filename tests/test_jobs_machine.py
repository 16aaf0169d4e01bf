"""Whatever happens in whatever order, the store holds what a plain model of the queue in lists and dicts holds."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from job_places import Clock, emptied, order, place, quick, server  # noqa: F401  fixtures
from sqlalchemy import func, select

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Failure, JobState, QueueFull, StoredPicture
from sotediffusion.serve.storage.schema import IN_LINE, deliveries, jobs, lines
from sotediffusion.serve.storage.store import JobStore, Limits

LEASE, PATIENCE, CHARGES, BOUND, OWN_BOUND = 30, 50, 2, 7, 5
OWNERS = st.sampled_from(["anna", "ben", "cleo"])
MODELS = st.sampled_from([["m"], ["n"], ["m", "n"]])
WORKERS = st.sampled_from([0, 1])
TIMES = st.sampled_from([1, 20, 31, 60])


@dataclass
class Known:
    """What the model knows of one job."""

    id: str
    owner: str
    model: str
    priority: int
    place: int
    deadline: float | None
    webhook: str | None
    idempotency: str | None
    state: str = "queued"
    alone: bool = False
    attempts: int = 0
    fence: int = 0
    worker: str | None = None
    lease: float | None = None
    since: float = 0.0
    finished: float | None = None
    result: object = None


class Model:
    """The queue, as one would write it with no database and no hurry."""

    def __init__(self, clock):
        self.jobs, self.served, self.turn, self.clock, self.arrivals = {}, {}, 0, clock, 0

    def queued(self, **wanted):
        return [j for j in self.jobs.values() if j.state == "queued" and all(getattr(j, k) == v for k, v in wanted.items())]

    def running(self, worker):
        return [job for job in self.jobs.values() if job.state == "running" and job.worker == worker]

    def next(self, worker, models):
        """The job that a worker gets."""
        self.expire_late()
        mine = self.running(worker)
        suspects = sorted((j for j in self.queued(alone=True) if j.model in models), key=lambda j: j.place)
        if any(job.alone for job in mine):
            return None
        if suspects and not mine:
            return suspects[0]
        if any(job.since <= self.clock.now - PATIENCE for job in suspects):
            return None
        fair = [job for job in self.queued(alone=False) if job.model in models]
        return min(fair, key=lambda j: (-j.priority, self.served.get(j.owner, 0), j.place), default=None)

    def claim(self, worker, models, limit):
        claimed = []
        while len(claimed) < limit and not (claimed and claimed[-1].alone):
            job = self.next(worker, models)
            if job is None:
                break
            if not job.alone:
                self.turn += 1
                self.served[job.owner] = self.turn
            job.state, job.worker, job.lease, job.fence = "running", worker, self.clock.now + LEASE, job.fence + 1
            claimed.append(job)
        return claimed

    def end(self, job, state, result=None):
        job.state, job.result, job.finished, job.worker, job.lease = state, result, self.clock.now, None, None

    def requeue(self, job):
        job.state, job.worker, job.lease, job.since = "queued", None, None, self.clock.now

    def bury(self, jobs):
        for job in jobs:
            job.attempts += job.alone
            if job.alone and job.attempts >= CHARGES:
                self.end(job, "failed")
            else:
                self.requeue(job)
                job.alone = True

    def expire_late(self):
        for job in self.jobs.values():
            if job.finished is None and job.deadline is not None and job.deadline <= self.clock.now:
                self.end(job, "expired")

    def expire(self):
        self.expire_late()
        self.bury([j for j in self.jobs.values() if j.state == "running" and j.lease <= self.clock.now])


class Machine(RuleBasedStateMachine):
    database: Database

    @initialize()
    def begin(self):
        self.clock = Clock()
        emptied(self.database)._clock = self.clock
        self.store = JobStore(self.database, Limits(BOUND, OWN_BOUND, None, CHARGES, PATIENCE))
        self.model = Model(self.clock)
        self.workers = ["w0.0", "w1.0"]
        self.claims = []  # every (id, fence) that was ever handed out
        self.told = 0  # deliveries that must lie in the outbox

    def pick(self, data, things):
        """One of these, by its number: ids are random, and what is drawn must not be."""
        things = list(things)
        return things[data.draw(st.integers(0, len(things) - 1))]

    @rule(owner=OWNERS, model=st.sampled_from("mn"), priority=st.integers(0, 1), due=st.sampled_from([None, None, 40.0]),
          word=st.sampled_from([None, None, "x"]), webhook=st.sampled_from([None, "https://example.org/"]))  # fmt: skip
    def submit(self, owner, model, priority, due, word, webhook):
        deadline = due and self.clock.now + due
        job = order(owner, model, priority=priority, deadline=deadline, idempotency=word, webhook=webhook)
        earlier = [j for j in self.model.jobs.values() if word and (j.owner, j.idempotency) == (owner, word)]
        if earlier:
            assert self.store.submit(job).id == earlier[0].id
        elif len(self.model.queued()) >= BOUND or len(self.model.queued(owner=owner)) >= OWN_BOUND:
            with pytest.raises(QueueFull):
                self.store.submit(job)
        else:
            assert self.store.submit(job) == replace(job, created=self.clock.now)
            self.model.arrivals += 1
            known = Known(job.id, owner, model, priority, self.model.arrivals, deadline, webhook, word, since=self.clock.now)
            self.model.jobs[job.id] = known

    @rule(n=WORKERS, models=MODELS, limit=st.integers(1, 3))
    def claim(self, n, models, limit):
        claimed = self.store.claim(self.workers[n], models, limit, LEASE)
        expected = self.model.claim(self.workers[n], models, limit)
        assert [(job.id, job.fence, job.alone) for job in claimed] == [(job.id, job.fence, job.alone) for job in expected]
        self.claims += [(job.id, job.fence) for job in claimed]

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kind=st.sampled_from(["succeed", "fail", "release", "heartbeat"]), n=WORKERS)
    def write_under_any_fence_ever_given(self, data, kind, n):
        id, fence = self.pick(data, self.claims)
        job = self.model.jobs.get(id)
        holds = job is not None and job.state == "running" and job.fence == fence
        if kind == "succeed":
            pictures = [StoredPicture(f"{fence}", 8, 8, 1)]
            again = job is not None and (job.state, job.fence) == ("succeeded", fence)  # a reply was lost, and it is said again
            assert self.store.succeed(id, fence, pictures) is (holds or again)
            if holds:
                self.model.end(job, "succeeded", tuple(pictures))
        elif kind == "fail":
            assert self.store.fail(id, fence, Failure("bad", "It is bad.")) is holds
            if holds:
                self.model.end(job, "failed")
        elif kind == "release":
            self.store.release({id: fence})
            if holds:
                self.model.requeue(job)
        else:
            self.beat(id, fence, n, holds)

    def beat(self, id, fence, n, holds):
        job = self.model.jobs.get(id)
        keeps = holds and job.worker == self.workers[n]
        stopped = job is not None and job.fence == fence and job.state in ("cancelled", "expired")
        expected = "keep" if keeps else "cancel" if stopped else "lost"
        assert self.store.heartbeat(self.workers[n], {id: (fence, None)}, LEASE) == {id: expected}
        if keeps:
            job.lease = self.clock.now + LEASE

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), owner=OWNERS)
    def cancel(self, data, owner):
        job = self.pick(data, self.model.jobs.values())
        if job.owner != owner:
            assert self.store.cancel(job.id, owner) is None and self.store.get(job.id, owner) is None
        elif job.finished is not None:
            assert self.store.cancel(job.id, owner) == (job.state, job.state)
        else:
            assert self.store.cancel(job.id, owner) == (job.state, "cancelled")
            self.model.end(job, "cancelled")

    @precondition(lambda self: self.model.queued())
    @rule(data=st.data(), mine=st.sampled_from([True, True, True, False]), end=st.booleans())
    def reorder(self, data, mine, end):
        job = self.pick(data, self.model.queued())
        owner = job.owner if mine else data.draw(OWNERS)
        targets = self.model.queued(owner=owner) or self.model.queued()
        target = None if end else self.pick(data, targets)
        id, before = job.id, target and target.id
        allowed = job.owner == owner and (target is None or target.owner == owner)
        assert self.store.reorder(id, owner, before) is allowed
        if not allowed or target is job:
            return
        priority = target.priority if target else job.priority
        mates = sorted((j for j in self.model.queued(owner=owner, priority=priority) if j is not job), key=lambda j: j.place)
        mates.insert(mates.index(target) if target else len(mates), job)
        places = sorted(mate.place for mate in mates)
        for mate, at in zip(mates, places, strict=True):
            mate.place = at
        job.priority = priority

    @rule(n=WORKERS)
    def a_worker_dies(self, n):
        dead = self.workers[n]
        held = self.model.running(dead)
        assert {job.id for job in self.store.suspects(dead, "it crashed")} == {job.id for job in held}
        assert self.store.suspects(dead, "it crashed") == []
        self.model.bury(held)
        self.workers[n] = f"w{n}.{int(dead.partition('.')[2]) + 1}"

    @rule(seconds=TIMES)
    def time_goes_by(self, seconds):
        self.clock.now += seconds

    @rule()
    def expire(self):
        self.store.expire()
        self.model.expire()

    @rule()
    def purge(self):
        stale = [j for j in self.model.jobs.values() if j.finished is not None and j.finished <= self.clock.now - 60]
        due = [job for job in stale if not job.webhook]
        assert {job.id for job in self.store.stale(60)} == {job.id for job in due}
        self.store.forget([job.id for job in due] + [job.id for job in self.model.queued()])  # the living stay
        for job in due:
            del self.model.jobs[job.id]

    @precondition(lambda self: self.model.queued())
    @rule(data=st.data())
    def positions_are_what_a_single_worker_would_claim(self, data):
        ids = {job.id: self.store.position(job.id) for job in self.model.queued()}
        rest, deadlines = Model(self.clock), {id: job.deadline for id, job in self.model.jobs.items()}
        rest.jobs = {id: replace(job, deadline=None) for id, job in self.model.jobs.items() if job.state == "queued"}
        rest.served, rest.turn = dict(self.model.served), self.model.turn
        assert deadlines.keys() == self.model.jobs.keys()
        for turn in range(len(rest.jobs)):
            [job] = rest.claim(f"probe {turn}", ["m", "n"], 1)
            assert ids[job.id] == turn

    @invariant()
    def nothing_is_lost_and_nothing_is_made_up(self):
        if not hasattr(self, "model"):
            return
        found = {job.id: job for job in self.store.find(limit=1000)}
        assert found.keys() == self.model.jobs.keys()
        for id, known in self.model.jobs.items():
            job = found[id]
            assert (job.state, job.fence, job.attempts, job.alone) == (known.state, known.fence, known.attempts, known.alone)
            assert (job.worker, job.lease_until, job.priority) == (known.worker, known.lease, known.priority)
            assert (job.finished, job.pictures) == (known.finished, known.result)
        assert self.store.depth() == {
            JobState.QUEUED: len(self.model.queued()),
            JobState.RUNNING: sum(job.state == "running" for job in self.model.jobs.values()),
        }
        told = [job for job in self.model.jobs.values() if job.webhook and job.finished is not None]
        with self.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(deliveries)) == len(told)
            counted = {row.id: row.waiting for row in connection.execute(select(lines)) if row.waiting}
            there = select(jobs.c.line, func.count().label("waiting")).where(IN_LINE).group_by(jobs.c.line)
            assert counted == {row.line: row.waiting for row in connection.execute(there)}


def test_the_store_does_what_the_model_does(place):  # noqa: F811
    machine = type("Here", (Machine,), {"database": Database(place)})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30))
