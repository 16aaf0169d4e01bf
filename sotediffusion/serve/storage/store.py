"""JobStore: the queue and the memory of all jobs, in SQLite on this machine or in PostgreSQL for several."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from sotediffusion.serve.storage import changes, lines
from sotediffusion.serve.storage.allowances import allowed, shortest
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Failure, Job, JobState, KeyReused, Progress, QueueFull, StoreDown, StoredPicture
from sotediffusion.serve.storage.rows import Which, earlier_than, locked, named, new_row, result_values, to_job
from sotediffusion.serve.storage.schema import ENDED, QUEUED, RUNNING, SHELVED, WAITING, deliveries, jobs, keys
from sotediffusion.types import UserError

Verdict = Literal["keep", "cancel", "lost"]

_SILENT = "its worker was not heard of any more"
_RECENT = 20  # ended jobs whose time says how long the next one takes
_RETRY = (1.0, 60.0)  # s; bounds of what a refused caller is told to wait
_UNKNOWN = 10.0  # s it is told where no job ended yet


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one owner from taking all and a poisonous job from running for ever; a key may have its own."""

    queued: int = 1000  # waiting jobs of all owners
    queued_per_owner: int = 200
    bytes_per_owner: int | None = None  # of finished pictures on the shelf
    charges: int = 3  # deaths of a worker that a job may cause, running alone
    patience: float = 30.0  # s that a job waits to run alone before busy workers make room for it


