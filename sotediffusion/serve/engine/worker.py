"""The engine's own process: claims jobs, draws them together and writes their results. It may die at any moment."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sotediffusion.config import build
from sotediffusion.generate import DONE
from sotediffusion.names import unknown
from sotediffusion.serve.engine.channel import Channel, WorkerSettings, other_end
from sotediffusion.serve.engine.desk import Desk
from sotediffusion.serve.engine.engine import Engine, News
from sotediffusion.serve.engine.pulse import Held, Pulse
from sotediffusion.serve.engine.residents import Opener, Residents
from sotediffusion.serve.menu import loras_in
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, Progress, StoreDown, unpack
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError
from sotediffusion.weights.store import open_cascade

BACKLOG = 32  # things to be written, above which no job is taken in
ORPHANED_S = 30.0  # that a step may go on after the supervisor is gone
_SACRIFICE = "500"  # to oom_score_adj: a full machine ends a worker rather than its supervisor


def main(number: int, opener: Opener = open_cascade) -> None:
    """Work for the supervisor at the other end of socket `number`, until it asks to end or is gone."""
    channel = other_end(number)
    told = channel.hear(wait=True)
    if told is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor says what follows from it
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_SACRIFICE)
    settings = build(WorkerSettings, told["settings"])
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        worker = Worker(told["name"], settings, channel, opener)
        try:
            worker.run()
        finally:
            worker.desk.leaving.set()  # or the process would wait for it
    except BaseException as error:
        channel.tell("end", reason=f"{type(error).__name__}: {error}"[:1000])
        raise


class Worker:
    """One engine and the jobs it draws."""

    def __init__(self, name: str, settings: WorkerSettings, channel: Channel, opener: Opener = open_cascade):
        self.name, self.settings, self.channel = name, settings, channel
        self.store, self.shelf = JobStore(Database(settings.jobs)), Shelf(settings.shelf)
        places = {model: Path(place) for model, place in settings.models.items()}
        self.engine = Engine(Residents(places, settings.dtype, settings.device, opener), settings.engine)
        self.pulse = Pulse(self.store, name, settings.lease_s, settings.beat_s, self._alive)
        self.desk = Desk(self.store, self.shelf, self._ended)
        self.drawn: dict[str, Held] = {}  # what the engine draws; the pulse also holds what is being written
        self.ticks, self.looked = 0, 0.0
        self.woken, self.orphaned, self.draining = threading.Event(), threading.Event(), False

    def run(self) -> None:
        """Claim, draw and write until asked to end; then what is not finished is given back."""
        signal.signal(signal.SIGTERM, self._drain)
        threading.Thread(target=self._listen, name="ears", daemon=True).start()
        self.engine.residents.use(next(iter(self.settings.models)))
        self.pulse.start()
        self.channel.tell("ready")
        while not self.draining and not self.orphaned.is_set():
            self._claim()
            self._work()
        until = time.monotonic() + (self.settings.drain_s if self.settings.drain == "finish" else 0)
        while (self.drawn or self.desk.pending) and time.monotonic() < until and not self.orphaned.is_set():
            self._work()
        self._leave()

    def _work(self) -> None:
        """One tick, or a wait for something to do."""
        self.ticks += 1
        writing = self.desk.pending
        for held in [held for held in self.drawn.values() if held.over]:
            self._drop(held)
        if self.engine.idle:
            self.woken.wait(self.settings.beat_s / 10 if writing else self.settings.poll_s)
            return
        for news in self.engine.tick():
            self._carry(self.drawn[news.id], news)

    def _claim(self) -> None:
        """Take in what the engine has room for, when woken or when it is time to look."""
        now = time.monotonic()
        due = self.woken.is_set() or now - self.looked >= self.settings.poll_s
        if not due or self.engine.room < 1 or self.desk.pending > BACKLOG:
            return
        self.woken.clear()
        self.looked = now
        with suppress(StoreDown, UserError):
            for job in self.store.claim(self.name, list(self.settings.models), self.engine.room, self.settings.lease_s):
                self._begin(job)

    def _begin(self, job: Job) -> None:
        if job.id in self.drawn:  # it was lost, and is ours again before that was noticed
            self._drop(self.drawn[job.id])
        held = self.drawn[job.id] = self.pulse.hold(job.id, job.fence)
        try:
            init = job.request.get("init")
            request = unpack(job.request, self.shelf.read(init) if init else None)
            ours = replace(request, loras=self._files_of(job), embeddings=())  # no paths of callers
            self.engine.add(job.id, job.model, ours, job.owner)
        except UserError as error:
            self._fail(held, error)
        except OSError:
            self._fail(held, UserError("init", "the picture to start from cannot be read any more; send it again"))

    def _files_of(self, job: Job) -> tuple[tuple[str, float], ...]:
        """The LoRA files that a job names, and their weights."""
        known = loras_in(self.settings.loras) if job.loras else {}
        missing = next((lora["name"] for lora in job.loras if lora["name"] not in known), None)
        if missing is not None:
            raise unknown("loras", missing, known)
        return tuple((known[lora["name"]], lora["weight"]) for lora in job.loras)

    def _carry(self, held: Held, news: News) -> None:
        """Bring what a tick did to the desk, and how far it is to the pulse."""
        event = news.event
        if news.error is not None:
            return self._fail(held, news.error)
        if news.picture is not None:
            self.desk.shelve(held, news.picture)
        if event.preview is not None:
            self.desk.show(held, event.preview)
        held.progress = Progress(event.stage, event.step, event.steps, news.eta, held.preview)
        if event.stage == DONE:
            del self.drawn[held.id]
            self.desk.succeed(held)

    def _fail(self, held: Held, error: UserError) -> None:
        del self.drawn[held.id]
        self.desk.fail(held, error)

    def _drop(self, held: Held) -> None:
        """It was cancelled, expired, lost, or failed at the desk: its rows are free from this tick on."""
        del self.drawn[held.id]
        self.engine.cancel(held.id)
        self.desk.clear(held)

    def _ended(self, held: Held) -> None:
        self.pulse.let_go(held)
        self.channel.tell("ended", job=held.id)

    def _alive(self) -> None:
        self.channel.tell("alive", ticks=self.ticks, busy=not self.engine.idle)

    def _listen(self) -> None:
        """Hear the supervisor; when it is gone, end after the step that is being taken, or within it where it takes too long."""
        while self.channel.open:
            told = self.channel.hear(wait=True)
            if told is not None:
                self.draining = self.draining or told["say"] == "drain"
                self.woken.set()
        self.orphaned.set()
        self.woken.set()
        time.sleep(ORPHANED_S)
        os._exit(1)

    def _drain(self, *signal: Any) -> None:
        self.draining = True  # nothing with a lock: the main thread may hold it

    def _leave(self) -> None:
        """Write what is finished and give back the rest."""
        self.desk.close()
        self.pulse.stop()
        with suppress(StoreDown, UserError):
            self.store.release({held.id: held.fence for held in self.pulse.held.values()})
