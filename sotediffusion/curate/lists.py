"""Columns of lists as flat arrays: the items of all pictures in one row, where each picture's begin, and strings as numbers."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]


def typed(rows: pa.RecordBatch, schema: pa.Schema) -> dict[str, pa.Array]:
    """The columns of a schema; one that no step has written is null throughout."""
    found = ((field, rows.column(field.name)) for field in schema)
    return {field.name: column.cast(field.type) if pa.types.is_null(column.type) else column for field, column in found}


def flatten(column: pa.Array) -> tuple[Array, pa.Array]:
    """Where each of N lists begins in the items (N + 1,), and the items; a null list has none."""
    starts = np.zeros(len(column) + 1, np.int64)
    lengths = pc.list_value_length(column)
    np.cumsum((lengths.fill_null(0) if lengths.null_count else lengths).to_numpy(zero_copy_only=False), out=starts[1:])
    return starts, column.flatten()


def nest(items: pa.Array, starts: Array) -> pa.Array:
    """The lists again."""
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), items)


def encode(parts: Sequence[pa.Array]) -> tuple[list[Array], pa.Array]:
    """String arrays as codes into one array of distinct strings; a null has the code after the last."""
    whole = parts[0] if len(parts) == 1 else pa.concat_arrays([part.cast(pa.string()) for part in parts])
    coded = whole.dictionary_encode()
    indices = coded.indices.fill_null(len(coded.dictionary)) if coded.indices.null_count else coded.indices
    ends = np.cumsum([len(part) for part in parts])
    return np.split(indices.to_numpy(), ends[:-1]), coded.dictionary


def joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """P columns (starts, codes) of the same N pictures as one: starts (P, N + 1) and the codes, one column after another."""
    ends = np.cumsum([0, *(len(codes) for _, codes in parts)])
    starts = np.stack([starts + end for (starts, _), end in zip(parts, ends, strict=False)])
    return starts, np.concatenate([codes.astype(np.int32, copy=False) for _, codes in parts])


class Texts:
    """Distinct strings, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = defaultdict(count().__next__)
        self._array = pa.array([], pa.string())

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, text: str) -> int:
        """The number of a string, a new one if it has none."""
        return self._numbers[text]

    def numbers(self, texts: list[str]) -> Array:
        """The numbers of strings."""
        return np.fromiter(map(self._numbers.__getitem__, texts), np.int64, len(texts))

    @property
    def array(self) -> pa.Array:
        """All of them by number."""
        if new := len(self._numbers) - len(self._array):
            last = [*islice(reversed(self._numbers), new)][::-1]
            self._array = pa.concat_arrays([self._array, pa.array(last, pa.string())])
        return self._array
