"""Starts a command as several processes that find each other, as torchrun does on one machine, and sees to it that all end."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

PATIENCE = 20.0  # seconds that the others are given after one has failed
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of one that was told to stop, which is no failure
PR_SET_PDEATHSIG = 1  # of prctl(2)


def launch(count: int, arguments: list[str]) -> int:
    """Run `sote ARGUMENTS` as `count` processes; the exit code of the first that failed, 0 where none did.

    SIGTERM and Ctrl-C are handed on, and each process gets SIGTERM should this one die, so that they save and leave.
    """
    port = _free_port()
    children = [_start(number, count, port, arguments) for number in range(count)]
    earlier = {wanted: signal.signal(wanted, lambda number, frame: _tell(children, number))
               for wanted in (signal.SIGTERM, signal.SIGINT)}  # fmt: skip
    try:
        return _watch(children)
    finally:
        for wanted, handler in earlier.items():
            signal.signal(wanted, handler)


def _start(number: int, count: int, port: int, arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count),
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    command = [sys.executable, "-m", "sotediffusion.cli.main", *arguments]
    quiet: dict[str, Any] = {} if number == 0 else {"stdout": subprocess.DEVNULL}
    # In sessions of their own: what is sent to this whole group is handed on as well, and a second signal kills without saving.
    return subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent, start_new_session=True, **quiet)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _tell(children: "list[subprocess.Popen[bytes]]", number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _watch(children: "list[subprocess.Popen[bytes]]") -> int:
    """Wait for all; once one has failed the others, which may wait for it for ever, are ended."""
    deadline = None
    while any(child.poll() is None for child in children):
        time.sleep(0.1)
        failed = any(child.returncode not in (None, 0, *STOPPED) for child in children)
        if failed and deadline is None:
            deadline = time.monotonic() + PATIENCE
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
    codes = [child.wait() for child in children]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)
