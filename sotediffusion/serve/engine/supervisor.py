"""The one that stays: starts the worker process, watches it, tells the store of its deaths and starts the next.

It loads no torch and draws nothing. `tick` never waits, so that whoever serves clients can call it a few times a second.
"""

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sotediffusion.config import plain
from sotediffusion.serve.engine.channel import Channel, WorkerSettings, pair
from sotediffusion.serve.storage.jobs import StoreDown
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError

HUNG_S = {"cpu": 3600.0}  # where nothing else is said; one forward of a full batch of large pictures takes long there
STABLE_S = 60.0  # a worker that lived so long, or ended a job, was a good one: the next starts at once again


class Process(Protocol):
    """What is asked of a started process; `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""

    def send_signal(self, signal: int) -> None:
        """Nothing where it is gone."""

    def kill(self) -> None:
        """End it at once."""


def spawn(number: int) -> Process:
    """A worker process at the other end of socket `number`."""
    code = f"from sotediffusion.serve.engine.worker import main; main({number})"
    return subprocess.Popen([sys.executable, "-c", code], pass_fds=[number], stdin=subprocess.DEVNULL)


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits before a restart."""

    first_s: float = 0.5  # after a first death; doubled with every further one
    most_s: float = 60.0


@dataclass
class Child:
    """A worker process, and what it said last."""

    name: str
    process: Process
    channel: Channel
    started: float
    ready: bool = False
    ticks: int = -1
    moved: float = 0.0  # when its steps last went on, or nothing was to be done
    last_words: str = ""


@dataclass
class Supervisor:
    """Watches one worker. `trouble` is why the last one ended, until the next has shown itself good; `on_ended` hears of jobs."""

    settings: WorkerSettings
    store: JobStore
    patience: Patience = Patience()
    start: Callable[[int], Process] = spawn
    on_ended: Callable[[str], None] = lambda job: None
    clock: Callable[[], float] = time.monotonic
    child: Child | None = None
    trouble: str = ""
    deaths: int = 0  # since one that was good
    due: float = float("-inf")  # when the next one starts, by the clock
    stopping: bool = False
    _unburied: list[tuple[str, str]] = field(default_factory=list)

    @property
    def hung_s(self) -> float:
        """How long a worker may take for a step, or to get ready, before it counts as hung."""
        return self.settings.hung_s or HUNG_S.get(self.settings.device, 900.0)

    @property
    def ready(self) -> bool:
        """Whether a worker is there with its first model open."""
        child = self.child  # it may go meanwhile: who asks is another thread, here and in what follows
        return child is not None and child.ready

    def wake(self) -> None:
        """There is a new job: it need not wait until the worker looks."""
        child = self.child
        if child is not None:
            child.channel.tell("wake")

    def tick(self) -> None:
        """See what has happened and do what is due."""
        now = self.clock()
        self._bury()
        if self.child is not None:
            self._watch(self.child, now)
        elif not self.stopping and now >= self.due and not self._unburied:
            self._start(now)

    def stop(self) -> None:
        """Ask the worker to finish or release its jobs, as its settings say, and to end; `over` says when it has."""
        self.stopping = True
        child = self.child
        if child is not None:
            child.channel.tell("drain")
            child.process.send_signal(signal.SIGTERM)  # also where it does not listen yet

    @property
    def over(self) -> bool:
        """Whether all is stopped and told."""
        return self.stopping and self.child is None and not self._unburied

    def listen(self, seconds: float) -> None:
        """Wait until the worker says something, but no longer than so many seconds."""
        child = self.child
        if child is None or not child.channel.open:
            time.sleep(seconds)
        else:
            poll = select.poll()  # select() knows no descriptor above 1023
            poll.register(child.channel.end, select.POLLIN)
            poll.poll(seconds * 1000)

    def kill(self) -> None:
        """End the worker at once, if it is still there."""
        child = self.child
        if child is not None:
            child.process.kill()

    def _start(self, now: float) -> None:
        name = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        channel, number = pair()
        try:
            process = self.start(number)
        finally:
            os.close(number)
        channel.tell("settings", name=name, settings=plain(self.settings))
        self.child = Child(name, process, channel, now, moved=now)
        if self.stopping:  # said while it started, and so to nobody
            self.stop()

    def _watch(self, child: Child, now: float) -> None:
        while (told := child.channel.hear(wait=False)) is not None:
            self._hear(child, told, now)
        if now - child.started > STABLE_S and child.ready:
            self._good()
        code = child.process.poll()
        if code is None and now - child.moved > self.hung_s:
            child.last_words = f"it took no step for {self.hung_s:.0f} s"
            child.process.kill()
        elif code is not None:
            while (told := child.channel.hear(wait=False)) is not None:
                self._hear(child, told, now)
            self._died(child, code, now)

    def _hear(self, child: Child, told: dict[str, Any], now: float) -> None:
        if told["say"] == "ready":
            child.ready, child.moved = True, now
        elif told["say"] == "alive":
            if told["ticks"] != child.ticks or not told["busy"]:
                child.ticks, child.moved = told["ticks"], now
        elif told["say"] == "ended":
            self._good()
            self.on_ended(told["job"])
        elif told["say"] == "end":
            child.last_words = told["reason"]

    def _died(self, child: Child, code: int, now: float) -> None:
        child.channel.close()
        self.child = None
        if code == 0 and child.ready:  # it was asked to end and has given back what it had
            self.due = now
            return
        how = f"was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"ended with code {code}"
        reason = f"the worker that drew it {how}" + (f": {child.last_words}" if child.last_words else "")
        self.trouble = reason
        self._unburied.append((child.name, reason))
        self.due = now + min(self.patience.first_s * 2**self.deaths, self.patience.most_s)
        self.deaths += 1
        self._bury()

    def _bury(self) -> None:
        """Tell the store of deaths, so that what ran then goes back to the queue; again where it does not answer now."""
        with suppress(StoreDown, UserError):
            while self._unburied:
                self.store.suspects(*self._unburied[0])
                del self._unburied[0]

    def _good(self) -> None:
        self.deaths, self.trouble = 0, ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
