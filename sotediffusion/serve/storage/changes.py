"""How a job goes from one state to the next, inside a transaction of the store's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from sotediffusion.serve.storage.jobs import Failure, Job, JobState, Progress
from sotediffusion.serve.storage.lines import recount
from sotediffusion.serve.storage.rows import Which, locked, to_job
from sotediffusion.serve.storage.schema import DUE, RUNNING, TO_BEGIN, jobs
from sotediffusion.serve.webhooks.outbox import announce

_LATE = Failure("deadline", "its deadline came before it was done")
_NOT_BEGUN = Failure("deadline", "it did not begin within the time that was asked for")
_BATCH = 500  # jobs that one statement changes at most


def held(id: str, fence: int) -> Which:
    """The job while whoever claimed it under this fence still holds it."""
    return [RUNNING, jobs.c.id == id, jobs.c.fence == fence]


def lease(connection: sa.Connection, seq: int, worker: str, now: float, until: float) -> Job:
    """Queued to running: in the hands of this worker, under a new fence."""
    values = {"state": JobState.RUNNING, "worker": worker, "fence": jobs.c.fence + 1, "lease_until": until, "started": now}
    return _update(connection, [jobs.c.seq == seq], values | {"start_by": None})[0]  # it has begun in time for good


def renew(connection: sa.Connection, until: float, seqs: Sequence[int], progress: Mapping[int, Progress]) -> None:
    """Running on: longer leases for these, and how far some of them are. A lease alone is nothing that a caller sees."""
    connection.execute(jobs.update().where(jobs.c.seq.in_(seqs)).values(lease_until=until))
    if progress:
        told = jobs.update().where(jobs.c.seq == sa.bindparam("at"))
        told = told.values(progress=sa.bindparam("told"), version=jobs.c.version + 1)
        connection.execute(told, [{"at": seq, "told": asdict(how)} for seq, how in progress.items()])


def requeue(connection: sa.Connection, which: Which, now: float, more: dict[str, Any] | None = None) -> list[Job]:
    """Running to queued, at the old place."""
    free = {"worker": None, "lease_until": None, "progress": None, "started": None, "waiting_since": now}
    return _update(connection, which, {"state": JobState.QUEUED, **free, **(more or {})})


def end(
    connection: sa.Connection, which: Which, now: float, state: JobState, result: dict[str, Any] | None = None
) -> list[Job]:
    """To a state that stays; who asked to be told of it will be."""
    values = {"state": state, "finished": now, "worker": None, "lease_until": None, "progress": None}
    ended = _update(connection, which, values | (result or {}))
    announce(connection, ended, now)
    return ended


def expire(connection: sa.Connection, which: Which, why: Failure, now: float) -> list[Job]:
    """One kind of what is `overdue`. Each has a transaction of its own: no jobs are locked after the lines of others."""
    return end(connection, which, now, JobState.EXPIRED, {"error": asdict(why)})


def overdue(now: float) -> list[tuple[Which, Failure]]:
    """Jobs past their deadline, waiting or running, and those that were to have begun by now."""
    return [([DUE, jobs.c.deadline <= now], _LATE), ([TO_BEGIN, jobs.c.start_by <= now], _NOT_BEGUN)]


def bury(connection: sa.Connection, which: sa.ColumnElement[bool], now: float, reason: str, charges: int) -> list[Job]:
    """What died workers ran: to run alone from now on; what died alone is charged, and failed at the last of the charges."""
    charged = {"attempts": jobs.c.attempts + 1}
    alone = [RUNNING, which, jobs.c.alone.is_(sa.true())]
    failure = charged | {"error": asdict(Failure("worker_died", reason))}
    failed = end(connection, [*alone, jobs.c.attempts >= charges - 1], now, JobState.FAILED, failure)
    again = requeue(connection, alone, now, charged)
    return failed + again + requeue(connection, [RUNNING, which], now, {"alone": True})


def _update(connection: sa.Connection, which: Which, values: dict[str, Any]) -> list[Job]:
    """Change at most a batch of jobs and give them back."""
    before = connection.execute(locked(which).limit(_BATCH)).all()
    if not before:
        return []
    changed = jobs.update().where(jobs.c.seq.in_([row.seq for row in before])).values(values | {"version": jobs.c.version + 1})
    after = connection.execute(changed.returning(*jobs.c)).all()
    recount(connection, before, after)
    return [to_job(row) for row in after]
