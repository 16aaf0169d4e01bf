"""Pictures that a step could say nothing about, such as those a server refused, are handed to it again at the next run."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.engine.shards import ROW, WORK, given_in, part_name
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import Step

Rows = np.ndarray[Any, np.dtype[np.int64]]


def forget_errors(store: Store, steps: list[Step]) -> None:
    """Take pictures with an error out of the finished parts of their step and of those that read what it said.

    That makes them work that is left. Only for the holder of the run's lock.
    """
    for place, step in enumerate(steps):
        if step.errors:
            parts = list(_parts(store, step))
            rows = np.concatenate([np.empty(0, np.int64), *(errors_in(store, part, step.errors) for part in parts)])
            if len(rows):
                for later in reversed(_readers(step, steps[place + 1 :])):
                    _forget(store, list(_parts(store, later)), rows)
                _forget(store, parts, rows)


def errors_in(store: Store, part: str, column: str) -> Rows:
    """The rows of a part that have an error."""
    table = store.read_table(part, [ROW, column])
    if column not in table.schema.names:
        return np.empty(0, np.int64)
    rows: Rows = table.filter(table.column(column).is_valid()).column(ROW).to_numpy()
    return rows


def _parts(store: Store, step: Step) -> Iterator[str]:
    """All finished parts of a step, under any fingerprint."""
    for folder in store.names(f"{WORK}/{step.name}"):
        yield from (f"{WORK}/{step.name}/{folder}/{name}" for name in store.names(f"{WORK}/{step.name}/{folder}"))


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
