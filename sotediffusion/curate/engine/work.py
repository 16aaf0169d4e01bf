"""The work on one task, in whatever process it runs: rows through a stage's steps, what they answer into finished parts."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.engine.shards import (
    KEY,
    ROW,
    WHOLE,
    Frames,
    Given,
    Mask,
    Parts,
    Placed,
    Rows,
    Tally,
    erase,
    gather,
    given_in,
    part_name,
    with_runner_columns,
)  # fmt: skip
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.scan.known import shards_of
from sotediffusion.curate.step import LISTING, PictureStep, WholeStep, nulls

FLUSH = 30.0  # seconds of work that a kill may cost at most, about
BATCH = 1.0  # seconds that a batch of rows should take
FIRST_BATCH, MOST = 8, 4096  # rows


@dataclass(frozen=True)
class Stage:
    """Steps that are done one after the other on the same rows in one process, with at most one decode of each picture."""

    steps: tuple[Placed, ...]
    path_step: str  # which step's files have the column `path`

    @property
    def name(self) -> str:
        return "+".join(placed.name for placed in self.steps)

    @property
    def pictures(self) -> bool:
        return any(isinstance(placed.step, PictureStep) for placed in self.steps)

    @property
    def whole(self) -> bool:
        return any(isinstance(placed.step, WholeStep) for placed in self.steps)

    @property
    def gpus(self) -> float:
        return max(placed.step.gpus for placed in self.steps)


@dataclass
class Task:
    """Rows of one shard, which steps have work on which of them, and where their inputs are."""

    number: int
    rows: Rows  # ascending
    todo: Mapping[str, Mask]  # step -> which of the rows
    files: Mapping[str, list[str]]  # step -> finished parts of this shard
    listing: pa.RecordBatch | None = None  # what the source says of rows that are scanned for the first time
    give_up: str = ""  # answer with this reason and open nothing
    given: Mapping[str, Given] = field(default_factory=dict)  # step behind a comparison -> what that says of each row

    def only(self, kept: Mask, number: int) -> "Task":
        """The same for some of the rows."""
        rows = self.rows[kept]
        listing = self.listing
        if listing is not None:
            listing = listing.filter(pa.array(np.isin(listing.column(ROW).to_numpy(), rows)))
        todo = {step: mask[kept] for step, mask in self.todo.items()}
        given = {step: found[kept] for step, found in self.given.items()}
        return Task(number, rows, todo, self.files, listing, self.give_up, given)


@dataclass
class _Answers:
    """What one step said of rows fed so far and not yet written."""

    rows: list[Rows] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)


class Bench:
    """A stage's steps, opened, and the tasks on them."""

    def __init__(self, store: Store, stage: Stage):
        self.store, self.stage = store, stage
        self.ready: set[str] = set()
        self.open_tasks: dict[int, tuple[Task, dict[str, pa.Array]]] = {}
        self.answers: dict[int, dict[str, _Answers]] = {}
        self.flushed: dict[int, float] = {}

    def open(self, task: Task) -> None:
        """Read what the task's steps need to know of its rows."""
        loaded: dict[str, pa.Array] = {}
        for step, columns in self._wanted(task).items():
            table, _ = gather(self.store, task.files[step], columns, task.rows, task.given.get(step))
            loaded |= {name: table.column(name).combine_chunks() for name in columns if name in table.schema.names}
        if task.listing is not None and len(task.listing):
            spot = np.searchsorted(task.listing.column(ROW).to_numpy(), task.rows)
            spot = pa.array(np.minimum(spot, len(task.listing) - 1))
            loaded |= {f"listing {name}": task.listing.column(name).take(spot) for name in (*LISTING.names, KEY)}
        self.open_tasks[task.number] = (task, loaded)
        self.answers[task.number] = {placed.name: _Answers() for placed in self.stage.steps}
        self.flushed[task.number] = time.monotonic()

    def _wanted(self, task: Task) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for placed in self.stage.steps:
            if task.todo[placed.name].any():
                for column, step in placed.sources.items():
                    if step in task.files and column not in wanted.setdefault(step, []):
                        wanted[step].append(column)
        return wanted

    def feed(self, number: int, spots: slice, pictures: Mapping[str, Any] = {}, failed: Mapping[int, str] = {}) -> None:  # noqa: B006
        """Run the steps on some of a task's rows. `pictures` has the views of all of them; `failed` why some have none."""
        task, loaded = self.open_tasks[number]
        batch = _Batch(task, spots, {name: column[spots] for name, column in loaded.items()})
        for placed in self.stage.steps:
            batch.run(self, placed, pictures, failed)
        for placed, mask, answer, broken in batch.answers:
            erased = batch.erased[mask]
            given = task.given[placed.name][spots][mask] if placed.name in task.given else None
            table = with_runner_columns(batch.rows[mask], np.zeros(int(mask.sum()), bool), broken, answer, given)
            if placed.order == 0:
                for name in (*LISTING.names, KEY):
                    table = table.append_column(name, batch.loaded[f"listing {name}"].filter(pa.array(mask)))
            if erased.any():
                table = erase(table, erased)
            kept = self.answers[number][placed.name]
            kept.rows.append(batch.rows[mask])
            kept.tables.append(table)

    def due(self, number: int) -> bool:
        return time.monotonic() - self.flushed[number] > FLUSH

    def flush(self, number: int) -> list[Tally]:
        """Write what the steps said since the last flush, in the order of the chain."""
        written = []
        for placed in self.stage.steps:
            kept = self.answers[number][placed.name]
            if kept.tables:
                written.append(write_part(self.store, placed, pa.concat_tables(kept.tables).combine_chunks()))
                kept.rows.clear()
                kept.tables.clear()
        self.flushed[number] = time.monotonic()
        return written

    def close(self, number: int) -> list[Tally]:
        written = self.flush(number)
        self.forget(number)
        return written

    def forget(self, number: int) -> None:
        for held in (self.open_tasks, self.answers, self.flushed):
            held.pop(number, None)  # type: ignore[attr-defined]

    def opened(self, placed: Placed) -> Any:
        """The step, set up."""
        if placed.name not in self.ready:
            placed.step.setup()
            self.ready.add(placed.name)
        return placed.step

    def work(self, task: Task, carefully: bool = False) -> Iterator[int | list[Tally]]:
        """A whole task that needs no pictures from elsewhere; yields rows fed, and what was written, as it happens.

        Carefully is row by row, so that of a death it is known which row it came from.
        """
        self.open(task)
        start, size, most = 0, 1 if carefully else FIRST_BATCH, 1 if carefully else MOST
        while start < len(task.rows):
            began = time.monotonic()
            spots = slice(start, min(start + size, len(task.rows)))
            self.feed(task.number, spots)
            yield spots.stop - spots.start
            took = time.monotonic() - began
            start, size = spots.stop, min(max(int(size * min(4.0, BATCH / max(took, 1e-6))), 1), most)
            if self.due(task.number):
                yield self.flush(task.number)
        yield self.close(task.number)


