"""Finished work as immutable Arrow files: how they are named, what they cover, and columns read back out of them.

A part is work/STEP/FINGERPRINT/SHARD-ROW.arrow with the columns `row`, `erased`, `failed` and the step's own. A shard is a range
of SHARD rows; a part covers any rows of one shard. What a step says that compares all pictures is one part over all shards,
whole.arrow, sorted by row.

Any new picture changes what such a step was given, but of what it says only a few rows. So a fingerprint behind it leaves it out,
and the parts have a column `given` instead: a hash of what it says of each row, which has to be the same for the row to count.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import DROP, Step

SHARD = 4096  # rows
WORK = "work"
WHOLE = "whole.arrow"
ROW, ERASED, FAILED, KEY, GIVEN = "row", "erased", "failed", "key", "given"
KEPT = "sha256"  # all that is left of an erased picture
POLICY = "policy"  # its reason

Rows = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Given = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Placed:
    """A step at its place in a chain: the fingerprint of its results, and which earlier step writes each column it reads."""

    step: Step
    order: int
    fingerprint: str
    sources: Mapping[str, str]  # column -> name of the step
    compared: tuple[str, ...] = ()  # columns of steps that compare all pictures, which its answers hang on at any distance

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def folder(self) -> str:
        return f"{WORK}/{self.name}/{self.fingerprint}"

    @property
    def drop(self) -> str | None:
        """The column of reasons for leaving a picture out, if the step has one."""
        return DROP + self.name if DROP + self.name in self.step.writes.names else None


def fingerprint(step: Step, inputs: Mapping[str, str], rows: str = "") -> str:
    """What results depend on, as 16 hex digits: the step, its settings and models, and the fingerprints of what it reads.

    `inputs` are fingerprints by column; `rows` is a digest of the rows that a step comparing all of them is given.
    """
    said = {"name": step.name, "version": step.version, "identity": step.identity(), "inputs": dict(inputs), "rows": rows,
            "writes": [f"{column.name} {column.type}" for column in step.writes]}  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def part_name(rows: Rows, given: Given | None = None) -> str:
    """Two parts never share their first row and what it was given, so these name the part."""
    first = f"{rows[0] // SHARD:07d}-{rows[0] % SHARD:04d}"
    return f"{first}.arrow" if given is None else f"{first}-{given[0]:016x}.arrow"


def given_in(table: pa.Table) -> Given | None:
    """The column `given` of a part, 0 where it is erased; None in a part without."""
    if GIVEN not in table.schema.names:
        return None
    given: Given = pc.fill_null(table.column(GIVEN), 0).to_numpy()
    return given


def hashes_of(column: pa.ChunkedArray) -> Given:
    """64 bits of a hash of each value, 0 for null."""
    found = np.zeros(len(column), np.uint64)
    digests = [hashlib.blake2b(repr(value).encode(), digest_size=8).digest() for value in column.drop_null().to_pylist()]
    found[column.is_valid().to_numpy()] = np.frombuffer(b"".join(digests), "<u8")
    return found


def shard_of(name: str) -> int | None:
    """The shard that a part belongs to; None for one that covers all."""
    return None if name == WHOLE else int(name.partition("-")[0])


@dataclass
class Parts:
    """The finished files of one placed step, by shard."""

    folder: str
    whole: bool = False
    by_shard: dict[int, list[str]] = field(default_factory=dict)
    given: Given | None = None  # by row, what counts now

    def add(self, name: str) -> None:
        shard = shard_of(name)
        if shard is None:
            self.whole = True
        else:
            self.by_shard.setdefault(shard, []).append(name)

    def all_names(self) -> list[str]:
        return [WHOLE] if self.whole else [name for names in self.by_shard.values() for name in names]

    def of(self, shard: int) -> list[str]:
        """Full names of the files that may hold rows of the shard."""
        names = [WHOLE] if self.whole else self.by_shard.get(shard, [])
        return [f"{self.folder}/{name}" for name in names]

    def given_to(self, rows: Rows) -> Given | None:
        """What counts of some rows."""
        return None if self.given is None else self.given[rows]

    def gather(self, store: Store, columns: list[str], rows: Rows) -> tuple[pa.Table, Mask]:
        """Columns for rows of one shard; see the function `gather`."""
        return gather(store, self.of(int(rows[0]) // SHARD), columns, rows, self.given_to(rows))


def find_parts(store: Store, placed: Placed, given: Given | None = None) -> Parts:
    parts = Parts(placed.folder, given=given)
    for name in store.names(placed.folder):
        parts.add(name)
    return parts


def parts_of(store: Store, step: str) -> Iterator[tuple[int | None, str]]:
    """The shard and full name of every part of the step so named, under any fingerprint."""
    for folder in store.names(f"{WORK}/{step}"):
        for name in store.names(f"{WORK}/{step}/{folder}"):
            yield shard_of(name), f"{WORK}/{step}/{folder}/{name}"


@dataclass
class Tally:
    """What a part says of its rows, without their columns."""

    step: str
    name: str  # of the part
    rows: Rows
    dropped: Rows
    erased: Rows
    reasons: Counter[str]

    @classmethod
    def of(cls, placed: Placed, name: str, table: pa.Table) -> "Tally":
        rows = table.column(ROW).to_numpy()
        erased = table.column(ERASED).to_numpy(zero_copy_only=False)
        reasons = drops(placed, table)
        dropped = reasons.is_valid().to_numpy(zero_copy_only=False) & ~erased
        counted: Counter[str] = Counter()
        for entry in pc.value_counts(reasons.filter(pa.array(dropped))):
            counted[phrase(entry["values"].as_py())] += entry["counts"].as_py()
        return cls(placed.name, name, rows, rows[dropped], rows[erased], counted)


def tally_columns(placed: Placed) -> list[str]:
    return [ROW, ERASED, FAILED, GIVEN, *([placed.drop] if placed.drop else [])]


def drops(placed: Placed, table: pa.Table) -> pa.ChunkedArray:
    """Why each row of a part is left out, null where it stays."""
    failed = table.column(FAILED)
    return pc.coalesce(table.column(placed.drop), failed) if placed.drop else failed


def phrase(reason: str) -> str:
    """The part of a reason that reports count by."""
    return reason.partition(":")[0]


def with_runner_columns(rows: Rows, erased: Mask, failed: pa.Array, columns: pa.RecordBatch,
                        given: Given | None = None) -> pa.Table:  # fmt: skip
    """A part's table."""
    named = {ROW: pa.array(rows, pa.int64()), ERASED: pa.array(erased, pa.bool_()), FAILED: failed}
    if given is not None:
        named[GIVEN] = pa.array(given, pa.uint64())
    named |= {name: columns.column(name) for name in columns.schema.names}
    return pa.table(named)


