"""What is still to be told to webhooks: written where a job ends, taken out when it was told or given up."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job
from sotediffusion.serve.storage.rows import to_job
from sotediffusion.serve.storage.schema import WAITING, deliveries, jobs

RETRIES = 10
_FIRST = 7.0  # s to the first retry, then twice as long each time: the tenth is two hours after the end of the job
_GRACE = 60.0  # s; a taken delivery is due again after these, should its sender die


@dataclass(frozen=True)
class Delivery:
    """The end of a job that is to reach a webhook at least once; the job's id tells a repetition."""

    job: Job
    url: str
    tries: int  # before this one


def announce(connection: sa.Connection, ended: Sequence[Job], now: float) -> None:
    """Note for each ended job with a webhook that it must be told, in the transaction that ends it."""
    rows = [{"job": job.id, "url": job.webhook, "due": now, "tries": 0} for job in ended if job.webhook]
    if rows:
        connection.execute(deliveries.insert(), rows)


class Outbox:
    """The deliveries that are due, each handed to one sender at a time."""

    def __init__(self, database: Database):
        self.database = database

    def take(self, limit: int) -> list[Delivery]:
        """Deliveries to send now. One that is neither `sent` nor `failed` within a minute is handed out again."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            due = sa.select(deliveries.c.job).where(WAITING, deliveries.c.due <= now).order_by(deliveries.c.due).limit(limit)
            ids = connection.scalars(due.with_for_update(skip_locked=True)).all()
            connection.execute(deliveries.update().where(deliveries.c.job.in_(ids)).values(due=now + _GRACE))
            both = deliveries.join(jobs, jobs.c.id == deliveries.c.job)
            columns = (deliveries.c.url, deliveries.c.tries, *jobs.c)
            rows = connection.execute(sa.select(*columns).select_from(both).where(deliveries.c.job.in_(ids))).all()
        return [Delivery(to_job(row), row.url, row.tries) for row in rows]

    def sent(self, job: str) -> None:
        """It arrived."""
        with self.database.write() as connection:
            connection.execute(deliveries.update().where(deliveries.c.job == job).values(due=None, outcome="sent"))

    def failed(self, job: str, why: str) -> None:
        """It did not arrive: due again later, and given up after the last retry."""
        with self.database.write() as connection:
            open_ = sa.and_(deliveries.c.job == job, WAITING)  # a slow sender's failure does not undo another's success
            tries = connection.scalar(sa.select(deliveries.c.tries).where(open_)) or 0
            due = self.database.now(connection) + _FIRST * 2**tries if tries < RETRIES else None
            values = {"tries": tries + 1, "due": due, "outcome": why[:200]}
            connection.execute(deliveries.update().where(open_).values(values))