class _Batch:
    """Some rows on their way through a stage's steps."""

    def __init__(self, task: Task, spots: slice, loaded: dict[str, pa.Array]):
        self.task, self.spots, self.loaded = task, spots, loaded
        self.rows = task.rows[spots]
        self.dropped = np.zeros(len(self.rows), bool)
        self.erased = np.zeros(len(self.rows), bool)
        self.answers: list[tuple[Placed, Mask, pa.RecordBatch, pa.Array]] = []

    def run(self, bench: Bench, placed: Placed, pictures: Mapping[str, Any], failed: Mapping[int, str]) -> None:
        step = placed.step
        mask = self.task.todo[placed.name][self.spots] & ~self.erased
        if not step.sees_dropped:
            mask &= ~self.dropped
        if not mask.any():
            return
        if isinstance(step, PictureStep):
            answer, broken = self._look(bench, placed, mask, pictures, failed)
        else:
            rows = self.inputs(placed, mask)
            opened = bench.opened(placed)
            answer = opened.give_up(rows, self.task.give_up) if self.task.give_up and placed.order == 0 else opened.process(rows)
            broken = pa.nulls(len(answer), pa.string())
        answer = _checked(placed, answer, int(mask.sum()))
        reasons = answer.column(placed.drop) if placed.drop else broken
        out = np.zeros(len(self.rows), bool)
        out[mask] = reasons.is_valid().to_numpy(zero_copy_only=False) | broken.is_valid().to_numpy(zero_copy_only=False)
        self.dropped |= out
        if step.erases:
            self.erased |= out
        self.answers.append((placed, mask, answer, broken))

    def _look(self, bench: Bench, placed: Placed, mask: Mask, pictures: Mapping[str, Any],
              failed: Mapping[int, str]) -> tuple[pa.RecordBatch, pa.Array]:  # fmt: skip
        bad = np.array([int(row) in failed for row in self.rows], bool)
        good = mask & ~bad
        reasons = pa.array([failed.get(int(row)) for row in self.rows[mask]], pa.string())
        step = placed.step
        if not good.any():
            return nulls(step.writes, int(mask.sum()), pa.record_batch([], names=[]), {}), reasons
        assert isinstance(step, PictureStep)
        views = {view.name: pictures[view.name] if good.all() else pictures[view.name][good] for view in step.views}
        answer = _checked(placed, bench.opened(placed).look(self.inputs(placed, good), views), int(good.sum()))
        if (good == mask).all():
            return answer, reasons
        place = np.cumsum(good) - 1
        spread = pa.Table.from_batches([answer]).take(pa.array(place[mask], mask=~good[mask])).combine_chunks()
        return spread.to_batches()[0], reasons

    def inputs(self, placed: Placed, mask: Mask) -> pa.RecordBatch:
        columns = [self.column(placed, name, mask) for name in placed.step.reads]
        return pa.record_batch(columns, names=list(placed.step.reads))

    def column(self, placed: Placed, name: str, mask: Mask) -> pa.Array:
        if name == ROW:
            return pa.array(self.rows[mask], pa.int64())
        if placed.order == 0:
            return self._listed(name, mask)
        for other, answered, answer, _ in self.answers:
            if other.name == placed.sources.get(name):
                values = answer.column(name) if name in answer.schema.names else self._listed(name, answered)
                return self._overlaid(name, mask, answered, values)
        return self.loaded[name].filter(pa.array(mask)) if name in self.loaded else pa.nulls(int(mask.sum()))

    def _listed(self, name: str, mask: Mask) -> pa.Array:
        return self.loaded[f"listing {name}"].filter(pa.array(mask))

    def _overlaid(self, name: str, mask: Mask, answered: Mask, values: pa.Array) -> pa.Array:
        """What was just answered, and for the other rows what was on file."""
        place = np.cumsum(answered) - 1
        if bool((answered | ~mask).all()):
            return values.take(pa.array(place[mask]))
        before = self.loaded.get(name, pa.nulls(len(self.rows), values.type))
        place = np.where(answered, place, len(values) + np.arange(len(self.rows)))
        return pa.concat_arrays([values, before]).take(pa.array(place[mask]))


