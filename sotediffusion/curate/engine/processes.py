"""Worker processes of this machine: spawned, never forked, talked to over a socket, watched."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, reduction
from typing import Any

from sotediffusion.curate.engine.shards import Tally
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.engine.work import Stage
from sotediffusion.curate.engine.worker import Hall
from sotediffusion.curate.step import Source
from sotediffusion.types import UserError

KILLS = "kills the decoder"
PATIENCE = 300.0  # seconds without a sign of life after which a worker on pictures counts as hung
UNLUCKY = 24  # deaths with nothing finished between that stop the run; one bad picture takes three

Event = int | list[Tally]  # rows gone through, or what was finished


@dataclass(frozen=True)
class Means:
    """What a machine may use."""

    store: Store
    source: Source
    workers: int
    memory: int = 0  # bytes that a worker which opens pictures may take; 0 for any
    devices: tuple[str | None, ...] = (None,)  # one model process on each: the number of a GPU, or None for what there is


class Died(Exception):
    """A worker process is gone."""


class Worker:
    """One process at the other end of a socket."""

    def __init__(self, memory: int = 0, device: str | None = None):
        """`memory`: bytes that it may take besides what Python takes; 0 for any. `device`: the one GPU it sees."""
        self.kind = (memory, device)
        ours, theirs = socket.socketpair()
        code = f"from sotediffusion.curate.engine.worker import serve; serve({theirs.fileno()}, {os.getpid()})"
        where = ["env", f"CUDA_VISIBLE_DEVICES={device}"] if device is not None else []
        command = [*where, sys.executable, "-c", code]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self.connection = connection.Connection(ours.detach())
        self.job: Any = None
        self.since = time.monotonic()
        self.send((list(sys.path), memory))

    def enter(self, hall: Hall, shared: int | None = None) -> "Worker":
        """Tell the process which stage it works on, and hand it the memory for pictures."""
        self.send(("stage", hall))
        if shared is not None:
            with suppress(OSError):
                reduction.send_handle(self.connection, shared, self.process.pid)
        return self

    def send(self, message: Any) -> None:
        """Raises nothing when the process is gone: its end is seen when it is read from."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionError):
            return
        self.since = time.monotonic()

    def receive(self) -> Any:
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # also where it ended in the middle of a word
            with suppress(subprocess.TimeoutExpired):  # the socket closes a moment before it is known how the process ended
                self.process.wait(5.0)
            raise Died from None
        self.since = time.monotonic()
        if message[0] == "user error":
            raise UserError(*message[1:])
        if message[0] == "error":
            raise RuntimeError(f"a step failed in its worker:\n{message[1]}")
        return message

    def end(self) -> str:
        """End the process; how it had ended, if it had."""
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.connection.close()
        return "was ended" if code is None else f"ended by signal {-code}" if code < 0 else f"ended with code {code}"


class Spare:
    """Processes between two stages: those that are idle at the end of one are taken up by the next."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    def take(self, memory: int = 0, device: str | None = None) -> Worker:
        for worker in self.workers:
            if worker.kind == (memory, device):
                self.workers.remove(worker)
                return worker
        return Worker(memory, device)

    def give(self, workers: list[Worker]) -> None:
        for worker in workers:
            if worker.job is None and worker.process.poll() is None:
                self.workers.append(worker)
            else:
                worker.end()

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()


@dataclass
class Luck:
    """Stops a run in which workers die and nothing gets finished."""

    limit: int = UNLUCKY
    deaths: int = 0

    def death(self, stage: Stage, how: str) -> None:
        self.deaths += 1
        if self.deaths >= self.limit:
            raise UserError("workers", f"{self.deaths} workers in a row died in {stage.name} (the last {how}) and finished "
                            "nothing; look for what kills them, memory first, then run the same command again")  # fmt: skip

    def success(self) -> None:
        self.deaths = 0


def heard(workers: list[Worker]) -> list[Worker]:
    """The workers that have something to say, after a wait of a second at most."""
    said = connection.wait([worker.connection for worker in workers], timeout=1.0)
    return [worker for worker in workers if worker.connection in said]


def end_hung(workers: list[Worker]) -> None:
    """Kill workers that have been silent for too long; their deaths are then seen like any other."""
    for worker in workers:
        if worker.job is not None and time.monotonic() - worker.since > PATIENCE:
            worker.process.kill()
