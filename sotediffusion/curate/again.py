"""Pictures that a step could say nothing about are handed to it again: those a server refused at the next run, those that
killed their decoder when they are asked for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.engine.processes import KILLS
from sotediffusion.curate.engine.shards import FAILED, ROW, given_in, part_name, parts_of
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import DROP, Step, WholeStep

Rows = np.ndarray[Any, np.dtype[np.int64]]


def forget_errors(store: Store, steps: list[Step]) -> None:
    """Take pictures with an error out of the finished parts of their step and of those that read what it said.

    That makes them work that is left. Only for the holder of the run's lock.
    """
    for place, step in enumerate(steps):
        if step.errors:
            parts = _parts(store, step)
            rows = np.concatenate([np.empty(0, np.int64), *(errors_in(store, part, step.errors) for part in parts)])
            if len(rows):
                for later in reversed(_readers(step, steps[place + 1 :])):
                    _forget(store, _parts(store, later), rows)
                _forget(store, parts, rows)


def forget_killers(store: Store, steps: list[Step]) -> None:
    """Take pictures that killed their decoder out of all finished parts: with more memory they may not.

    Only for the holder of the run's lock.
    """
    parts = {step.name: _parts(store, step) for step in steps if not isinstance(step, WholeStep)}
    found = [killers_in(store, part, name) for name, names in parts.items() for part in names]
    rows = np.concatenate([np.empty(0, np.int64), *found])
    for names in reversed(parts.values()) if len(rows) else ():
        _forget(store, names, rows)


def killers_in(store: Store, part: str, step: str) -> Rows:
    """The rows of a part that say so, in the step's own words or in the engine's."""
    table = store.read_table(part, [ROW, FAILED, DROP + step])
    said = [column for name, column in zip(table.schema.names, table.columns, strict=True) if name != ROW]
    rows: Rows = table.column(ROW).to_numpy()
    return rows[np.logical_or.reduce([pc.fill_null(pc.equal(column, KILLS), False).to_numpy() for column in said])]


def errors_in(store: Store, part: str, column: str) -> Rows:
    """The rows of a part that have an error."""
    table = store.read_table(part, [ROW, column])
    if column not in table.schema.names:
        return np.empty(0, np.int64)
    rows: Rows = table.filter(table.column(column).is_valid()).column(ROW).to_numpy()
    return rows


def _parts(store: Store, step: Step) -> list[str]:
    """All finished parts of a step, under any fingerprint."""
    return [name for _, name in parts_of(store, step.name)]


def _readers(step: Step, later: list[Step]) -> list[Step]:
    """The later steps that read what this one said, or what came of it."""
    found, columns = [], set(step.writes.names)
    for one in later:
        if not columns.isdisjoint(one.reads):
            found.append(one)
            columns |= set(one.writes.names)
    return found


def _forget(store: Store, parts: list[str], rows: Rows) -> None:
    """A part is named by its first row, so what is left of one may have another name; until the old one is gone both say it."""
    for part in parts:
        kept = ~np.isin(store.read_table(part, [ROW]).column(ROW).to_numpy(), rows)
        if not kept.all():
            table = store.read_table(part).filter(pa.array(kept))
            left = f"{part.rpartition('/')[0]}/{part_name(table.column(ROW).to_numpy(), given_in(table))}" if kept.any() else ""
            if left:
                store.write_table(left, table)
            if left != part:
                store.remove(part)
