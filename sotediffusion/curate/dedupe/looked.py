"""What a closer look at pairs of pictures found, kept by the hashes of their contents as soon as it is found.

No pair is looked at twice, whatever is killed, added or set otherwise meanwhile. In a catalogue each shard of pairs is a file of
its own, looked/VERSION/NAME.arrow: `one`, the better of the two, `other`, and the `kind` of finding. Of a picture that cannot be
opened `other` is null and `kind` the reason.
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
WIDE = pa.large_string()  # hashes of 16 million pairs are more than the 2 GiB that an array of strings holds
SCHEMA = pa.schema([("one", pa.string()), ("other", pa.string()), ("kind", pa.string())])


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
        """Remember what was found; on file when this returns. Pairs of kind UNKNOWN are not remembered."""
        looked = kinds != UNKNOWN
        named = pa.array(KINDS).take(pa.array(kinds[looked]))
        one, other = (contents.take(pa.array(column[looked])).cast(pa.string()) for column in pairs.T)
        table = pa.Table.from_arrays([one, other, named], schema=SCHEMA)
        failed = [{"one": content, "other": None, "kind": reason} for content, reason in bad.items()]
        table = pa.concat_tables([table, pa.Table.from_pylist(failed, SCHEMA)])
        if self.store is not None and len(table):
            self.store.write_table(f"{FOLDER}/{VERSION}/{secrets.token_hex(8)}.arrow", table)
        self._take_in(table)

    def read(self) -> None:
        """Take in what is on file, unless that has been done."""
        if self.tables is None:
            self.tables = []
            for name in _files(self.store) if self.store else []:
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
