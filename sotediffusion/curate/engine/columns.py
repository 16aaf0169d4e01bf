"""The catalogue's columns as one stream, put together from the finished parts of every step."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.again import errors_in
from sotediffusion.curate.engine.runner import Ledger
from sotediffusion.curate.engine.shards import FAILED, POLICY, ROW, SHARD, WORK, Mask, Parts, Placed, Rows
from sotediffusion.curate.engine.shards import KEPT as KEPT_COLUMN
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import DROP, LISTING, PictureStep

DECODE = DROP + "decode"  # why a picture that scan let through could not be opened in full
DROPPED, REASON = "dropped", "reason"
GONE = "gone: no longer in the source"
BATCH = 16  # shards


@dataclass
class Finished:
    """A chain that has been run: where everything is, and what became of each row."""

    store: Store
    placed: Mapping[str, Placed]
    parts: Mapping[str, Parts]
    ledger: Ledger

    @property
    def first(self) -> Placed:
        return next(iter(self.placed.values()))

    @property
    def rows(self) -> Rows:
        """Every row that is in the catalogue, kept or not."""
        return np.flatnonzero(self.ledger.covered[self.first.name] | self.ledger.erased).astype(np.int64)

    @property
    def looks(self) -> bool:
        return any(isinstance(placed.step, PictureStep) for placed in self.placed.values())

    def shown(self, placed: Placed, rows: Rows) -> Mask:
        """Of which of these rows a step's columns are in the catalogue: of the finished ones that no earlier step drops."""
        there: Mask = self.ledger.covered[placed.name][rows] & ~self.ledger.erased[rows]
        return there if placed.step.sees_dropped else there & (self.ledger.dropped_by[rows] >= placed.order)

    def schema_of(self, placed: Placed) -> pa.Schema:
        """What a step brings to the catalogue."""
        listing = list(LISTING) if placed.order == 0 else []
        return pa.schema([*listing, *placed.step.writes])

    @property
    def ending(self) -> pa.Schema:
        """What is said of each row in the end."""
        decode = [pa.field(DECODE, pa.string())] if self.looks else []
        return pa.schema([*decode, (DROPPED, pa.bool_()), (REASON, pa.string())])

    def states(self, rows: Rows) -> dict[str, str]:
        """For each step, and for the ending, a digest of what its columns say of these rows."""
        erased, errors = np.packbits(self.ledger.erased[rows]).tobytes(), b""
        found = {}
        for placed in self.placed.values():
            errors += self._errors(placed)  # what later steps say may come of them
            said = _digest(np.packbits(self.shown(placed, rows)).tobytes() + erased + errors + self._given(placed, rows))
            found[placed.name] = f"{placed.fingerprint} {said}"
        return found | {REASON: self._outcome(rows)}

    def _given(self, placed: Placed, rows: Rows) -> bytes:
        """What a comparison of all pictures had said of each row before the step was asked."""
        given = self.parts[placed.name].given_to(rows)
        return b"" if given is None else given.tobytes()

    def _errors(self, placed: Placed) -> bytes:
        """Which rows a step had no answer for: they are handed to it again, so that its columns change under one fingerprint."""
        column = placed.step.errors
        parts = self.parts[placed.name]
        names = [f"{parts.folder}/{name}" for name in parts.all_names()] if column else []
        return b"".join(np.sort(errors_in(self.store, name, str(column))).tobytes() for name in sorted(names))

    def _outcome(self, rows: Rows) -> str:
        """A digest of what is said of the rows in the end; steps that drop none of them have no part in it."""
        dropped_by = self.ledger.dropped_by[rows]
        said = [np.packbits(mask[rows]).tobytes() for mask in (self.ledger.present, self.ledger.erased)]
        for placed in self.placed.values():
            where = dropped_by == placed.order
            if where.any():
                said += [f"{placed.name} {placed.fingerprint}".encode(), np.packbits(where).tobytes(),
                         self._given(placed, rows[where])]  # fmt: skip
        return _digest(repr(self.ending.names).encode() + b"".join(said))

    def batches(self, steps: Iterable[str], ending: bool, rows: Rows) -> Iterator[pa.RecordBatch]:
        """The columns of some steps, and the ending if asked for, for rows in any order."""
        wanted = [self.placed[name] for name in steps]
        cuts = np.flatnonzero(np.diff(rows // SHARD)) + 1
        waiting: list[pa.RecordBatch] = []
        for held in np.split(rows, cuts) if len(rows) else []:
            columns: dict[str, pa.Array] = {}
            for placed in wanted:
                columns |= self._columns(placed, held)
            if ending:
                columns |= self._ending(held)
            waiting.append(pa.record_batch(list(columns.values()), schema=self.schema(wanted, ending)))
            if sum(len(batch) for batch in waiting) >= BATCH * SHARD:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def schema(self, wanted: Iterable[Placed], ending: bool) -> pa.Schema:
        fields = [field for placed in wanted for field in self.schema_of(placed)]
        return pa.schema([*fields, *(self.ending if ending else [])])

    def _columns(self, placed: Placed, rows: Rows) -> dict[str, pa.Array]:
        schema = self.schema_of(placed)
        shown = self.shown(placed, rows)
        if not shown.any() and KEPT_COLUMN not in schema.names:
            return {field.name: pa.nulls(len(rows), field.type) for field in schema}
        table, found = self.parts[placed.name].gather(self.store, schema.names, rows)
        kept = pa.array(np.arange(len(rows)), mask=~(shown & found))
        all_kept = bool((shown & found).all())
        columns = {}
        for field in schema:
            if field.name not in table.schema.names:
                columns[field.name] = pa.nulls(len(rows), field.type)
                continue
            column = _flat(table.column(field.name))
            columns[field.name] = column if all_kept or field.name == KEPT_COLUMN else column.take(kept)
        if KEPT_COLUMN in columns and bool((~found & self.ledger.erased[rows]).any()):
            columns[KEPT_COLUMN] = self._hash_elsewhere(columns[KEPT_COLUMN], rows)
        return columns

    def _hash_elsewhere(self, column: pa.Array, rows: Rows) -> pa.Array:
        """Hashes of rows erased when the first step had other settings: they are not looked at again."""
        folder = f"{WORK}/{self.first.name}"
        for name in self.store.names(folder):
            parts = Parts(f"{folder}/{name}")
            for part in self.store.names(parts.folder):
                parts.add(part)
            table, _ = parts.gather(self.store, [KEPT_COLUMN], rows)
            if KEPT_COLUMN in table.schema.names:
                column = pc.coalesce(column, _flat(table.column(KEPT_COLUMN)))
        return column

    def _ending(self, rows: Rows) -> dict[str, pa.Array]:
        reason, decode = pa.nulls(len(rows), pa.string()), pa.nulls(len(rows), pa.string())
        dropped_by = self.ledger.dropped_by[rows]
        for placed in self.placed.values():
            where = dropped_by == placed.order
            if where.any():
                said, failed = self._reasons(placed, rows, where & ~self.ledger.erased[rows])
                decode = pc.coalesce(decode, failed)
                reason = pc.coalesce(reason, said, failed)
        reason = pc.coalesce(_text(POLICY, self.ledger.erased[rows]), reason, _text(GONE, ~self.ledger.present[rows]))
        ending = {DECODE: decode} if self.looks else {}
        return ending | {DROPPED: reason.is_valid(), REASON: reason}

    def _reasons(self, placed: Placed, rows: Rows, where: Mask) -> tuple[pa.Array, pa.Array]:
        """Why a step drops these rows: what it says, and why it could not look."""
        nothing = pa.nulls(len(rows), pa.string())
        wanted = [FAILED, *([placed.drop] if placed.drop else [])]
        table, found = self.parts[placed.name].gather(self.store, wanted, rows)
        if not found.any():
            return nothing, nothing
        kept = pa.array(np.arange(len(rows)), mask=~(where & found))
        said = _flat(table.column(placed.drop)).take(kept) if placed.drop else nothing
        return said, _flat(table.column(FAILED)).take(kept)


def _text(text: str, where: Mask) -> pa.Array:
    """The text for some rows, null for the others."""
    return pa.array([text]).take(pa.array(np.zeros(len(where), np.int8), mask=~where))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


ROWS = pa.schema([(ROW, pa.int64())])
