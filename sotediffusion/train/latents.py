"""Latents kept in large shards, each found by what it was made of: the picture's bytes, its cut, EffNet's weights.

A shard is an array file `<bucket>-<name>.npy` and, written after it, its index `<bucket>-<name>.arrow`: a shard is there exactly
when its index is. Names follow from content, so several processes may write to one place, local or an object store.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sotediffusion.buckets import Fits
from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

ABOUT = "latents.json"
HEAD = "shard"  # in the metadata of an index
KEY = ("content", "more", "sizes", "cut")  # the four numbers that tell what a latent was made of

Keys = NDArray[np.uint64]  # (N, 4)
Places = NDArray[np.int64]  # (N,): shard << 32 | row, -1 for none
Latents = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """An array file as its index tells of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int  # of the first row in the file, bytes
    checks: NDArray[np.uint32]  # CRC-32 of each row

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        return self.start + self.shape[0] * self.row_bytes


def keys_of(content: Keys, fits: Fits, mirrored: NDArray[np.bool_]) -> Keys:
    """What latents of pictures with these hashes (N, 2), fits (N, 6), mirrored or not, are kept under."""
    values = fits.astype(np.uint64)
    sizes = values[:, 0] << np.uint64(48) | values[:, 1] << np.uint64(32) | values[:, 2] << np.uint64(16) | values[:, 3]
    cut = values[:, 4] << np.uint64(32) | values[:, 5] << np.uint64(1) | mirrored.astype(np.uint64)
    return np.stack([content[:, 0], content[:, 1], sizes, cut], 1)


