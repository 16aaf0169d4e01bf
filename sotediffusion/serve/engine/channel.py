"""What a supervisor and its worker tell each other: settings first, then short words, as JSON on a socket."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from sotediffusion.serve.engine.memory import EngineLimits

MOST = 2**18  # bytes of a message


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker process is told. Passwords in `jobs` and `shelf` go over the socket, never through a command line."""

    jobs: str  # the database, as `Database` takes it
    shelf: str  # where pictures lie, as `Shelf` takes it
    models: dict[str, str]  # name: where its weights lie
    loras: str = ""  # the folder of LoRA files, read anew for each job that names one
    dtype: str | None = None  # None: as stored
    device: str = "cpu"
    threads: int | None = None  # of a CPU; None: torch's own choice
    engine: EngineLimits = EngineLimits()
    drain: Literal["finish", "release"] = "finish"  # what becomes of running jobs when the worker is asked to end
    drain_s: float = 300.0  # after which what is not finished is released
    hung_s: float | None = None  # without a step, after which it is ended as hung; None: longer on a CPU
    lease_s: float = 30.0
    beat_s: float = 0.25  # between two heartbeats
    poll_s: float = 0.25  # between two looks into the queue, when nobody wakes the worker


class Channel:
    """One end of a socket that keeps messages whole."""

    def __init__(self, end: socket.socket):
        self.end = end
        self.open = True  # until the other end is gone

    def tell(self, word: str, **more: Any) -> None:
        """Send a message. One that nobody takes is no error: a dead end is seen when listening, a full one is not waited for."""
        with suppress(OSError):
            self.end.send(json.dumps({"say": word, **more}).encode(), socket.MSG_DONTWAIT)

    def hear(self, wait: bool) -> dict[str, Any] | None:
        """The next message; None where there is none, or none any more."""
        try:
            data = self.end.recv(MOST, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.open = bool(data)
        return json.loads(data) if data else None

    def close(self) -> None:
        self.end.close()


def pair() -> tuple[Channel, int]:
    """One end, and the number of the other, for a process that is about to start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs.detach()


def other_end(number: int) -> Channel:
    """The end that a started process was given the number of."""
    os.set_inheritable(number, False)
    return Channel(socket.socket(fileno=number))
