"""Which steps have what work, in which order it is done, and what has come of it so far.

Finished work is found in the catalogue's files alone. A row is worked on by a step when no finished part under the step's
fingerprint covers it and no earlier step dropped it; whether it was dropped is no part of the fingerprint, so that a moved
threshold only brings work for the rows that come back. What a comparison of all pictures says is asked row by row, so that one
more picture brings work for itself and for those of which something else is said now.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.engine.processes import Event
from sotediffusion.curate.engine.progress import Progress, Watch
from sotediffusion.curate.engine.shards import (
    ERASED,
    POLICY,
    ROW,
    WORK,
    Given,
    Mask,
    Parts,
    Placed,
    Rows,
    Tally,
    erase,
    find_parts,
    fingerprint,
    given_in,
    hashes_of,
    parts_of,
    tally_columns,
)
from sotediffusion.curate.engine.shards import KEPT as CONTENT
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.engine.work import Stage, Task
from sotediffusion.curate.scan.known import load_known, match, shards_of
from sotediffusion.curate.step import LISTING, PictureStep, Source, Step, WholeStep

EACH_ROW = "of each row"  # for a fingerprint: what is asked row by row instead
MIX = np.uint64(0x9E3779B97F4A7C15)  # by which the hashes of several columns become one; any large odd number will do
KEPT = np.int16(32767)  # in Ledger.dropped_by: no step drops the row
TASKS_EACH = 4  # tasks that a worker gets at least, where there are pictures enough
SMALLEST, LARGEST = 16, 2048  # rows of a task


class Executor(Protocol):
    """Where stages run."""

    workers: int

    def run(self, stage: Stage, tasks: Iterable[Task]) -> Iterator[Event]:
        """Do all tasks, in any order; yields rows gone through and tallies of what is finished."""

    def compare(self, placed: Placed, parts: dict[str, Parts], rows: Rows) -> Iterator[tuple[int, int] | Tally]:
        """Run a step that wants all rows at once; yields how many pictures it has opened of how many, and at last its tally."""


@dataclass
class Ledger:
    """What is known of every row, as arrays by row number."""

    present: Mask  # its file is in the source
    erased: Mask
    dropped_by: "np.ndarray[Any, np.dtype[np.int16]]"  # place in the chain of the first step that drops it, or KEPT
    covered: dict[str, Mask] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, present: Mask, erased: Mask) -> "Ledger":
        return cls(present, erased, np.full(len(present), KEPT, np.int16))

    def add(self, placed: Placed, tally: Tally) -> None:
        self.covered[placed.name][tally.rows] = True
        self.erased[tally.erased] = True
        self.reasons.setdefault(POLICY, Counter())[POLICY] = int(self.erased.sum())
        self.dropped_by[tally.dropped] = np.minimum(self.dropped_by[tally.dropped], placed.order)
        self.reasons[placed.name].update(tally.reasons)

    def wanted(self, placed: Placed) -> Mask:
        """Rows that a step answers for, finished or not."""
        here = self.present & ~self.erased
        return here if placed.step.sees_dropped else here & (self.dropped_by >= placed.order)

    def left(self, placed: Placed) -> Mask:
        """Rows that a step has work on."""
        return self.wanted(placed) & ~self.covered[placed.name]


def stages_of(steps: list[Step]) -> list[list[Step]]:
    """A chain cut into stages: row steps go together, and so do picture steps with the steps that may erase after them."""
    stages: list[list[Step]] = []
    for step in steps:
        before = stages[-1][-1] if stages else None
        if before is not None and _goes_with(stages[-1], before, step):
            stages[-1].append(step)
        else:
            stages.append([step])
    return stages


def _goes_with(stage: list[Step], before: Step, step: Step) -> bool:
    """Steps that look at pictures go together though only one needs a GPU: decoding twice costs more than a GPU that waits."""
    if any(isinstance(one, WholeStep) or one.workers for one in (before, step)):
        return False
    if isinstance(step, PictureStep):
        return isinstance(before, PictureStep)
    if isinstance(stage[0], PictureStep):
        return step.erases
    return before.gpus in (0, step.gpus)


class Chain:
    """Steps in order, placed one after the other as the fingerprints before them become known."""

    def __init__(self, steps: list[Step]):
        self.steps = steps
        self.placed: dict[str, Placed] = {}
        self.writers: dict[str, str] = {}

    @property
    def first(self) -> Placed:
        return self.placed[self.steps[0].name]

    def place(self, step: Step, rows: str = "") -> Placed:
        """`rows` is a digest of what a step that compares all pictures is given."""
        sources = {column: self.writers[column] for column in step.reads if column in self.writers}
        inputs = {c: self._input(sources[c]) if c in sources else "" for c in step.reads if c != ROW}
        order = self.steps.index(step)
        if order == 0:
            sources, inputs = {}, {}
        compared = () if isinstance(step, WholeStep) else self.compared(step)
        placed = Placed(step, order, fingerprint(step, inputs, rows), sources, compared)
        written = [*step.writes.names, *(LISTING.names if order == 0 else ())]
        twice = [column for column in written if column in self.writers]
        assert not twice and step.name not in self.placed, f"{step.name} writes {twice} once more"
        self.placed[step.name] = placed
        self.writers |= dict.fromkeys(written, step.name)
        return placed


    def _input(self, writer: str) -> str:
        return EACH_ROW if isinstance(self.placed[writer].step, WholeStep) else self.placed[writer].fingerprint

    def compared(self, step: Step) -> tuple[str, ...]:
        """The columns of comparisons of all pictures that a step reads, or that what it reads comes of."""
        found: set[str] = set()
        for column in step.reads:
            writer = self.placed.get(self.writers.get(column, ""))
            if writer is not None:
                found |= {column} if isinstance(writer.step, WholeStep) else set(writer.compared)
        return tuple(sorted(found))


class Runner:
    """One run of a chain over a source into a catalogue's files."""

    def __init__(self, store: Store, steps: list[Step], executor: Executor, report: Callable[[Progress], None] = lambda _: None):
        self.store, self.executor = store, executor
        self.ledger = Ledger.of(np.zeros(0, bool), np.zeros(0, bool))
        self.chain = Chain(steps)
        self.parts: dict[str, Parts] = {}
        self.given: dict[tuple[str, ...], Given] = {}  # by columns of comparisons
        self.worked: set[str] = set()  # names of steps that have finished something in this run
        self.gone = np.zeros(0, bool)  # rows that no file says anything of any more
        self.compared: Mask | None = None  # rows that were erased when pictures were first compared
        self.watch = Watch(report)

    def run(self, source: Source, secret: bytes) -> Ledger:
        """Do all that is left to do. The parts of `self.parts` then hold every column of every row.

        Where a step erases pictures that had been compared with others, the chain is gone through once more without them.
        """
        self.take_in(source, secret)
        while not self.walk() or len(self.former()):
            self.chain, self.given = Chain(self.chain.steps), {}
            self.ledger = Ledger.of(self.ledger.present, self.ledger.erased)
        return self.ledger

    def take_in(self, source: Source, secret: bytes) -> None:
        """Look at what is in the source."""
        first = Chain(self.chain.steps).place(self.chain.steps[0])
        self.watch.say("listing")
        known = load_known(self.store, first.name)
        covered = np.zeros(known.end, bool)
        covered[known.rows_of.get(first.fingerprint, np.empty(0, np.int64))] = True
        covered[known.erased] = True
        self.listed = match(iter(source.listing()), known, covered, secret)
        present, erased = np.zeros(self.listed.end, bool), np.zeros(self.listed.end, bool)
        present[: len(self.listed.present)] = self.listed.present
        present[self.listed.held] = True
        erased[known.erased] = True
        self.ledger, self.gone = Ledger.of(present, erased), np.zeros(self.listed.end, bool)

    def walk(self) -> bool:
        """Go through the chain; False where something was erased behind a step that compares, which has to be asked again."""
        stages, self.compared = stages_of(self.chain.steps), None
        for number, steps in enumerate(stages):
            self.watch.stage(number, len(stages), "+".join(step.name for step in steps))
            if self.compared is None and isinstance(steps[0], WholeStep):
                self.compared = self.ledger.erased.copy()
            self.do_stage([self.place(step) for step in steps])
            if number == 0:
                self.ledger.erased[self.former()] = True
                self.erase(self.chain.first)
            if self.upset():
                return False
        return True

    def upset(self) -> bool:
        """Whether pictures were compared that are erased now; what was said of them is gone, too."""
        return self.compared is not None and not (self.compared == self.ledger.erased).all()

    def former(self) -> Rows:
        """Rows of files that are gone, whose content is refused in another row: a changed sidecar gives its picture a new row."""
        gone, refused = np.flatnonzero(~self.ledger.present & ~self.ledger.erased), np.flatnonzero(self.ledger.erased)
        if not len(gone) or not len(refused):
            return gone[:0]
        same: Rows = gone[pc.is_in(self.contents(gone), self.contents(refused), skip_nulls=True).to_numpy(zero_copy_only=False)]
        return same

    def contents(self, rows: Rows) -> pa.Array:
        """The hash of each row's content, which even a refused one keeps; null where there is none."""
        found = [pa.nulls(0, pa.string())]
        for _, held in shards_of(rows):
            table, _ = self.parts[self.chain.first.name].gather(self.store, [CONTENT], held)
            known = CONTENT in table.schema.names
            found.append(table.column(CONTENT).combine_chunks() if known else pa.nulls(len(held), pa.string()))
        return pa.concat_arrays(found)

    def place(self, step: Step) -> Placed:
        return self.chain.place(step, self.digest(step) if isinstance(step, WholeStep) else "")

    def digest(self, step: Step) -> str:
        """Of the rows that are left at this point of the chain, and of what an earlier comparison says of them."""
        rows, compared = self.alive(), self.chain.compared(step)
        return hashlib.sha256(rows.tobytes() + (self.said(compared)[rows].tobytes() if compared else b"")).hexdigest()

    def said(self, compared: tuple[str, ...]) -> Given:
        """A hash of what columns of comparisons say of each row; the same 0 for all of which they say nothing."""
        if compared not in self.given:
            said = np.zeros(len(self.ledger.present), np.uint64)
            for column in compared:
                parts = self.parts[self.chain.writers[column]]
                for name in (f"{parts.folder}/{name}" for name in parts.all_names()):
                    table = self.store.read_table(name, [ROW, column])
                    rows = table.column(ROW).to_numpy()
                    said[rows] = said[rows] * MIX + hashes_of(table.column(column))
            self.given[compared] = said
        return self.given[compared]

    def alive(self) -> Rows:
        kept = self.ledger.present & ~self.ledger.erased & (self.ledger.dropped_by == KEPT)
        return np.flatnonzero(kept).astype(np.int64)

    def do_stage(self, steps: list[Placed]) -> None:
        first = self.chain.first
        for placed in steps:
            self.load(placed)
        self.erase(first)
        if self.upset():
            return
        if isinstance(steps[0].step, WholeStep):
            self.do_whole(steps[0])
            return
        stage = Stage(tuple(steps), first.name)
        looking = np.logical_or.reduce([self.ledger.left(placed) for placed in steps if isinstance(placed.step, PictureStep)]) \
            if stage.pictures else np.zeros(len(self.ledger.present), bool)  # fmt: skip
        try:
            self.do_rows(stage, looking)
            plain = Stage(tuple(placed for placed in steps if not isinstance(placed.step, PictureStep)), first.name)
            if plain.steps:
                self.do_rows(plain, np.logical_or.reduce([self.ledger.left(placed) for placed in plain.steps]))
        finally:
            self.erase(first)

    def do_rows(self, stage: Stage, where: Mask) -> None:
        rows = np.flatnonzero(where).astype(np.int64)
        self.watch.work(len(rows), self.ledger.reasons)
        if not len(rows):
            return
        by_name = {placed.name: placed for placed in stage.steps}
        for event in self.executor.run(stage, self.tasks(stage, rows)):
            if isinstance(event, int):
                self.watch.fed(event)
                continue
            for tally in event:
                self.add(by_name[tally.step], tally)
        self.watch.show()

    def tasks(self, stage: Stage, rows: Rows) -> Iterator[Task]:
        most = int(np.clip(-(-len(rows) // (self.executor.workers * TASKS_EACH)), SMALLEST, LARGEST))
        needed = {step for placed in stage.steps for step in placed.sources.values()} | {placed.name for placed in stage.steps}
        if stage.pictures:
            needed.add(stage.path_step)
        left = {placed.name: self.ledger.left(placed) for placed in stage.steps}
        number = 0
        for shard, held in shards_of(rows):
            for start in range(0, len(held), most):
                part, number = held[start : start + most], number + 1
                todo = {name: mask[part] for name, mask in left.items()}
                files = {step: self.parts[step].of(shard) for step in needed}
                given = {step: found for step in needed if (found := self.parts[step].given_to(part)) is not None}
                listing = self.listed.of(part) if stage.steps[0].order == 0 else None
                yield Task(number, part, todo, files, listing, given=given)

    def do_whole(self, placed: Placed) -> None:
        rows = self.alive()
        self.watch.work(0, self.ledger.reasons)
        if len(rows) and not self.parts[placed.name].whole:
            inputs = {step: self.parts[step] for step in placed.sources.values()}
            for event in self.executor.compare(placed, inputs, rows):
                if isinstance(event, Tally):
                    self.add(placed, event)
                else:
                    self.watch.reached(*event)
        self.watch.show()

    def load(self, placed: Placed) -> None:
        """Take in what earlier runs have finished."""
        given = self.said(placed.compared) if placed.compared else None
        parts = self.parts[placed.name] = find_parts(self.store, placed, given)
        covered = self.ledger.covered[placed.name] = np.zeros(len(self.ledger.present), bool)
        self.ledger.reasons[placed.name] = Counter()
        for name in parts.all_names():
            table = self.store.read_table(f"{parts.folder}/{name}", tally_columns(placed))
            if given is not None:  # what is erased stays so, whatever is said now
                as_given = pa.array(given[table.column(ROW).to_numpy()] == given_in(table))
                table = table.filter(pc.or_(table.column(ERASED), as_given))
            again = covered[table.column(ROW).to_numpy()]
            if again.any():  # written by a worker that was killed before it could say so, then once more
                table = table.filter(pa.array(~again))
            self.ledger.add(placed, Tally.of(placed, name, table))

    def add(self, placed: Placed, tally: Tally) -> None:
        self.worked.add(placed.name)
        self.parts[placed.name].add(tally.name)
        self.ledger.add(placed, tally)

    def erase(self, first: Placed) -> None:
        """Take everything but a hash of the content of refused pictures out of every file; the first step's files come last.

        Whether a row is erased is on file in the part of the step that refused it, so a killed run is made good by the next.
        """
        rows = np.flatnonzero(self.ledger.erased & ~self.gone).astype(np.int64)
        said = rows[~self.erased_at_first(first, rows)]
        if len(said):
            erase_rows(self.store, said, first.name)
        self.gone[rows] = True

    def erased_at_first(self, first: Placed, rows: Rows) -> Mask:
        """Of which rows no part of the first step, under any fingerprint, says more than that they are erased."""
        by_shard, held, said = dict(shards_of(rows)), np.zeros(len(self.gone), bool), np.zeros(len(self.gone), bool)
        for shard, name in parts_of(self.store, first.name):
            if shard in by_shard:
                table = self.store.read_table(name, [ROW, ERASED])
                erased = table.column(ERASED).to_numpy(zero_copy_only=False)
                here = table.column(ROW).to_numpy()
                held[here[erased]] = True
                said[here[~erased]] = True
        return held[rows] & ~said[rows]


def erase_rows(store: Store, rows: Rows, last: str) -> None:
    """Rewrite every part of every step, under any fingerprint, that says something of these rows; the step `last` at the end.

    What compared them with others is removed: it may name them in what it says of others, and has to be done again anyway.
    """
    by_shard = dict(shards_of(rows))
    for step in sorted(store.names(WORK), key=lambda name: name == last):
        for shard, name in parts_of(store, step):
            if shard is None:
                store.remove(name)
            elif shard in by_shard:
                _erase_in(store, name, by_shard[shard])


def _erase_in(store: Store, name: str, rows: Rows) -> None:
    where = np.isin(store.read_table(name, [ROW]).column(ROW).to_numpy(), rows)
    if where.any():
        table = store.read_table(name)
        if not table.column(ERASED).filter(pa.array(where)).to_numpy(zero_copy_only=False).all():
            store.write_table(name, erase(table, where))

