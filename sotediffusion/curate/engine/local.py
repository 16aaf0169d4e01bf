"""Runs the stages of a chain on this machine.

A stage that looks at pictures gets them from decoding workers through shared memory, one model process a device; all other
steps run inside the workers. A worker's death costs the rows since its last write; a row that kills again is found and given up.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sotediffusion.curate.engine.looking import Looking
from sotediffusion.curate.engine.processes import KILLS, Died, Event, Luck, Means, Spare, Worker, end_hung, heard
from sotediffusion.curate.engine.shards import Parts, Placed, Rows, Tally
from sotediffusion.curate.engine.work import Stage, Task
from sotediffusion.curate.engine.worker import Hall
from sotediffusion.curate.step import WholeStep
from sotediffusion.types import UserError


@dataclass
class Attempt:
    """A task, how it is gone about, and how far it has come."""

    task: Task
    strikes: int = 0  # workers that it has cost
    fed: int = 0  # rows gone through
    written: int = 0  # rows of them that are finished

    def after_death(self) -> list["Attempt"]:
        """What to try next: the rest row by row, then the row it stopped at alone, which is given up if it kills again."""
        place = np.arange(len(self.task.rows))
        left = self.task.only(place >= self.written, self.task.number)
        if not len(left.rows):
            return []
        if self.task.give_up:
            raise UserError("workers", f"row {left.rows[0]} ends its worker even unopened, which is a fault of the first step")
        if self.strikes == 0:
            return [Attempt(left, 1)]
        if self.strikes == 2:
            left.give_up = KILLS
            return [Attempt(left)]
        parts = (place >= self.written) & (place < self.fed), place == self.fed, place > self.fed
        return [Attempt(self.task.only(part, self.task.number), strikes) for part, strikes in zip(parts, (0, 2, 0), strict=True)
                if part.any()]  # fmt: skip


class Local:
    """Runs stages in processes of this machine."""

    def __init__(self, means: Means):
        self.means, self.workers, self.spare = means, means.workers, Spare()

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *error: object) -> None:
        self.spare.end()

    def run(self, stage: Stage, tasks: Iterable[Task]) -> Iterator[Event]:
        """Do all tasks, in any order."""
        if stage.pictures:
            yield from Looking(self.means, self.spare, stage, tasks).run()
        else:
            yield from _Rows(self.means, self.spare, stage, tasks).run()

    def compare(self, placed: Placed, parts: dict[str, Parts], rows: Rows) -> Iterator[tuple[int, int] | Tally]:
        """Run a step that wants all rows at once, in a process of its own; see `runner.Executor`."""
        worker = self.spare.take().enter(Hall(self.means.store, self.means.source, Stage((placed,), "")))
        worker.job = placed
        try:
            worker.send(("compare", placed, parts, rows))
            while True:
                message = worker.receive()
                if message[0] == "reached":
                    yield message[1:]
                elif message[0] == "written":
                    tally: Tally = message[2][0]
                elif message[0] == "finished":
                    worker.job = None
                    yield tally
                    return
        except Died:
            assert isinstance(placed.step, WholeStep)
            said = f"{placed.name} {worker.end()} while it compared pictures, for want of memory most likely"
            raise UserError("workers", f"{said}; give the machine more{placed.step.otherwise}, and run again") from None
        finally:
            self.spare.give([worker])


class _Rows:
    """A stage without pictures from elsewhere: each worker does whole tasks."""

    def __init__(self, means: Means, spare: Spare, stage: Stage, tasks: Iterable[Task]):
        self.means, self.spare, self.stage = means, spare, stage
        self.most = min(means.workers, *(placed.step.workers or means.workers for placed in stage.steps))
        self.first = stage.steps[0].order == 0  # the one that opens files of strangers
        self.waiting = (Attempt(task) for task in tasks)
        self.again: deque[Attempt] = deque()
        self.workers: list[Worker] = []
        self.luck = Luck()

    def run(self) -> Iterator[Event]:
        try:
            while True:
                self.hand_out()
                if not any(worker.job for worker in self.workers):
                    return
                yield from self.hear()
        finally:
            self.spare.give(self.workers)

    def next(self) -> Attempt | None:
        return self.again.popleft() if self.again else next(self.waiting, None)

    def hand_out(self) -> None:
        idle = [worker for worker in self.workers if worker.job is None]
        while idle or len(self.workers) < self.most:
            attempt = self.next()
            if attempt is None:
                return
            worker = idle.pop() if idle else self.start()
            worker.job = attempt
            worker.send(("task", attempt.task, attempt.strikes > 0))

    def start(self) -> Worker:
        hall = Hall(self.means.store, self.means.source, self.stage)
        self.workers.append(self.spare.take(self.means.memory if self.first else 0).enter(hall))
        return self.workers[-1]

    def hear(self) -> Iterator[Event]:
        for worker in heard(self.workers):
            try:
                event = self.take(worker, worker.receive())
            except Died:
                self.bury(worker)
                continue
            if event is not None:
                yield event
        if self.first:
            end_hung(self.workers)

    def take(self, worker: Worker, message: Any) -> Event | None:
        attempt: Attempt = worker.job
        if message[0] == "fed":
            attempt.fed += message[1]
            fed: int = message[1]
            return fed
        if message[0] == "written":
            attempt.written = attempt.fed
            self.luck.success()
            tallies: list[Tally] = message[2]
            return tallies
        if message[0] == "finished":
            worker.job = None
        return None

    def bury(self, worker: Worker) -> None:
        self.workers.remove(worker)
        how = worker.end()
        self.luck.death(self.stage, how)
        attempt: Attempt | None = worker.job
        if attempt is not None:
            again = attempt.after_death()
            if any(next.task.give_up for next in again) and not self.first:
                raise UserError("workers", f"row {again[0].task.rows[0]} ends every worker of {self.stage.name} ({how}); "
                                "see `sote curate explain`, or leave the step out with --skip")  # fmt: skip
            self.again.extend(again)
