"""Columns of lists as flat arrays: the tags of all pictures in one row, each with the number of its picture."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CELLS = 1 << 21  # (picture, tag) cells looked at together, 4 bytes each: what a cache holds


def typed(rows: pa.RecordBatch, schema: pa.Schema) -> dict[str, pa.Array]:
    """The columns of a schema; one that no step has written is null throughout."""
    found = ((field, rows.column(field.name)) for field in schema)
    return {field.name: column.cast(field.type) if pa.types.is_null(column.type) else column for field, column in found}


def flatten(column: pa.Array) -> tuple["np.ndarray", pa.Array]:
    """The row of each item, int64, and the items; a null list has none."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(column)), lengths), column.flatten()


def nest(items: pa.Array, rows: "np.ndarray", count: int) -> pa.Array:
    """Lists for rows 0 to count - 1 from items and the row of each; rows must not descend."""
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=count), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), items)


def encode(parts: Sequence[pa.Array]) -> tuple[list["np.ndarray"], pa.Array]:
    """String arrays as codes into one array of distinct strings; -1 where a string is null."""
    whole = pa.chunked_array([part.cast(pa.string()) for part in parts], pa.string()).combine_chunks()
    coded = (whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)).dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    ends = np.cumsum([len(part) for part in parts])
    return np.split(codes, ends[:-1]), coded.dictionary


def firsts(rows: "np.ndarray", codes: "np.ndarray", struck: tuple["np.ndarray", "np.ndarray"] | None = None) -> "np.ndarray":
    """Which of the items (row, code) are the first of their kind in their row and not among `struck`; rows must not descend."""
    keep = np.zeros(len(rows), bool)
    if not len(rows):
        return keep
    width = 1 + int(max(codes.max(), *(part.max() for part in (struck or ())[1:] if len(part)), 0))
    height = max(1, CELLS // width)
    place = np.empty(height * width, np.int32)  # only cells written in this round are read, so none is cleared
    for top in range(0, int(rows[-1]) + 1, height):
        low, high = np.searchsorted(rows, (top, top + height))
        cells = (rows[low:high] - top) * width + codes[low:high]
        order = np.arange(len(cells), dtype=np.int32)
        place[cells[::-1]] = order[::-1]  # of equal cells the last one assigned stays, which is the first item
        if struck is not None:
            start, stop = np.searchsorted(struck[0], (top, top + height))
            place[(struck[0][start:stop] - top) * width + struck[1][start:stop]] = -1
        keep[low:high] = place[cells] == order
    return keep