class LatentCache:
    """A place for latents of one EffNet. `about` says how they are made; a place of others is refused."""

    def __init__(self, place: str, about: dict[str, Any]):
        self.store = Store(place)
        self.about = about
        if not check_place(place, about):
            self.store.write(ABOUT, json.dumps(about).encode())
        self.shards: list[Shard] = []
        self._arrays: dict[int, Latents] = {}

    def find(self, keys: Keys) -> Places:
        """Where the latents with these keys are, of all that was written until now.

        Raises UserError naming the shards that are damaged.
        """
        known, places = self._index()
        order = np.argsort(known_marks := _marks(known))
        known_marks = known_marks[order]
        at = np.searchsorted(known_marks, wanted := _marks(keys))
        at[at == len(known)] = 0
        if not len(known):
            return np.full(len(keys), -1)
        there = (known_marks[at] == wanted) & (known[order[at]] == keys).all(1)
        return np.where(there, places[order[at]], -1)

    def read(self, places: Places) -> list[Latents | None]:
        """Latents (C, h, w), None for one whose bytes are not those that were written; `name` tells where it should be."""
        rows = [(int(place) >> 32, int(place) & (2**32 - 1)) for place in places]
        found = self._remote(rows) if self.store.remote else [self._local(number, row) for number, row in rows]
        checks = (self.shards[number].checks[row] for number, row in rows)
        return [latent if zlib.crc32(latent.data) == check else None for latent, check in zip(found, checks, strict=True)]

    def name(self, place: int) -> str:
        """The shard and row of a place."""
        return f"{self.shards[place >> 32].name}.npy, row {place & (2**32 - 1)}"

    def write(self, keys: Keys, latents: Latents) -> None:
        """Keep latents (N, C, h, w) of one bucket as a shard."""
        height, width = latents.shape[2:]
        name = f"{width}x{height}-{hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()}"
        latents = np.ascontiguousarray(latents)
        file = BytesIO()
        np.lib.format.write_array(file, latents)
        head = {"shape": latents.shape, "dtype": str(latents.dtype), "start": file.tell() - latents.nbytes}
        checks = pa.array([zlib.crc32(row.data) for row in latents], pa.uint32())
        columns = {key: pa.array(keys[:, i]) for i, key in enumerate(KEY)} | {"check": checks}
        self.store.write(f"{name}.npy", file.getbuffer())
        self.store.write_table(f"{name}.arrow", pa.table(columns).replace_schema_metadata({HEAD: json.dumps(head)}))

    def _index(self) -> tuple[Keys, Places]:
        """The keys of all shards and where each is; the sizes of the array files are checked on the way."""
        self.shards, self._arrays = [], {}
        keys, places = [np.empty((0, 4), np.uint64)], [np.empty(0, np.int64)]
        sizes, broken = self._sizes(), []
        for name in sorted(name.removesuffix(".arrow") for name in sizes if name.endswith(".arrow")):
            table = self.store.read_table(f"{name}.arrow")
            head = json.loads(table.schema.metadata[HEAD.encode()])
            shard = Shard(name, tuple(head["shape"]), head["dtype"], head["start"], table.column("check").to_numpy())
            if sizes.get(f"{name}.npy") != shard.bytes:
                broken.append(f"{name}.npy ({sizes.get(f'{name}.npy', 0)} bytes, not {shard.bytes})")
            keys.append(np.stack([table.column(key).to_numpy() for key in KEY], 1))
            places.append(np.arange(len(table)) | len(self.shards) << 32)
            self.shards.append(shard)
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            raise UserError("cache", f"{self.store.place} has damaged shards: {', '.join(broken[:3])}{more}; delete them with "
                                     "their .arrow files and run again, then only their pictures are encoded again")  # fmt: skip
        return np.concatenate(keys), np.concatenate(places)

    def _sizes(self) -> dict[str, int]:
        from sotediffusion.curate.engine.shelves import Folder
        from sotediffusion.curate.engine.shelves import Store as Bucket

        shelf = Bucket(self.store.root) if self.store.remote else Folder(self.store.root)
        return {item.name: item.size for item in shelf.items("") if not item.name.startswith(".")}

    def _local(self, number: int, row: int) -> Latents:
        array = self._arrays.get(number)
        if array is None:
            shard = self.shards[number]
            path = self.store.path(f"{shard.name}.npy")
            array = np.asarray(np.memmap(path, shard.dtype, "r", shard.start, shard.shape))
            self._arrays[number] = array
        return array[row].copy()

    def _remote(self, rows: list[tuple[int, int]]) -> list[Latents]:
        """Of an object store the rows themselves are asked for, side by side."""
        shards = [self.shards[number] for number, _ in rows]
        starts = [shard.start + row * shard.row_bytes for shard, (_, row) in zip(shards, rows, strict=True)]
        paths = [self.store.path(f"{shard.name}.npy") for shard in shards]
        ends = [start + shard.row_bytes for start, shard in zip(starts, shards, strict=True)]
        parts = self.store.files[0].cat_ranges(paths, starts, ends)
        return [np.frombuffer(data, shard.dtype).reshape(shard.shape[1:]) for data, shard in zip(parts, shards, strict=True)]


def check_place(place: str, about: dict[str, Any]) -> bool:
    """Whether latents are kept there. UserError: they are made otherwise than `about` says."""
    store = Store(place)
    if not store.exists(ABOUT):
        return False
    found = json.loads(store.read(ABOUT))
    if found != about:
        pairs = ((key, found.get(key), value) for key, value in about.items())
        differing = [f"{key} {theirs} and not {ours}" for key, theirs, ours in pairs if theirs != ours]
        raise UserError("cache", f"{store.place} holds latents made with {', '.join(differing) or found}; give another place "
                                 "with data.cache, or delete it")  # fmt: skip
    return True


def firsts(keys: Keys) -> NDArray[np.int64]:
    """Where each key (N, 4) stands for the first time, in order."""
    return np.sort(np.unique(_marks(keys), return_index=True)[1])


def _marks(keys: Keys) -> NDArray[np.uint64]:
    """One number (N,) for each key, mixed as SplitMix64 does, so that equal ones stand for equal keys all but surely."""
    mark = np.zeros(len(keys), np.uint64)
    for column in keys.T:
        mark = (mark ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        mark = (mark ^ mark >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        mark ^= mark >> np.uint64(31)
    return mark
