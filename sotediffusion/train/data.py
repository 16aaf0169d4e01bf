"""Samples in large shards, one array per picture size and field, and the order in which a run sees them.

A data folder holds `NAME/<shard>-<width>x<height>.npy` per field (pictures as uint8 HWC, latents as float16 CHW) and
`tags/<shard>.jsonl` with one line a sample: its bucket, its row there and its tags by group.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sotediffusion.types import UserError

Key = tuple[int, ...]  # (seed, epoch, sample): all that the randomness of a sample may depend on


@dataclass
class Batch:
    """Samples of one size: what was read of them, their tags, and their keys."""

    keys: list[Key]
    tags: list[dict[str, list[str]]]
    fields: dict[str, Tensor] = field(default_factory=dict)
    whole: int | None = None  # samples of the step that these are one process's share of; None: they are all of it
    last: bool = True  # of this process's shares of the step
    void: bool = False  # stands in where there is nothing; it counts for nothing

    @property
    def size(self) -> int:
        return len(self.keys)

    def take(self, rows: list[int]) -> "Batch":
        """Only these samples, in this order."""
        fields = {name: values[rows] for name, values in self.fields.items()}
        return replace(self, keys=[self.keys[row] for row in rows], tags=[self.tags[row] for row in rows], fields=fields)


@dataclass(frozen=True)
class Entry:
    """Where one sample lies."""

    shard: str
    bucket: str  # "WIDTHxHEIGHT" in px
    row: int
    tags: dict[str, list[str]]


class Folder:
    """A data folder opened for reading; `fields` maps a batch's field to the sub-folder that holds its arrays."""

    def __init__(self, path: Path, fields: dict[str, str], limit: int | None = None):
        shards = sorted((path / "tags").glob("*.jsonl"))
        if not shards:
            raise UserError("data", f"{path} holds no pictures; make some with: sote train render --out {path}")
        self.path, self.fields = path, fields
        self.entries = [Entry(**json.loads(line)) for shard in shards for line in shard.read_text().splitlines()][:limit]
        self.buckets: dict[str, np.ndarray[Any, Any]] = {
            name: np.array([i for i, entry in enumerate(self.entries) if entry.bucket == name])
            for name in sorted({entry.bucket for entry in self.entries})
        }

    @property
    def identity(self) -> str:
        """A digest of what the pictures are, of the names of their shards and fields, and of how many there are."""
        drawing = self.path / "drawing.json"
        about = drawing.read_text() if drawing.is_file() else ""
        shards = sorted({entry.shard for entry in self.entries})
        return hashlib.blake2b(json.dumps([about, shards, self.fields, len(self)]).encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, indices: list[int], seed: int, epoch: int) -> Batch:
        """The samples with these numbers, all of one bucket."""
        entries = [self.entries[i] for i in indices]
        arrays = {
            name: np.stack([open_array(self.path / folder / f"{e.shard}-{e.bucket}.npy")[e.row] for e in entries])
            for name, folder in self.fields.items()
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Batch([(seed, epoch, i) for i in indices], [e.tags for e in entries], tensors)

    def batches(self, seed: int, images: int, size: int) -> Iterator[Batch]:
        """Batches for ever, from the first one that begins at or after image number `images` of the run."""
        epoch, done = divmod(images, len(self.entries))
        while True:
            position = 0
            for indices in order(self.buckets, seed, epoch, size):
                if position >= done:
                    yield self.read(indices, seed, epoch)
                position += len(indices)
            epoch, done = epoch + 1, 0


def order(buckets: dict[str, "np.ndarray[Any, Any]"], seed: int, epoch: int, size: int) -> list[list[int]]:
    """Every sample once, in batches of at most `size` samples of one bucket, shuffled by (seed, epoch)."""
    rng = np.random.default_rng((seed, epoch))
    batches: list[list[int]] = []
    for members in buckets.values():
        mixed = rng.permutation(members)
        batches += [mixed[i : i + size].tolist() for i in range(0, len(mixed), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@lru_cache(maxsize=4096)
def open_array(path: Path) -> "np.ndarray[Any, Any]":
    """A memory-mapped array. Raises UserError naming a missing or broken shard."""
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError("data", f"shard {path} cannot be read ({error}); delete it and render or encode again") from error
    return array


def pixels(pictures: Tensor) -> Tensor:
    """uint8 pictures (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float().div_(255)


@contextmanager
def prefetch(batches: Iterator[Batch], depth: int = 2) -> Iterator[Iterator[Batch]]:
    """Read ahead by `depth` batches in a thread that sleeps while the queue is full; an error comes out where it is awaited."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: Any) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.5)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for batch in batches:
                offer(batch)
                if closed.is_set():
                    return
        except Exception as error:
            offer(error)

    def take() -> Iterator[Batch]:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        closed.set()
        thread.join()
