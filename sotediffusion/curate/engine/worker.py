"""What a worker process does: answers its parent's messages until the parent is gone, and ends with it."""

import ctypes
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sotediffusion.curate.engine.lock import join_workers
from sotediffusion.curate.engine.progress import EVERY
from sotediffusion.curate.engine.shards import Placed, Rows, gather
from sotediffusion.curate.engine.shelves import reason_of
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.engine.work import Bench, Stage, Task, compare
from sotediffusion.curate.step import Pictures, PictureStep, Source, View
from sotediffusion.types import UserError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Hall:
    """What every worker of a stage is told first."""

    store: Store
    source: Source
    stage: Stage
    slots: int = 0  # pieces of shared memory for decoded pictures
    batch: int = 0  # pictures in one

    @property
    def views(self) -> list[View]:
        """The views that the stage's steps want, each once."""
        steps = [placed.step for placed in self.stage.steps]
        return list({view.name: view for step in steps if isinstance(step, PictureStep) for view in step.views}.values())

    @property
    def slot_bytes(self) -> int:
        return sum(_aligned(self.batch * _view_bytes(view)) for view in self.views)

    def arrays(self, memory: mmap.mmap, slot: int, count: int) -> dict[str, Any]:
        """The arrays (count, *shape) of a slot, by the views' names."""
        start, found = slot * self.slot_bytes, {}
        for view in self.views:
            whole = np.frombuffer(memory, view.dtype, count * int(np.prod(view.shape)), start)
            found[view.name] = whole.reshape(count, *view.shape)
            start += _aligned(self.batch * _view_bytes(view))
        return found


@dataclass(frozen=True)
class Decode:
    """Pictures to open into a slot."""

    rows: Rows
    files: list[str]  # parts with the column `path`
    slot: int


def _view_bytes(view: View) -> int:
    return int(np.prod(view.shape)) * np.dtype(view.dtype).itemsize


def _aligned(size: int) -> int:
    return -(-size // 4096) * 4096


def serve(handle: int, parent: int) -> None:
    """Answer messages on a socket until it is closed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(handle)
    try:
        path, memory = connection.recv()
        sys.path[:] = path
        _limit(memory)
        _Worker(connection).answer()
    except (EOFError, ConnectionError):
        return


def _limit(memory: int) -> None:
    """Let this process have so many bytes more than it has now; a picture that wants more fails or ends the process."""
    if memory:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[5]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))


class _Worker:
    def __init__(self, connection: Connection):
        self.connection = connection
        self.hall: Hall | None = None
        self.lock: Any = None
        self.memory: Any = None
        self.told = 0.0

    def answer(self) -> None:
        while True:
            kind, *rest = self.connection.recv()
            try:
                for reply in getattr(self, f"on_{kind}")(*rest):
                    self.connection.send(reply)
            except UserError as error:
                self.connection.send(("user error", error.field, error.message))
            except MemoryError:
                os._exit(12)  # as if killed: the runner finds the picture that did it
            except Exception:
                self.connection.send(("error", traceback.format_exc()))

    def on_stage(self, hall: Hall) -> Iterator[Any]:
        self.hall, self.bench, self.memory = hall, Bench(hall.store, hall.stage), None
        if not hall.store.remote and self.lock is None:
            self.lock = join_workers(hall.store)
        if hall.slots:
            memory = reduction.recv_handle(self.connection)
            self.memory = mmap.mmap(memory, hall.slots * hall.slot_bytes)
            os.close(memory)
        yield ("ready",)

    def on_task(self, task: Task, carefully: bool) -> Iterator[Any]:
        for event in self.bench.work(task, carefully):
            yield ("fed", event) if isinstance(event, int) else ("written", task.number, event)
        yield ("finished", task.number)

    def on_open(self, task: Task) -> Iterator[Any]:
        self.bench.open(task)
        yield from ()

    def on_look(self, number: int, spots: slice, slot: int | None, failed: dict[int, str]) -> Iterator[Any]:
        assert self.hall is not None
        pictures = {} if slot is None else self.hall.arrays(self.memory, slot, spots.stop - spots.start)
        self.bench.feed(number, spots, pictures, failed)
        yield ("looked", number, spots, slot)
        if self.bench.due(number):
            yield ("written", number, self.bench.flush(number))

    def on_close(self, number: int) -> Iterator[Any]:
        yield ("written", number, self.bench.close(number))
        yield ("finished", number)

    def on_decode(self, job: Decode) -> Iterator[Any]:
        assert self.hall is not None
        table, _ = gather(self.hall.store, job.files, ["path"], job.rows)
        into = self.hall.arrays(self.memory, job.slot, len(job.rows))
        failed = {}
        for place, path in enumerate(table.column("path").to_pylist()):
            try:
                picture = self.hall.source.decode(path)
                for view in self.hall.views:
                    into[view.name][place] = view.make(picture)
            except ValueError as error:
                failed[int(job.rows[place])] = str(error)
            except FileNotFoundError:  # other faults of reading may pass, so they end the run
                failed[int(job.rows[place])] = "unreadable: gone since it was scanned"
        yield ("decoded", failed)

    def on_source(self, source: Pictures, make: Callable[[Any], Any]) -> Iterator[Any]:
        self.source, self.make = source, make
        yield from ()

    def on_see(self, path: str) -> Iterator[Any]:
        try:
            yield ("seen", self.make(self.source.decode(path)))
        except ValueError as error:
            yield ("no picture", str(error))
        except OSError as error:
            yield ("out of reach", reason_of(error))

    def reached(self, done: int, total: int) -> None:
        """Tell the parent now and then."""
        if time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            self.connection.send(("reached", done, total))

    def on_compare(self, placed: Placed, parts: Any, rows: Rows) -> Iterator[Any]:
        assert self.hall is not None
        yield ("written", 0, [compare(self.hall.store, placed, parts, rows, self.reached)])
        yield ("finished", 0)