class JobStore:
    """Every accepted job ends once, whatever dies meanwhile.

    A worker holds a job by a lease that its heartbeats renew, and writes under the fence that its claim was given. Who lost the
    lease is fenced off: its words change nothing any more. Callers name the owner; another's job does not exist for them.
    Any thread or process may call at any time (a store does not go over a fork); a call blocks for as long as a commit takes.
    Raises StoreDown where the database does not answer, UserError where its disk is full.
    """

    def __init__(self, database: Database, limits: Limits = Limits()):
        self.database = database
        self.limits = limits

    # For callers

    def submit(self, job: Job, longest: int | None = None) -> Job:
        """Accept a job; it is on the disk when this returns. The same id, or idempotency key of its owner, gives the earlier job.

        Raises QueueFull at the bound of all jobs, of the owner's, or at `longest`, the bound that the caller asks for, KeyReused
        where that key came with another order, and UserError when the owner's pictures fill their quota.
        """
        with self.database.write() as connection:
            self.database.lock(connection, lines.LINES)  # bounds and idempotency keys hold between gateways, too
            if earlier := _earlier(connection, job):
                if None not in (earlier.asked, job.asked) and earlier.asked != job.asked:
                    raise KeyReused
                return earlier
            self._check_room(connection, job.owner, longest)
            line = lines.line_of(connection, job.owner, job.model, job.priority)
            values = new_row(job, line, self.database.now(connection))
            seq = connection.scalar(jobs.insert().values(values).returning(jobs.c.seq))
            place = jobs.update().where(jobs.c.seq == seq).values(place=seq)
            rows = connection.execute(place.returning(*jobs.c)).all()
            lines.recount(connection, [], rows)
            return to_job(rows[0])

    def get(self, id: str, owner: str | None = None) -> Job | None:
        """The job; of this owner where one is given."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(jobs).where(*named(id, owner))).first()
        return to_job(row) if row else None

    def find(
        self, owner: str | None = None, states: Collection[JobState] = (), limit: int = 100, before: str | None = None
    ) -> list[Job]:
        """Jobs, the latest first; only those submitted earlier than the job `before`. UserError: that one is not there."""
        query = sa.select(jobs).order_by(jobs.c.seq.desc()).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states:
            query = query.where(jobs.c.state.in_(list(states)))
        with self.database.read() as connection:
            if before is not None:
                query = query.where(earlier_than(connection, before, owner))
            return [to_job(row) for row in connection.execute(query)]

    def waiting(self, owner: str) -> list[Job]:
        """The owner's waiting jobs in the order in which they have their turns."""
        query = sa.select(jobs).where(QUEUED, jobs.c.owner == owner)
        order = (jobs.c.alone.desc(), jobs.c.priority.desc(), jobs.c.place)
        with self.database.read() as connection:
            return [to_job(row) for row in connection.execute(query.order_by(*order))]

    def versions(self, ids: Collection[str]) -> dict[str, int]:
        """The version of each job that exists: a cheap question, to be asked many times a second by who streams jobs."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.id, jobs.c.version).where(jobs.c.id.in_(list(ids))))
            return {row.id: row.version for row in rows}

    def position(self, id: str) -> int | None:
        """How many waiting jobs have their turn before this one, if nothing else comes; None unless it waits."""
        with self.database.snapshot() as connection:
            return lines.ahead_of(connection, id)

    def cancel(self, id: str, owner: str | None = None) -> tuple[JobState, JobState] | None:
        """End a job now; a worker hears of it at its next heartbeat. The states before and after; None: there is no such job."""
        with self.database.write() as connection:
            row = connection.execute(sa.select(jobs).where(*named(id, owner)).with_for_update()).first()
            if row is None:
                return None
            before = JobState(row.state)
            if before.ended:
                return before, before
            changes.end(connection, [jobs.c.id == id], self.database.now(connection), JobState.CANCELLED)
            return before, JobState.CANCELLED

    def reorder(self, id: str, owner: str, before: str | None = None) -> bool:
        """Move a waiting job before another waiting one of the owner's (taking its priority), or to the end of the owner's own.

        False where one of the two does not wait or is another's.
        """
        with self.database.write() as connection:
            self.database.lock(connection, lines.LINES)
            return lines.reorder(connection, id, owner, before)

    # For workers

    def claim(self, worker: str, models: Sequence[str], limit: int, lease_s: float) -> list[Job]:
        """Up to `limit` waiting jobs for these models, now running and leased to this worker.

        Priority first; then owners take turns, one job each; then age. A job that is to run alone comes by itself, and only to a
        worker that runs nothing; that worker gets nothing more until it ended. When such a job has waited long, busy workers get
        nothing either, so that one becomes free. `worker` names one process and is never used again. Where the database fails
        midway, what is claimed already comes back.
        """
        self._expire_late()  # what came too late is not begun
        claimed: list[Job] = []
        while len(claimed) < limit and not (claimed and claimed[-1].alone):
            try:
                job = self._claim_next(worker, models, lease_s)
            except (StoreDown, UserError):
                if not claimed:
                    raise
                break
            if job is None:
                break
            claimed.append(job)
        return claimed

    def heartbeat(self, worker: str, held: Mapping[str, tuple[int, Progress | None]], lease_s: float) -> dict[str, Verdict]:
        """Renew the leases of the jobs held, each under its fence, and note their progress (None: as it was).

        "cancel": the job was cancelled or expired; "lost": it is somebody else's. Both mean: drop it and write nothing.
        """
        with self.database.write(durable=False) as connection:
            until = self.database.now(connection) + lease_s
            rows = {row.id: row for row in connection.execute(locked([jobs.c.id.in_(list(held))]))}
            verdicts = {id: _verdict(rows.get(id), worker, fence) for id, (fence, _) in held.items()}
            kept = {rows[id].seq: held[id][1] for id, verdict in verdicts.items() if verdict == "keep"}
            changes.renew(connection, until, list(kept), {seq: how for seq, how in kept.items() if how is not None})
        return verdicts

    def succeed(self, id: str, fence: int, pictures: Sequence[StoredPicture]) -> bool:
        """Store the result; False when fenced off, and then nothing is stored. True again when it is stored already."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            if changes.end(connection, changes.held(id, fence), now, JobState.SUCCEEDED, result_values(pictures)):
                return True
            stored = (jobs.c.id == id, jobs.c.fence == fence, jobs.c.state == JobState.SUCCEEDED)  # the reply to it was lost
            return connection.scalar(sa.select(jobs.c.seq).where(*stored)) is not None

    def fail(self, id: str, fence: int, error: Failure) -> bool:
        """End a running job without pictures; False when fenced off."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            return bool(changes.end(connection, changes.held(id, fence), now, JobState.FAILED, {"error": asdict(error)}))

    def release(self, held: Mapping[str, int]) -> None:
        """Give jobs back, each under its fence, uncharged and to their old places: a worker that drains."""
        with self.database.write() as connection:
            which = sa.or_(sa.false(), *(sa.and_(*changes.held(id, fence)) for id, fence in held.items()))
            changes.requeue(connection, [which], self.database.now(connection))

    # For who watches over workers

    def suspects(self, worker: str, reason: str) -> list[Job]:
        """A worker died: what it ran goes back to the queue to run alone; what already ran alone is charged with the death.

        At the last charge a job fails with `reason`, one sentence. Returns the jobs as they are now.
        A death told twice counts once.
        """
        with self.database.write() as connection:
            now = self.database.now(connection)
            return changes.bury(connection, jobs.c.worker == worker, now, reason, self.limits.charges)

    def expire(self) -> list[Job]:
        """End what is past its deadline; a worker whose lease ran out counts as dead. Returns the jobs that changed."""
        late = self._expire_late()
        with self.database.write() as connection:
            now = self.database.now(connection)
            return late + changes.bury(connection, jobs.c.lease_until <= now, now, _SILENT, self.limits.charges)

    def depth(self, models: Collection[str] = ()) -> dict[JobState, int]:
        """How many jobs wait and how many run, for these models or for all."""
        running = sa.select(sa.func.count()).select_from(jobs).where(RUNNING)
        if models:
            running = running.where(jobs.c.model.in_(models))
        with self.database.snapshot() as connection:
            return {JobState.QUEUED: lines.length(connection, models=models), JobState.RUNNING: connection.scalar(running) or 0}

    def usage(self, owner: str) -> int:
        """The bytes of an owner's finished pictures."""
        with self.database.read() as connection:
            return _bytes_of(connection, owner)

    def stale(self, retention_s: float, limit: int = 1000) -> list[Job]:
        """Jobs that ended longer ago than the retention, oldest first; not those with a favourite or a word still to be sent.

        A key that has a retention of its own goes by that.
        """
        with self.database.read() as connection:
            query = self._stale(connection, retention_s).order_by(jobs.c.finished).limit(limit)
            return [to_job(row) for row in connection.execute(query)]

    def untold(self, id: str) -> bool:
        """Whether a webhook is still to be told how this job ended."""
        with self.database.read() as connection:
            return connection.scalar(sa.select(deliveries.c.job).where(deliveries.c.job == id, WAITING)) is not None

    def forget(self, ids: Collection[str]) -> None:
        """Remove ended jobs whose webhooks are told.

        Their files go first, so that a crash between the two leaves no file that nobody knows.
        """
        with self.database.write() as connection:
            _forget(connection, ids)

    def forget_stale(self, ids: Collection[str], retention_s: float) -> list[str]:
        """Remove those of these jobs that are stale still, and give their ids; not what became a favourite in this moment.

        Their files go after them, and what a crash between the two leaves is swept.
        """
        with self.database.write() as connection:
            stale = self._stale(connection, retention_s).where(jobs.c.id.in_(list(ids))).order_by(jobs.c.id)
            return _forget(connection, [row.id for row in connection.execute(stale.with_for_update(of=jobs))])

    def _claim_next(self, worker: str, models: Sequence[str], lease_s: float) -> Job | None:
        with self.database.write(durable=self.database.shared) as connection:  # a power cut ends SQLite's workers as well
            now = self.database.now(connection)
            row = lines.choose(connection, worker, models, now - self.limits.patience)
            if row is None:
                return None
            if not row.alone:
                lines.served(connection, row.owner)
            return changes.lease(connection, row.seq, worker, now, now + lease_s)

    def _expire_late(self) -> list[Job]:
        with self.database.read() as connection:
            now = self.database.now(connection)
            kinds = [(which, why) for which, why in changes.overdue(now) if _any(connection, which)]
        late: list[Job] = []
        for which, why in kinds:
            with self.database.write() as connection:
                late += changes.expire(connection, which, why, now)
        return late

    def _stale(self, connection: sa.Connection, retention_s: float) -> sa.Select[Any]:
        now = self.database.now(connection)
        untold = sa.select(deliveries.c.job).where(deliveries.c.job == jobs.c.id, WAITING).exists()
        own = sa.func.coalesce(keys.c.keep_s, retention_s)
        over = (jobs.c.finished <= now - shortest(connection, retention_s), jobs.c.finished <= now - own)
        query = sa.select(jobs).outerjoin(keys, keys.c.id == jobs.c.owner)
        return query.where(ENDED, *over, jobs.c.favourites == 0, ~untold)

    def _check_room(self, connection: sa.Connection, owner: str, longest: int | None) -> None:
        everyone, own = lines.length(connection), lines.length(connection, owner)
        bound = self.limits.queued if longest is None else min(longest, self.limits.queued)
        if everyone >= bound:
            raise QueueFull(everyone, _retry_after(connection))
        may = allowed(connection, owner)
        if own >= (may.waiting or self.limits.queued_per_owner):
            raise QueueFull(own, _retry_after(connection), own=True)
        quota = may.bytes or self.limits.bytes_per_owner
        if quota is not None and (used := _bytes_of(connection, owner)) >= quota:
            raise UserError("quota", f"your pictures take {used} of {quota} bytes; delete some, or wait until old ones go")


