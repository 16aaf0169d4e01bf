"""A stage that looks at pictures, on one machine: decoding workers fill shared memory, one model process a device empties it."""

import mmap
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sotediffusion.curate.engine.processes import KILLS, Died, Event, Luck, Means, Spare, Worker, end_hung, heard
from sotediffusion.curate.engine.shards import Mask
from sotediffusion.curate.engine.work import Stage, Task
from sotediffusion.curate.engine.worker import Decode, Hall
from sotediffusion.types import UserError

SLOT = 48 * 2**20  # bytes of decoded views in one piece of shared memory, about
MOST_PICTURES = 32  # in one

@dataclass
class _Batch:
    """Some pictures of a task, one after the other."""

    number: int
    spots: slice
    strikes: int = 0

    def after_death(self) -> list["_Batch"]:
        """One by one, and the one that kills alone once more; none when it has killed twice so."""
        start, stop = self.spots.start, self.spots.stop
        if self.strikes == 0:
            return [_Batch(self.number, slice(at, at + 1), 1) for at in range(start, stop)]
        return [_Batch(self.number, self.spots, 2)] if self.strikes == 1 else []


@dataclass
class _Open:
    """A task that a model process has: what is still to come, and what it has finished."""

    task: Task
    model: Worker
    left: int
    looked: Mask
    written: Mask
    slots: set[int] = field(default_factory=set)


class Looking:
    """One run of a picture stage."""

    def __init__(self, means: Means, spare: Spare, stage: Stage, tasks: Iterable[Task]):
        self.means, self.spare, self.stage = means, spare, stage
        self.waiting, self.again = iter(tasks), deque[Task]()
        plain = Hall(means.store, means.source, stage, 0, 1)
        batch = int(min(max(SLOT // plain.slot_bytes, 1), MOST_PICTURES))
        self.hall = Hall(means.store, means.source, stage, means.workers + 2 * len(means.devices), batch)
        self.free = list(range(self.hall.slots))
        self.batches: deque[_Batch] = deque()
        self.opened: dict[int, _Open] = {}
        self.decoders: list[Worker] = []
        self.models: list[Worker] = []
        self.luck, self.model_luck = Luck(), Luck(3)
        self.numbers = 0

    def run(self) -> Iterator[Event]:
        self.shared = _shared(self.hall.slots * self.hall.slot_bytes)
        try:
            while True:
                self.open_tasks()
                if not self.opened:
                    return
                self.hand_out()
                yield from self.hear()
        finally:
            busy = [held.model for held in self.opened.values()]
            for model in self.models:
                model.job = model if model in busy else None
            self.spare.give(self.decoders + self.models)
            os.close(self.shared)

    def open_tasks(self) -> None:
        """Keep more pictures waiting than the decoders can take at once."""
        while len(self.batches) <= self.means.workers:
            task = self.again.popleft() if self.again else next(self.waiting, None)
            if task is None:
                return
            self.numbers += 1
            task = task.only(np.ones(len(task.rows), bool), self.numbers)
            model = self.a_model()
            none = np.zeros(len(task.rows), bool)
            self.opened[task.number] = _Open(task, model, len(task.rows), none, none.copy())
            model.send(("open", task))
            starts = range(0, len(task.rows), self.hall.batch)
            self.batches.extend(_Batch(task.number, slice(at, min(at + self.hall.batch, len(task.rows)))) for at in starts)

    def a_model(self) -> Worker:
        """A process for a device that has none yet, else the one with the fewest tasks."""
        busy = {model.kind[1] for model in self.models}
        if free := [device for device in self.means.devices if device not in busy]:
            self.models.append(self.spare.take(0, free[0]).enter(self.hall, self.shared))
            return self.models[-1]
        return min(self.models, key=lambda model: sum(held.model is model for held in self.opened.values()))

    def hand_out(self) -> None:
        idle = [worker for worker in self.decoders if worker.job is None]
        while self.batches and self.free and (idle or len(self.decoders) < self.means.workers):
            batch = self.batches.popleft()
            held = self.opened.get(batch.number)
            if held is None:
                continue
            if not idle:
                self.decoders.append(self.spare.take(self.means.memory).enter(self.hall, self.shared))
                idle.append(self.decoders[-1])
            worker, slot = idle.pop(), self.free.pop()
            worker.job = (batch, slot)
            worker.send(("decode", Decode(held.task.rows[batch.spots], held.task.files[self.stage.path_step], slot)))

    def hear(self) -> Iterator[Event]:
        for worker in heard(self.decoders + self.models):
            try:
                message = worker.receive()
            except Died:
                self.bury(worker)
                continue
            event = self.take(worker, message)
            if event is not None:
                yield event
        end_hung(self.decoders)

    def take(self, worker: Worker, message: Any) -> Event | None:
        kind, *rest = message
        if kind == "decoded":
            batch, slot = worker.job
            worker.job = None
            self.luck.success()
            self.look(batch, slot, rest[0])
        elif kind == "looked":
            return self.looked(*rest)
        elif kind == "written":
            number, tallies = rest
            held = self.opened[number]
            held.written = held.looked.copy()
            self.model_luck.success()
            return list(tallies)
        elif kind == "finished":
            del self.opened[rest[0]]
        return None

    def look(self, batch: _Batch, slot: int | None, failed: dict[int, str]) -> None:
        held = self.opened.get(batch.number)
        if held is None:  # its model process died meanwhile
            if slot is not None:
                self.free.append(slot)
            return
        if slot is not None:
            held.slots.add(slot)
        held.model.send(("look", batch.number, batch.spots, slot, failed))

    def looked(self, number: int, spots: slice, slot: int | None) -> int:
        held = self.opened[number]
        if slot is not None:
            held.slots.discard(slot)
            self.free.append(slot)
        held.looked[spots] = True
        held.left -= spots.stop - spots.start
        if held.left == 0:
            held.model.send(("close", number))
        return int(spots.stop - spots.start)

    def bury(self, worker: Worker) -> None:
        how = worker.end()
        if worker in self.models:
            self.models.remove(worker)
            self.model_luck.death(self.stage, how)
            for number, held in list(self.opened.items()):
                if held.model is worker:
                    del self.opened[number]
                    self.free.extend(held.slots)
                    if not held.written.all():
                        self.again.append(held.task.only(~held.written, 0))
            return
        self.decoders.remove(worker)
        self.luck.death(self.stage, how)
        if worker.job is not None:
            batch, slot = worker.job
            self.free.append(slot)
            again = batch.after_death()
            self.batches.extendleft(reversed(again))
            if not again and batch.number in self.opened:
                row = self.opened[batch.number].task.rows[batch.spots][0]
                self.look(batch, None, {int(row): KILLS})


def _shared(size: int) -> int:
    """Memory without a name, gone with the last process that has it."""
    handle = os.memfd_create("pictures")
    try:
        os.posix_fallocate(handle, 0, max(size, mmap.PAGESIZE))
    except OSError as error:
        os.close(handle)
        wanted = f"{size >> 20} MiB of shared memory cannot be had ({error.strerror})"
        raise UserError("workers", f"{wanted}; take fewer --workers") from None
    return handle
