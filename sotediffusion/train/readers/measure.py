"""Content and size of the pictures of a folder: each file is read once, and again only when it has changed."""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.scan.sources import PictureSource
from sotediffusion.pictures.headers import Undecodable, read_header
from sotediffusion.train.fit import Faults
from sotediffusion.train.samples import CONTENT

MEMORY = "pictures.arrow"  # what is known of a folder's files
_AT_ONCE = 64
_SECONDS = 60.0  # between writing down what is known
_SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("modified", pa.int64()), ("content", pa.binary(CONTENT)),
                     ("width", pa.int32()), ("height", pa.int32())])  # fmt: skip


class File(NamedTuple):
    """A file as it is listed."""

    path: str
    bytes: int
    modified: int  # ns since 1970


class Measured(NamedTuple):
    """What is in it."""

    content: bytes
    width: int  # px, upright
    height: int


def measure(files: list[File], source: PictureSource, memory: Store | None, faults: Faults) -> dict[str, Measured]:
    """What is in each file, by path; one that is no picture is noted and left out. `memory` is where it is written down."""
    known = _remembered(memory)
    found = {file: known[file] for file in files if file in known}
    since = time.monotonic()
    for file, measured in _fresh((file for file in files if file not in known), source, faults):
        found[file] = measured
        if memory is not None and time.monotonic() - since > _SECONDS:
            _remember(memory, known | found)
            since = time.monotonic()
    if memory is not None and any(file not in known for file in found):
        _remember(memory, known | found)
    return {file.path: measured for file, measured in found.items()}


def _fresh(files: Iterable[File], source: PictureSource, faults: Faults) -> Iterator[tuple[File, Measured]]:
    rest = iter(files)
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as threads:
        while some := list(islice(rest, _AT_ONCE)):
            for file, seen in zip(some, threads.map(_look, source.read_all([file.path for file in some])), strict=True):
                if isinstance(seen, str):
                    faults.add(file.path, seen)
                else:
                    yield file, seen


def _look(data: bytes | OSError) -> Measured | str:
    """What is in a file, or why that cannot be said."""
    if isinstance(data, OSError):
        return str(data)[:100]
    try:
        width, height = read_header(data).upright
    except Undecodable as error:
        return str(error)[:100]
    return Measured(hashlib.sha256(data).digest()[:CONTENT], width, height)


def _remembered(memory: Store | None) -> dict[File, Measured]:
    if memory is None or not memory.exists(MEMORY):
        return {}
    columns = [column.to_pylist() for column in memory.read_table(MEMORY).columns]
    return {File(*row[:3]): Measured(*row[3:]) for row in zip(*columns, strict=True)}


def _remember(memory: Store, known: dict[File, Measured]) -> None:
    rows = [(*file, *measured) for file, measured in known.items()]
    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), _SCHEMA, strict=True)]
    memory.write_table(MEMORY, pa.table(columns, _SCHEMA))