def _any(connection: sa.Connection, which: Which) -> bool:
    return connection.scalar(sa.select(jobs.c.seq).where(*which).limit(1)) is not None


def _earlier(connection: sa.Connection, job: Job) -> Job | None:
    same = [jobs.c.id == job.id] + ([jobs.c.idempotency == job.idempotency] if job.idempotency is not None else [])
    for condition in same:
        if row := connection.execute(sa.select(jobs).where(jobs.c.owner == job.owner, condition)).first():
            return to_job(row)
    return None


def _forget(connection: sa.Connection, ids: Collection[str]) -> list[str]:
    connection.execute(deliveries.delete().where(deliveries.c.job.in_(list(ids))))
    return list(connection.scalars(jobs.delete().where(jobs.c.id.in_(list(ids)), ENDED).returning(jobs.c.id)))


def _verdict(row: sa.Row[Any] | None, worker: str, fence: int) -> Verdict:
    if row is None or row.fence != fence:
        return "lost"
    if row.state in (JobState.CANCELLED, JobState.EXPIRED):
        return "cancel"
    return "keep" if row.state == JobState.RUNNING and row.worker == worker else "lost"


def _bytes_of(connection: sa.Connection, owner: str) -> int:
    return int(connection.scalar(sa.select(sa.func.sum(jobs.c.bytes)).where(SHELVED, jobs.c.owner == owner)) or 0)


def _retry_after(connection: sa.Connection) -> float:
    """About the time until a place is free: what a job took lately."""
    took = sa.select((jobs.c.finished - jobs.c.started).label("took")).where(ENDED, jobs.c.started.is_not(None))
    recent = took.order_by(jobs.c.finished.desc()).limit(_RECENT).subquery()
    mean = connection.scalar(sa.select(sa.func.avg(recent.c.took)))
    return min(max(mean if mean is not None else _UNKNOWN, _RETRY[0]), _RETRY[1])