def _checked(placed: Placed, answer: pa.RecordBatch, count: int) -> pa.RecordBatch:
    if len(answer) != count or not answer.schema.equals(placed.step.writes):
        said = f"{placed.name} answered {len(answer)} rows of {answer.schema} to {count}"
        raise TypeError(f"{said}; it declares {placed.step.writes}")
    return answer


def write_part(store: Store, placed: Placed, table: pa.Table) -> Tally:
    """Finish some rows of one shard."""
    rows = table.column(ROW).to_numpy()
    if len(rows) > 1 and not bool((np.diff(rows) > 0).all()):
        table = table.take(pa.array(np.argsort(rows)))
    name = part_name(table.column(ROW).to_numpy(), given_in(table))
    store.write_table(f"{placed.folder}/{name}", table)
    return Tally.of(placed, name, table)


def compare(store: Store, placed: Placed, parts: Mapping[str, Parts], rows: Rows, reached: Callable[[int, int], None]) -> Tally:
    """A step that wants all rows at once, on these; its one part is finished when this returns."""
    step, frames = placed.step, Frames(store, parts, placed.sources)
    assert isinstance(step, WholeStep)
    step.fetch, step.reached = partial(_columns_of, frames), reached
    given = [name for name in step.reads if name not in step.asides]
    batch = pa.record_batch(_columns_of(frames, given, rows), names=given)
    step.setup()
    answer = _checked(placed, step.process(batch), len(rows))
    table = with_runner_columns(rows, np.zeros(len(rows), bool), pa.nulls(len(rows), pa.string()), answer)
    store.write_table(f"{placed.folder}/{WHOLE}", table)
    return Tally.of(placed, WHOLE, table)


def _columns_of(frames: Frames, columns: Sequence[str], rows: Rows) -> list[pa.Array]:
    """Columns for ascending rows of any shards; null where no step has written them."""
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns if name != ROW}
    for _, held in shards_of(rows):
        found = frames.read(chunks, held)
        for name, column in chunks.items():
            column.append(found[name] if name in found else pa.nulls(len(held)))
    return [_one_array(chunks.pop(name)) if name != ROW else pa.array(rows, pa.int64()) for name in columns]


def _one_array(chunks: list[pa.Array]) -> pa.Array:
    """Chunks put together; null ones take the type of the others."""
    kinds = {chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)}
    if kinds:
        (kind,) = kinds
        chunks = [chunk.cast(kind) if pa.types.is_null(chunk.type) else chunk for chunk in chunks]
    return pa.concat_arrays(chunks) if chunks else pa.nulls(0)
