"""One writer at a time: a second run on the same catalogue is refused, a killed one's lock does not stay behind."""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

LOCK = "run.lock"
WORKERS_LOCK = "workers.lock"  # held shared by every worker, so that a later run waits for the last one of a killed run
ORPHANS = 30.0  # seconds that workers of a killed run get to end
STALE = 120.0  # seconds after which a lock in an object store that is not renewed counts as left behind
RENEW = 20.0  # seconds
TRIES = 3  # to take a lock that others let go of, or left behind, in the same moment


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Hold the catalogue for as long as the block runs. UserError where another run holds it."""
    if store.remote:
        with _remote(store):
            yield
        return
    try:
        os.makedirs(store.root, exist_ok=True)
        lock = open(store.path(LOCK), "a+b")
    except OSError as error:
        raise UserError("out", f"{store.place} cannot be written ({error.strerror}); choose another place") from None
    with lock:
        if not _try(lock, fcntl.LOCK_EX):
            raise _held(store, store.read(LOCK))
        lock.truncate(0)
        lock.write(_said())
        lock.flush()
        _wait_for_orphans(store)
        yield


def join_workers(store: Store) -> Any:
    """A worker's share in the lock; the system lets go of it when the process ends."""
    lock = open(store.path(WORKERS_LOCK), "ab")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _try(file: Any, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_orphans(store: Store) -> None:
    end = time.monotonic() + ORPHANS
    with open(store.path(WORKERS_LOCK), "ab") as lock:
        while not _try(lock, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise UserError("out", f"workers of an earlier run still write to {store.place}; end them and run again")
            time.sleep(0.1)


def _said() -> bytes:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": now}).encode()


def _held(store: Store, said: bytes) -> UserError:
    try:
        about = json.loads(said)
        who = f"process {about['process']} on {about['host']} since {about['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return UserError("out", f"{who} is writing to {store.place}; wait for it or stop it, then run the same command again")


@contextmanager
def _remote(store: Store) -> Iterator[None]:
    """An object that only one can create, renewed by a thread while it is held; who finds another's there writes no more."""
    import threading

    token, done = secrets.token_hex(8), threading.Event()

    def content() -> bytes:
        return json.dumps(json.loads(_said()) | {"token": token, "renewed": time.time()}).encode()

    def is_ours() -> bool:
        with suppress(FileNotFoundError):
            return token.encode() in store.read(LOCK)
        return False

    def renew() -> None:
        while not done.wait(RENEW):
            with suppress(UserError):  # a store that does not answer may answer the next time
                store.taken = store.taken or not is_ours()
                if store.taken:
                    return
                store.write(LOCK, content())

    _take(store, content)
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if is_ours():
            store.remove(LOCK)


def _take(store: Store, content: Callable[[], bytes]) -> None:
    for _ in range(TRIES):
        if store.create(LOCK, content()):
            return
        try:
            found = store.read(LOCK)
        except FileNotFoundError:  # its holder has just left
            continue
        if time.time() - _renewed(found) < STALE:
            raise _held(store, found)
        store.remove(LOCK)
    raise _held(store, b"")


def _renewed(said: bytes) -> float:
    try:
        return float(json.loads(said)["renewed"])
    except (ValueError, KeyError, TypeError):
        return 0.0
