"""What is different between two versions of a catalogue."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.catalogue import find_version, read
from sotediffusion.curate.engine.columns import DROPPED
from sotediffusion.curate.engine.shards import ROW
from sotediffusion.curate.engine.store import Store

SHOWN = 10  # paths
CHUNK = 65536  # rows


@dataclass(frozen=True)
class Changes:
    """From one version to another."""

    before: str
    after: str
    rows_added: int
    rows_shared: int
    now_kept: int
    now_dropped: int
    reasons: dict[str, tuple[int, int]]  # phrase -> how many were and are left out for it
    columns_added: list[str]
    columns_removed: list[str]
    columns_changed: dict[str, int]  # name -> rows of both versions in which it differs
    kept_paths: list[str]
    dropped_paths: list[str]


def compare(place: str | Path, before: str, after: str | None = None) -> Changes:
    """The differences between two named versions; `after` is the latest if not given."""
    store = Store(place)
    one, two = find_version(store, before), find_version(store, after)
    old, new = read(place, one.name), read(place, two.name)
    old_at, new_at = _shared(old, new)
    was = old.to_table(columns=[DROPPED]).column(DROPPED).to_numpy()[old_at]
    now = new.to_table(columns=[DROPPED]).column(DROPPED).to_numpy()[new_at]
    shared = [name for name in new.schema.names if name in old.schema.names and name not in (ROW, DROPPED)]
    phrases = dict.fromkeys([*one.reasons, *two.reasons])
    return Changes(
        one.name, two.name, new.count_rows() - len(new_at), len(new_at), int((was & ~now).sum()), int((~was & now).sum()),
        {name: (one.reasons.get(name, 0), two.reasons.get(name, 0)) for name in phrases},
        [name for name in new.schema.names if name not in old.schema.names],
        [name for name in old.schema.names if name not in new.schema.names],
        {name: count for name in shared if (count := _differing(old, new, name, old_at, new_at))},
        _paths(new, new_at[was & ~now]), _paths(new, new_at[~was & now]),
    )  # fmt: skip


def _shared(old: Any, new: Any) -> tuple[Any, Any]:
    """Where the rows that both have are in each."""
    one, two = (dataset.to_table(columns=[ROW]).column(ROW).to_numpy() for dataset in (old, new))
    _, old_at, new_at = np.intersect1d(one, two, assume_unique=True, return_indices=True)
    return old_at, new_at


def _paths(dataset: Any, at: Any) -> list[str]:
    if not len(at):
        return []
    return [path or "" for path in dataset.take(at[:SHOWN].tolist(), columns=["path"]).column("path").to_pylist()]


def _differing(old: Any, new: Any, name: str, old_at: Any, new_at: Any) -> int:
    if old.schema.field(name).type != new.schema.field(name).type:
        return len(new_at)
    one, two = (dataset.to_table(columns=[name]).column(name) for dataset in (old, new))
    one, two = one.take(pa.array(old_at)), two.take(pa.array(new_at))
    return sum(_differing_in(one.slice(start, CHUNK), two.slice(start, CHUNK)) for start in range(0, len(one), CHUNK))


def _differing_in(one: pa.ChunkedArray, two: pa.ChunkedArray) -> int:
    if one.equals(two):
        return 0
    if pa.types.is_nested(one.type):
        return sum(a != b for a, b in zip(one.to_pylist(), two.to_pylist(), strict=True))
    same = pc.fill_null(pc.equal(one, two), False)
    both_null = pc.and_(one.is_null(), two.is_null())
    return len(one) - int(pc.sum(pc.or_(same, both_null).cast(pa.int64())).as_py())