def erase(table: pa.Table, where: Mask) -> pa.Table:
    """The table with everything about some rows gone but that they were there, and a hash of their content."""
    gone = pa.array(where)
    for place, column in enumerate(table.schema):
        if column.name in (ROW, KEY, KEPT):
            continue
        mark: Any = pa.scalar(True) if column.name == ERASED else pa.scalar(None, column.type)
        values = table.column(place).combine_chunks()
        table = table.set_column(place, column, _where(gone, mark, values))
    return table


def _where(mask: pa.Array, value: pa.Scalar, values: pa.Array) -> pa.Array:
    """Rebuilt from the kept rows, so that the buffers do not carry the others along."""
    kept = values.filter(pc.invert(mask))
    both = pa.concat_arrays([kept, pa.array([value.as_py()], values.type)])
    place = np.cumsum(~mask.to_numpy(zero_copy_only=False)) - 1
    place[mask.to_numpy(zero_copy_only=False)] = len(kept)
    return both.take(pa.array(place))


def gather(store: Store, names: Iterable[str], columns: list[str], rows: Rows,
           given: Given | None = None) -> tuple[pa.Table, Mask]:  # fmt: skip
    """Columns for rows of one shard out of finished parts, in the order of `rows`, and which rows were found at all.

    A row that no part covers is null throughout. Without any part the table has no columns. With `given`, of `rows`, only what
    was said on the strength of that counts.
    """
    more = [] if given is None else [GIVEN]
    tables = [_cut(store.read_table(name, [ROW, *columns, *more]), rows) for name in names]
    if given is not None:
        tables = [table.filter(pa.array(_is_given(table, rows, given))).drop_columns(GIVEN) for table in tables]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pa.table({}), np.zeros(len(rows), bool)
    table = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    held = table.column(ROW).to_numpy()
    order = np.argsort(held, kind="stable")
    spot = np.minimum(np.searchsorted(held, rows, sorter=order), len(held) - 1)
    found = held[order[spot]] == rows
    if len(held) == len(rows) and bool(found.all()) and bool((order[spot] == np.arange(len(rows))).all()):
        return table, found
    return table.take(pa.array(order[spot], mask=~found)), found


def _is_given(table: pa.Table, rows: Rows, given: Given) -> Mask:
    """Which rows of a part are among `rows`, which ascend, and were given what these are."""
    held = table.column(ROW).to_numpy()
    spot = np.minimum(np.searchsorted(rows, held), len(rows) - 1)
    mask: Mask = (rows[spot] == held) & (given[spot] == given_in(table))
    return mask


def _cut(table: pa.Table, rows: Rows) -> pa.Table:
    """Of a part over all shards, sorted by row, only the stretch around these rows."""
    if len(table) <= SHARD or not len(rows):
        return table
    held = table.column(ROW).to_numpy()
    start, stop = np.searchsorted(held, [rows.min(), rows.max() + 1])
    return table.slice(start, stop - start)


class Frames:
    """Columns of many steps read back by row, for one shard after another."""

    def __init__(self, store: Store, parts: Mapping[str, Parts], sources: Mapping[str, str]):
        """`sources` says which step writes each column; `parts` where a step's files are."""
        self.store, self.parts, self.sources = store, parts, sources

    def read(self, columns: Iterable[str], rows: Rows) -> dict[str, pa.Array]:
        """The columns for rows of one shard; those of no step, or that no file has, are left out."""
        wanted: dict[str, list[str]] = {}
        for column in columns:
            if column in self.sources:
                wanted.setdefault(self.sources[column], []).append(column)
        found: dict[str, pa.Array] = {}
        for step, names in wanted.items():
            if step not in self.parts:
                continue
            table, _ = self.parts[step].gather(self.store, names, rows)
            found |= {name: table.column(name).combine_chunks() for name in names if name in table.schema.names}
        return found
