"""What lies in a catalogue: how much of each step is on file, and who is writing to it now."""

import fcntl
import json
from dataclasses import dataclass

import numpy as np

from sotediffusion.curate.catalogue import versions
from sotediffusion.curate.engine.lock import LOCK
from sotediffusion.curate.engine.shards import ROW, WORK
from sotediffusion.curate.engine.store import Store


@dataclass(frozen=True)
class Held:
    """The finished work of one step under one fingerprint."""

    step: str
    fingerprint: str
    parts: int
    rows: int
    used: bool  # by the latest version


def held_work(store: Store) -> list[Held]:
    """All finished work, by step."""
    known = versions(store)
    used = {f"{step} {state.split()[0]}" for version in known[-1:] for step, state in version.states.items()}
    found = []
    for step in store.names(WORK):
        for fingerprint in store.names(f"{WORK}/{step}"):
            names = store.names(f"{WORK}/{step}/{fingerprint}")
            held = [store.read_table(f"{WORK}/{step}/{fingerprint}/{name}", [ROW]).column(ROW).to_numpy() for name in names]
            rows = len(np.unique(np.concatenate(held))) if held else 0
            found.append(Held(step, fingerprint, len(names), rows, f"{step} {fingerprint}" in used))
    return found


def writer_of(store: Store) -> str | None:
    """Who holds the lock, as a sentence; None if nobody does."""
    try:
        if not store.remote:
            with open(store.path(LOCK), "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                except BlockingIOError:
                    pass
        about = json.loads(store.read(LOCK))
        return f"process {about['process']} on {about['host']} is writing to it since {about['since']}"
    except (OSError, ValueError, KeyError):
        return None
