"""A Step: one thing done to every picture, with the columns it reads and the columns it writes.

Steps know nothing of files, processes or clusters. A runner hands them record batches and keeps what they return; the same
step runs in a local process or in an actor on another machine, so a step pickles before `setup` and opens its models there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

DROP = "drop_"  # a step's column of reasons for leaving a picture out is DROP + its name; null keeps the picture

# What the source's listing says of a file. The first step of a chain (scan) reads these and no others; the runner keeps them
# beside its columns for later steps. `path` is relative to the source, posix; a member of a tar is "a.tar::b.png". Bytes and
# modified (ns) belong to the file, or to the member and its tar.
LISTING = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("modified", pa.int64())])


class Pictures(Protocol):
    """Where pictures are opened."""

    def decode(self, path: str) -> "np.ndarray[Any, Any]":
        """The whole picture as RGB uint8 (H, W, 3), upright, alpha on white. Raises ValueError with a reason of the form
        "unreadable: ..." for a file that is no good, OSError where the source cannot be reached."""


class Source(Pictures, Protocol):
    """Where the pictures lie; pickles, so that every worker has it. `sources.open_source(place)` gives one."""

    def listing(self) -> Any:
        """Record batches of LISTING, sorted by path, of every file that could be a picture (sidecars are not listed)."""


class Step(ABC):
    """Works row by row: what it writes of a picture depends on that picture's columns alone.

    A column that no step of the chain writes (its step is skipped) is handed over as all null, of type null. `row` is the
    runner's own column: any step may read it, none writes it.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raised when the same inputs and settings would give other results
    reads: tuple[str, ...]
    writes: pa.Schema
    sees_dropped: ClassVar[bool] = False  # whether pictures that earlier steps dropped are handed over too
    erases: ClassVar[bool] = False  # a picture it drops keeps nothing but sha256 anywhere, and its reason becomes "policy"
    gpus: float = 0  # GPUs that a worker of it needs; a cluster places it by this number
    errors: str | None = None  # its column that says why a picture has no answer; such pictures are handed over again next time
    workers: int | None = None  # most processes of one machine that do it at a time, for what is large or has its own threads

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the results depend on besides the columns read: settings and the hashes of models; plain values."""

    def setup(self) -> None:  # noqa: B027 most steps have nothing to open
        """Open models and clients; called once in each worker before the first batch."""

    @abstractmethod
    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns `writes` for these rows, in their order. `rows` has the columns `reads`."""

    def give_up(self, rows: pa.RecordBatch, reason: str) -> pa.RecordBatch:
        """What `process` would answer, without opening the pictures: their pixels killed two workers. Reads `reads`."""
        return nulls(self.writes, len(rows), rows, {DROP + self.name: reason})


@dataclass(frozen=True)
class View:
    """A picture as a model wants it, made where it is decoded. `make` is a module's function, so that it pickles."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]  # RGB uint8 (H, W, 3), upright, alpha on white -> shape


class PictureStep(Step):
    """Looks at pixels. All picture steps that have work in a shard share one decode of each picture."""

    views: tuple[View, ...]

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Not for pictures; a runner calls `look`."""
        raise TypeError(f"{self.name} looks at pictures; call look")

    @abstractmethod
    def look(self, rows: pa.RecordBatch, pictures: dict[str, "np.ndarray[Any, Any]"]) -> pa.RecordBatch:
        """The columns `writes`, given each view's array (rows, *shape) by its name.

        The arrays are shared memory: they are the step's until it returns, and then overwritten.
        """


class WholeStep(Step):
    """Compares pictures with each other: `process` gets all rows of all shards at once, and answers for all.

    What it wants to know of some rows only are columns of `reads` that it names in `asides`: `process` is not given those, but
    asks `fetch` for them, which takes columns and ascending numbers of rows.
    """

    asides: tuple[str, ...] = ()
    fetch: Callable[[Sequence[str], "np.ndarray[Any, Any]"], list[pa.Array]] | None = None
    reached: Callable[[int, int], None] | None = None  # to be told how many pictures have been opened, of how many
    otherwise: ClassVar[str] = ""  # of the sentence about a death in it: how to do without opening pictures


def nulls(schema: pa.Schema, count: int, given: pa.RecordBatch, constants: dict[str, str]) -> pa.RecordBatch:
    """`count` rows of `schema`: columns of `given` where the name and type are the same, constants, otherwise null."""
    columns = []
    for field in schema:
        if field.name in constants:
            columns.append(pa.array([constants[field.name]] * count, field.type))
        elif field.name in given.schema.names and given.schema.field(field.name).type == field.type:
            columns.append(given.column(field.name))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.record_batch(columns, schema=schema)
