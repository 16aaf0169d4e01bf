"""Jobs as rows of the table and back."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from sotediffusion.serve.storage.jobs import Failure, Job, JobState, Progress, StoredPicture
from sotediffusion.serve.storage.schema import jobs
from sotediffusion.types import UserError

Which = Sequence[sa.ColumnElement[bool]]  # conditions on jobs that all hold

_ASKED = ("id", "owner", "request", "model", "origin", "priority", "deadline", "start_by", "webhook", "idempotency", "asked")
_TOLD = ("created", "started", "finished", "alone", "attempts", "fence", "worker", "lease_until", "version")


def new_row(job: Job, line: int, now: float) -> dict[str, Any]:
    """What is asked, as a row that waits since now; whatever else the job says of itself is left out."""
    asked = {name: getattr(job, name) for name in _ASKED}
    fresh = dict.fromkeys(("attempts", "fence", "bytes", "favourites", "version", "place"), 0)
    state = {"state": JobState.QUEUED, "alone": False, "created": now, "waiting_since": now, "line": line}
    return asked | fresh | state | {"loras": list(job.loras)}


def to_job(row: sa.Row[Any]) -> Job:
    """The job that a row holds."""
    values = {name: getattr(row, name) for name in (*_ASKED, *_TOLD)}
    return Job(
        **values,
        loras=tuple(row.loras),
        state=JobState(row.state),
        progress=Progress(**row.progress) if row.progress else None,
        error=Failure(**row.error) if row.error else None,
        pictures=tuple(StoredPicture(**picture) for picture in row.pictures) if row.pictures is not None else None,
    )


def named(id: str, owner: str | None) -> Which:
    """The job of this id; of this owner where one is given."""
    return [jobs.c.id == id] if owner is None else [jobs.c.id == id, jobs.c.owner == owner]


def earlier_than(connection: sa.Connection, id: str, owner: str | None) -> sa.ColumnElement[bool]:
    """Jobs submitted before this one, with which a page of a list ended. UserError where it is gone.

    To find nothing would say that the list has come to its end.
    """
    seq = connection.scalar(sa.select(jobs.c.seq).where(*named(id, owner)))
    if seq is None:
        raise UserError("before", f"job {id[:64]!r}, after which the list was to go on, is not there any more; ask for it anew")
    return jobs.c.seq < seq


def locked(which: Which) -> sa.Select[Any]:
    """The question for jobs to be changed: what they are now, in one order for all who ask, so that no two wait in a circle.

    The order is by a calculation: by the column itself a planner would walk along the index of all ids there ever were.
    """
    columns = (jobs.c.seq, jobs.c.id, jobs.c.owner, jobs.c.model, jobs.c.priority, jobs.c.line, jobs.c.place)
    states = (jobs.c.state, jobs.c.alone, jobs.c.fence, jobs.c.worker)
    return sa.select(*columns, *states).where(*which).order_by(jobs.c.id.concat("")).with_for_update()


def result_values(pictures: Sequence[StoredPicture]) -> dict[str, Any]:
    """The columns that finished pictures fill."""
    return {
        "pictures": [asdict(picture) for picture in pictures],
        "bytes": sum(picture.bytes for picture in pictures),
        "favourites": sum(picture.favourite for picture in pictures),
    }
