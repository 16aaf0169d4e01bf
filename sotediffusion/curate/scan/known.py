"""Which file is which row: files are known again by a keyed hash of path, size and time, kept beside their row.

The hashes are a column of the first step's parts and there is no list of files besides: a row belongs to a file once the part
with it is finished. The path itself is a column like others, so that it can be erased. The hash's key is the catalogue's own.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.engine.shards import ERASED, KEY, ROW, SHARD, WORK, Mask, Rows
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import LISTING
from sotediffusion.types import UserError

Keys = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass
class Known:
    """Files seen before: their keys sorted, the row of each, the rows that are erased, and those covered under a fingerprint."""

    keys: Keys
    rows: Rows
    erased: Rows
    rows_of: dict[str, Rows]

    @property
    def end(self) -> int:
        """One more than the highest row."""
        return int(self.rows.max()) + 1 if len(self.rows) else 0


@dataclass
class Listed:
    """What a listing says: files to scan with their rows, and which known rows are still there."""

    files: pa.Table  # LISTING + key + row, sorted by row
    present: Mask  # by row, up to `end`
    end: int

    def of(self, rows: Rows) -> pa.RecordBatch:
        """The entries for some rows; those without one are left out."""
        start, stop = np.searchsorted(self.held, [rows[0], rows[-1] + 1])
        table = self.files.slice(start, stop - start)
        table = table.filter(pa.array(np.isin(self.held[start:stop], rows))).combine_chunks()
        return table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], schema=self.files.schema)

    def __post_init__(self) -> None:
        self.held = self.files.column(ROW).to_numpy()


def file_keys(secret: bytes, batch: pa.RecordBatch) -> Keys:
    """A 64-bit keyed hash of each file's path, size and time. Two of six million files share one with p = 1e-6."""
    ends = struct.Struct("<qq")
    entries = zip(*(batch.column(name).to_pylist() for name in LISTING.names), strict=True)
    digests = [
        blake2b(path.encode("utf-8", "surrogateescape") + ends.pack(size or 0, time or 0), digest_size=8, key=secret).digest()
        for path, size, time in entries
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def load_known(store: Store, step: str) -> Known:
    """Every file that any finished part of the first step names, whatever its fingerprint."""
    keys, rows, erased = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    rows_of: dict[str, Rows] = {}
    for folder in store.names(f"{WORK}/{step}"):
        before = len(rows)
        for name in store.names(f"{WORK}/{step}/{folder}"):
            table = store.read_table(f"{WORK}/{step}/{folder}/{name}", [ROW, KEY, ERASED])
            held = table.column(ROW).to_numpy()
            keys.append(table.column(KEY).to_numpy())
            rows.append(held)
            erased.append(held[table.column(ERASED).to_numpy(zero_copy_only=False)])
        rows_of[folder] = np.concatenate([np.empty(0, np.int64), *rows[before:]])
    every, first = np.unique(np.concatenate(keys), return_index=True)
    return Known(every, np.concatenate(rows)[first], np.unique(np.concatenate(erased)), rows_of)


def match(listing: Iterator[pa.RecordBatch], known: Known, covered: Mask, secret: bytes) -> Listed:
    """Give each file of the listing its row: its old one, or else the lowest that is free.

    `covered` says by row what needs no scan any more. Raises UserError where none of the known files is in the listing.
    """
    present = np.zeros(known.end, bool)
    free = _free_rows(known)
    seen_new: set[int] = set()
    found = [LISTING.append(pa.field(KEY, pa.uint64())).append(pa.field(ROW, pa.int64())).empty_table()]
    for batch in listing:
        keys = file_keys(secret, batch)
        spot = np.minimum(np.searchsorted(known.keys, keys), max(len(known.keys) - 1, 0))
        old = known.keys[spot] == keys if len(known.keys) else np.zeros(len(keys), bool)
        rows = np.full(len(keys), -1, np.int64)
        rows[old] = known.rows[spot[old]]
        present[rows[old]] = True
        for place in np.flatnonzero(~old):
            if int(keys[place]) not in seen_new:
                seen_new.add(int(keys[place]))
                rows[place] = next(free)
        wanted = (rows >= 0) & ~(old & _at(covered, rows))
        if wanted.any():
            entries = pa.Table.from_batches([batch.cast(LISTING)])
            entries = entries.append_column(KEY, pa.array(keys)).append_column(ROW, pa.array(rows))
            found.append(entries.filter(pa.array(wanted)))
    if known.end and not present.any():
        raise UserError("DIR", "it holds none of the pictures this catalogue was made of; give their folder, or another --out")
    files = pa.concat_tables(found).combine_chunks()
    files = files.take(pa.array(np.argsort(files.column(ROW).to_numpy(), kind="stable")))
    return Listed(files, present, max(known.end, int(files.column(ROW).to_numpy()[-1]) + 1 if len(files) else 0))


def _free_rows(known: Known) -> Iterator[int]:
    """Rows that no file has, lowest first, so that a run that was cut off goes on with the rows it would have had."""
    taken = np.zeros(known.end, bool)
    taken[known.rows] = True
    yield from np.flatnonzero(~taken).tolist()
    row = known.end
    while True:
        yield row
        row += 1


def _at(mask: Mask, rows: Rows) -> Mask:
    inside = (rows >= 0) & (rows < len(mask))
    result = np.zeros(len(rows), bool)
    result[inside] = mask[rows[inside]]
    return result


def shards_of(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Sorted rows cut by shard."""
    shards = rows // SHARD
    for part in np.split(rows, np.flatnonzero(np.diff(shards)) + 1):
        if len(part):
            yield int(part[0]) // SHARD, part
