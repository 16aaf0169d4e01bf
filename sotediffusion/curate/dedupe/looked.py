"""What a closer look at pairs of pictures found, kept by the hashes of their contents as soon as it is found.

No pair is looked at twice, whatever is killed, added or set otherwise meanwhile. In a catalogue each shard of pairs is a file of
its own, looked/VERSION/NAME.arrow: `one`, the better of the two, `other`, and the `kind` of finding. Of a picture that cannot be
opened `other` is null and `kind` the reason. One whose file could not be read, which says nothing of its content, is noted in
NAME-away.arrow, and opened again at the next run.
"""

import secrets
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.engine.store import Store

Array = np.ndarray[Any, Any]

FOLDER = "looked"
VERSION = 1  # raised when the same two pictures would be found to be something else
KINDS = ("other", "copy", "crop", "watermark", "variant")
UNKNOWN = -1
AWAY = "-away.arrow"  # ends the names of files about pictures that were out of reach
RETRIED = f"{FOLDER}/retried"  # how often findings about pictures that could not be opened were forgotten
WIDE = pa.large_string()  # hashes of 16 million pairs are more than the 2 GiB that an array of strings holds
SCHEMA = pa.schema([("one", pa.string()), ("other", pa.string()), ("kind", pa.string())])


class Away(str):
    """The reason for a picture whose file could not be read."""


class Looked:
    """Findings so far. Without a store they last as long as the process."""

    def __init__(self, store: Store | None = None):
        self.store = store
        self.tables: list[pa.Table] | None = None  # when they have been read
        self.bad: dict[str, str] = {}  # content -> why it could not be opened

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "tables": None, "bad": {}}

    def kinds_of(self, contents: pa.Array, pairs: Array) -> Array:
        """What each of the pairs (P, 2) of places in `contents` is, as a place in KINDS (P,) int8; UNKNOWN if never looked at."""
        known = self._known()
        found = np.full(len(pairs), UNKNOWN, np.int8)
        if not len(known) or not len(pairs):
            return found
        involved, at = np.unique(pairs, return_inverse=True)
        named = contents.take(pa.array(involved)).cast(WIDE)
        numbers = _numbers(pa.concat_arrays([named, *_chunks(known, "one"), *_chunks(known, "other")]))
        own, one, other = np.split(numbers, [len(named), len(named) + len(known)])
        held = _codes(one, other)
        order = np.argsort(held, kind="stable")
        wanted = _codes(*own[at.reshape(pairs.shape)].T)
        spot = order[np.minimum(np.searchsorted(held, wanted, sorter=order), len(held) - 1)]
        there = held[spot] == wanted
        kinds = np.asarray(pc.index_in(known.column("kind").combine_chunks(), pa.array(KINDS)))
        found[there] = kinds[spot[there]]
        return found

    def keep(self, contents: pa.Array, pairs: Array, kinds: Array, bad: Mapping[str, str]) -> None:
        """Remember what was found; on file when this returns. Pairs of kind UNKNOWN are not remembered.

        Which pictures were out of reach is only noted for `forget_failures`.
        """
        looked = kinds != UNKNOWN
        named = pa.array(KINDS).take(pa.array(kinds[looked]))
        one, other = (contents.take(pa.array(column[looked])).cast(pa.string()) for column in pairs.T)
        table = pa.Table.from_arrays([one, other, named], schema=SCHEMA)
        away = {content: reason for content, reason in bad.items() if isinstance(reason, Away)}
        table = pa.concat_tables([table, _failures({content: bad[content] for content in bad.keys() - away.keys()})])
        self._write(_failures(away), AWAY)
        self._write(table, ".arrow")
        self._take_in(table)

    def retried(self) -> int:
        """How often pictures that could not be opened were given another chance."""
        try:
            return int(self.store.read(RETRIED)) if self.store else 0
        except FileNotFoundError:
            return 0

    def _write(self, table: pa.Table, ending: str) -> None:
        if self.store is not None and len(table):
            self.store.write_table(f"{FOLDER}/{VERSION}/{secrets.token_hex(8)}{ending}", table)

    def read(self) -> None:
        """Take in what is on file, unless that has been done."""
        if self.tables is None:
            self.tables = []
            for name in _files(self.store) if self.store else []:
                if not name.endswith(AWAY):
                    self._take_in(self.store.read_table(name))  # type: ignore[union-attr]

    def _take_in(self, table: pa.Table) -> None:
        of_pairs = table.column("other").is_valid()
        failed = table.filter(pc.invert(of_pairs))
        self.bad |= dict(zip(failed.column("one").to_pylist(), failed.column("kind").to_pylist(), strict=True))
        assert self.tables is not None
        self.tables.append(table.filter(of_pairs))

    def _known(self) -> pa.Table:
        self.read()
        return pa.concat_tables([SCHEMA.empty_table(), *(self.tables or [])]).combine_chunks()


def forget_looked(store: Store, contents: Collection[str]) -> None:
    """Take everything about some contents out of the files."""
    for name in _files(store) if contents else []:
        table = store.read_table(name)
        gone = pa.array(sorted(contents), pa.string())
        about = pc.or_(pc.is_in(table.column("one"), gone), pc.is_in(table.column("other"), gone))
        if pc.any(about).as_py():
            store.write_table(name, table.filter(pc.invert(about)))


def forget_failures(store: Store, every: bool) -> None:
    """Let pictures that were out of reach be opened again, or `every` one that could not be opened: dedupe is then asked anew.

    Only for the holder of the run's lock.
    """
    files = [name for name in _files(store) if every or name.endswith(AWAY)]
    found = {name: table for name in files if pc.any(pc.is_null((table := store.read_table(name)).column("other"))).as_py()}
    if found:  # before anything is forgotten, so that a run killed in between is made good by the next
        store.write(RETRIED, str(Looked(store).retried() + 1).encode())
    for name, table in found.items():
        left = table.filter(pc.is_valid(table.column("other")))
        if len(left):
            store.write_table(name, left)
        else:
            store.remove(name)


def _failures(bad: Mapping[str, str]) -> pa.Table:
    return pa.Table.from_pylist([{"one": content, "other": None, "kind": str(reason)} for content, reason in bad.items()], SCHEMA)


def _files(store: Store) -> list[str]:
    folder = f"{FOLDER}/{VERSION}"
    return [f"{folder}/{name}" for name in store.names(folder)]


def _chunks(table: pa.Table, name: str) -> list[pa.Array]:
    return [chunk.cast(WIDE) for chunk in table.column(name).chunks]


def _numbers(contents: pa.Array) -> Array:
    """A number for each content, the same for the same."""
    return np.asarray(contents.dictionary_encode().indices, dtype=np.int64)


def _codes(one: Array, other: Array) -> Array:
    return one << 32 | other
