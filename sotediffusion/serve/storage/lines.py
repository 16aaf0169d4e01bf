"""Whose turn it is: priority, then owners in turn, then age; asked and changed inside a transaction of the store's."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from sotediffusion.serve.storage.jobs import JobState
from sotediffusion.serve.storage.rows import locked
from sotediffusion.serve.storage.schema import IN_LINE, QUEUED, RUNNING, SUSPECT, jobs, lines

LINES = "lines"  # the lock under which lines are made

_TRIES = 8  # lines looked into before giving up: their jobs may all be in others' hands just now

# Asked by a model, which all jobs have, they are counted in their own index: SQLite else may take that of all who wait.
_SUSPECTS = sa.and_(SUSPECT, jobs.c.model > "")
_HEAD = sa.select(sa.func.min(jobs.c.place)).where(jobs.c.line == lines.c.id, IN_LINE).scalar_subquery()


def line_of(connection: sa.Connection, owner: str, model: str, priority: int) -> int:
    """The line that a job stands in, made for the first of its kind; an owner keeps its turn. Under the lock LINES."""
    same = sa.and_(lines.c.owner == owner, lines.c.model == model, lines.c.priority == priority)
    found = connection.scalar(sa.select(lines.c.id).where(same))
    if found is None:
        served = connection.scalar(sa.select(sa.func.max(lines.c.served)).where(lines.c.owner == owner)) or 0
        values = {"owner": owner, "model": model, "priority": priority, "served": served, "waiting": 0}
        found = connection.scalar(lines.insert().values(values).returning(lines.c.id))
    return int(found or 0)


def length(connection: sa.Connection, owner: str | None = None, models: Collection[str] = ()) -> int:
    """How many jobs wait: of all, or of this owner, or for these models."""
    line, suspects = sa.select(sa.func.sum(lines.c.waiting)), sa.select(sa.func.count()).where(_SUSPECTS)
    if owner is not None:
        line, suspects = line.where(lines.c.owner == owner), suspects.where(jobs.c.owner == owner)
    if models:
        line, suspects = line.where(lines.c.model.in_(models)), suspects.where(jobs.c.model.in_(models))
    return int(connection.scalar(line) or 0) + (connection.scalar(suspects) or 0)


def recount(connection: sa.Connection, before: Iterable[Any], after: Iterable[Any]) -> None:
    """Keep count of who waits in which line, from rows of jobs as they were and as they are; called by whoever changes jobs.

    Jobs are locked before lines, and lines in their order, so that no two transactions wait for each other.
    """
    changes = Counter(row.line for row in after if _in_line(row))
    changes.subtract(row.line for row in before if _in_line(row))
    for line, change in sorted(changes.items()):
        if change:
            connection.execute(lines.update().where(lines.c.id == line).values(waiting=lines.c.waiting + change))


def _in_line(row: Any) -> bool:
    return row.state == JobState.QUEUED and not row.alone


def choose(connection: sa.Connection, worker: str, models: Sequence[str], long_ago: float) -> sa.Row[Any] | None:
    """The job that this worker may take now, locked: one that is to run alone if it is free, or else the next in line.

    It gets nothing while it runs a job alone, nor while it is busy and one to run alone has been waiting since `long_ago`.
    """
    running = connection.scalars(sa.select(jobs.c.alone).where(RUNNING, jobs.c.worker == worker)).all()
    if any(running):
        return None
    if not running and (suspect := _next_suspect(connection, models)):
        return suspect
    if running and _is_pressed(connection, models, long_ago):
        return None
    return _next_in_line(connection, models)


def _is_pressed(connection: sa.Connection, models: Sequence[str], long_ago: float) -> bool:
    waits = sa.select(jobs.c.seq).where(SUSPECT, jobs.c.model.in_(models), jobs.c.waiting_since <= long_ago)
    return connection.scalar(waits.limit(1)) is not None


def _next_in_line(connection: sa.Connection, models: Sequence[str]) -> sa.Row[Any] | None:
    """The waiting job whose turn it is, locked; what another transaction holds is passed over."""
    columns = (lines.c.id, lines.c.priority, lines.c.served, _HEAD.label("head"))
    heads = sa.select(*columns).where(lines.c.model.in_(models), lines.c.waiting > 0).subquery()
    order = (heads.c.priority.desc(), heads.c.served, heads.c.head)
    for line in connection.scalars(sa.select(heads.c.id).order_by(*order).limit(_TRIES)).all():
        first = sa.select(jobs).where(jobs.c.line == line, IN_LINE).order_by(jobs.c.place).limit(1)
        if row := connection.execute(first.with_for_update(skip_locked=True)).first():
            return row
    return None


def _next_suspect(connection: sa.Connection, models: Sequence[str]) -> sa.Row[Any] | None:
    """The oldest waiting job that is to run alone, locked."""
    query = sa.select(jobs).where(SUSPECT, jobs.c.model.in_(models)).order_by(jobs.c.place).limit(1)
    return connection.execute(query.with_for_update(skip_locked=True)).first()


def served(connection: sa.Connection, owner: str) -> None:
    """The owner had its turn and goes behind all others. Its lines are locked in one order, so that nobody waits in a circle."""
    own = lines.c.owner == owner
    connection.execute(sa.select(lines.c.id).where(own).order_by(lines.c.id).with_for_update()).all()
    last = connection.scalar(sa.select(sa.func.max(lines.c.served))) or 0
    connection.execute(lines.update().where(own).values(served=last + 1))


def ahead_of(connection: sa.Connection, id: str) -> int | None:
    """How many waiting jobs have their turn before this one; None unless it waits."""
    job = connection.execute(sa.select(jobs).where(jobs.c.id == id, QUEUED)).first()
    if job is None:
        return None
    earlier = jobs.c.place < job.place
    if job.alone:
        return _count(connection, _SUSPECTS, earlier)
    own = sa.select(lines.c.id).where(lines.c.owner == job.owner, lines.c.priority == job.priority)
    mine = _count(connection, IN_LINE, earlier, jobs.c.line.in_(own))
    return _count(connection, _SUSPECTS) + _turns_before(_crowd(connection), job.owner, job.priority, mine)


def reorder(connection: sa.Connection, id: str, owner: str, before: str | None) -> bool:
    """Move a waiting job before another of the owner's, taking its priority, or behind all of its own.

    The places that the jobs between the two had are shared anew among them, so that there is always one to give.
    """
    rows = connection.execute(locked([QUEUED, jobs.c.owner == owner])).all()
    waiting = {row.id: row for row in rows}
    if id not in waiting or (before is not None and before not in waiting):
        return False
    moved, target = waiting[id], waiting[before] if before is not None else None
    priority = target.priority if target else moved.priority
    others = sorted((row for row in rows if row.priority == priority and row.id != id), key=lambda row: row.place)
    cut = next((n for n, row in enumerate(others) if row is target), len(others))
    sequence = [*others[:cut], moved, *others[cut:]] if target is not moved else []
    after: list[Any] = []
    for row, place in zip(sequence, sorted(row.place for row in sequence), strict=True):
        if row.place != place or row.priority != priority:
            line = line_of(connection, owner, row.model, priority)
            values = {"place": place, "priority": priority, "line": line, "version": jobs.c.version + 1}
            after += connection.execute(jobs.update().where(jobs.c.seq == row.seq).values(values).returning(*jobs.c)).all()
    changed = {row.id for row in after}
    recount(connection, (row for row in sequence if row.id in changed), after)
    return True


def _count(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(jobs).where(*conditions)) or 0


def _crowd(connection: sa.Connection) -> Sequence[Any]:
    """How many jobs each owner has in line at each priority, whose turn it is first."""
    heads = sa.select(lines, _HEAD.label("head")).where(lines.c.waiting > 0).subquery()
    waiting = sa.func.sum(heads.c.waiting).label("waiting")
    turn = (sa.func.max(heads.c.served).label("served"), sa.func.min(heads.c.head).label("head"))
    query = sa.select(heads.c.priority, heads.c.owner, waiting, *turn).group_by(heads.c.priority, heads.c.owner)
    return connection.execute(query.order_by(heads.c.priority.desc(), "served", "head")).all()


def _turns_before(crowd: Sequence[Any], owner: str, priority: int, own: int) -> int:
    """The turns that come before turn `own` (from 0) of this owner at this priority, played out priority by priority.

    Among owners who take turns, who comes round first is served at most one more time than who comes after. Who was served at a
    higher priority comes after who was not, and among themselves in the order of their last turns: by rounds, then by place.
    """
    turns = 0
    lately: dict[str, int] = {}
    for level in sorted({row.priority for row in crowd}, reverse=True):
        rows = sorted((row for row in crowd if row.priority == level), key=lambda row: lately.get(row.owner, -1))
        if level == priority:
            mine = next(n for n, row in enumerate(rows) if row.owner == owner)
            return turns + own + sum(min(row.waiting, own + (n < mine)) for n, row in enumerate(rows) if n != mine)
        turns += sum(row.waiting for row in rows)
        last = sorted(range(len(rows)), key=lambda n: (rows[n].waiting, n))
        lately |= {rows[n].owner: len(crowd) * turns + rank for rank, n in enumerate(last)}
    return turns
