"""All pairs of 256-bit hashes within a Hamming radius, exactly: multi-index hashing (Norouzi, Punjani, Fleet 2012).

Two hashes within radius r of each other, cut into m chunks, agree in at least one chunk up to r // m bits. So each chunk in turn
sorts the hashes into buckets, and only what shares a bucket (or, for a reach of 1, is one flipped bit away) is compared. The
bits are permuted first, always the same way: neighbouring bits of a picture's hash agree too often to spread over buckets.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sotediffusion.curate.dedupe import hamming
from sotediffusion.curate.dedupe.phash import BITS, BYTES

Array = np.ndarray[Any, Any]

EXACT_RADIUS = 12  # up to here chunks must agree in every bit; beyond it, in all but one
MAX_RADIUS = 40  # the number of buckets to look into grows past use beyond it
_SEED = 20240306  # of the permutation; any will do, and no result depends on it
_BUFFER = 1 << 17  # pairs a thread gathers before it hands them over
_KEY_BITS = 24  # more buckets than this cost more to walk than they save


class Pairs(NamedTuple):
    """Pairs of rows with one < other: int32, int32, and uint8 bits of difference."""

    one: Array
    other: Array
    distance: Array


@dataclass(frozen=True)
class Plan:
    """How hashes are searched: the (shift, bits) of each chunk's key, and how many bits of a key may differ."""

    chunks: tuple[tuple[int, int], ...]
    reach: int


def plan(count: int, radius: int) -> Plan:
    """Chunks for `count` hashes: r + 1 that agree wholly, or half as many that agree in all but one bit."""
    reach = 0 if radius <= EXACT_RADIUS else 1
    number = radius // (reach + 1) + 1
    edges = [BITS * c // number for c in range(number + 1)]
    most = min(_KEY_BITS, max(8, count.bit_length() + (1 if reach else -1)))
    return Plan(tuple((a, min(b - a, most)) for a, b in zip(edges, edges[1:], strict=False)), reach)


def distinct(hashes: Array) -> tuple[Array, Array]:
    """The rows (U,) that hold a hash for the first time, and for each row (N,) the number of its hash among those.

    `hashes` (N, 32) uint8. int32 both; first rows ascend.
    """
    if not len(hashes):
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    words = np.ascontiguousarray(hashes).view(np.uint64)
    bits = np.uint64(len(hashes).bit_length())
    mixes = hamming.mixed(words, bits)
    mixes.sort()
    first = hamming.first_equal(words, mixes, bits)
    is_first = first == np.arange(len(hashes), dtype=np.int32)
    number = np.cumsum(is_first, dtype=np.int32) - 1
    return np.flatnonzero(is_first).astype(np.int32), number[first]


def near_pairs(hashes: Array, radius: int, threads: int | None = None) -> Pairs:
    """All pairs of rows of `hashes` (N, 32) uint8 that differ in at most `radius` bits, in no particular order.

    Hand over distinct hashes (see `distinct`): k equal ones are k^2 / 2 pairs. ValueError for a radius not in 0 .. MAX_RADIUS.
    """
    blocks = list(pair_blocks(hashes, radius, threads))
    if not blocks:
        return Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8))
    return Pairs(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def pair_blocks(hashes: Array, radius: int, threads: int | None = None) -> Iterator[Pairs]:
    """The pairs of `near_pairs`, block by block as they are found, so that they need not all be held at once."""
    if hashes.ndim != 2 or hashes.shape[1] != BYTES or hashes.dtype != np.uint8:
        raise ValueError(f"hashes are {hashes.dtype} {hashes.shape}; wanted are uint8 (N, {BYTES})")
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"a radius of {radius} bits is not searched; take 0 to {MAX_RADIUS}")
    if len(hashes) < 2:
        return
    threads = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        yield from _Search(pool, threads, hashes, radius).blocks()


class _Search:
    """The buffers of one search; chunks use them one after the other."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int, hashes: Array, radius: int):
        self.pool, self.threads, self.radius = pool, threads, radius
        self.count = len(hashes)
        self.plan = plan(self.count, radius)
        self.rows = _cut(self.count, threads)
        self.hashes = np.empty((self.count, hamming.WORDS), np.uint64)
        table = _byte_table(np.random.default_rng(_SEED).permutation(BITS))
        self.each(partial(hamming.permute, hashes, table, self.hashes), self.rows)
        self.high = min(max(self.count.bit_length() - 13, 1), 11)  # key bits; what shares them fits into a core's cache
        self.moved = (np.empty_like(self.hashes), np.empty(self.count, np.int32))
        self.words: tuple[Array, ...] = ()

    def each(self, work: Callable[[Any], Any], items: Any) -> None:
        """Do the work on all threads and wait."""
        for _ in self.pool.map(work, items):
            pass

    def blocks(self) -> Iterator[Pairs]:
        chunks = np.array(self.plan.chunks, np.int64)
        for current, (shift, bits) in enumerate(self.plan.chunks):
            low = (shift, bits - self.high)
            edges = self.move((shift + bits - self.high, self.high))
            search = (chunks, current, np.uint64(self.radius), np.uint64(self.plan.reach))
            if self.plan.reach:
                bucketed = self.sort(low, edges)
                starts, flips = bucketed[2], bits
                join: Callable[..., int] = partial(hamming.join, bucketed, search)
            else:
                starts, flips = edges, 0
                join = partial(hamming.join_parts, (self.moved, edges), low, search)
            gather = partial(_gathered, join, flips, max(_BUFFER, int(np.diff(starts).max())))
            for found in self.pool.map(gather, _even(starts, 16 * self.threads)):
                yield from found

    def move(self, high: tuple[int, int]) -> Array:
        """Put all hashes into partitions by the high bits of a key; the first place of each, and the end."""
        counts = np.zeros((self.threads, 1 << high[1]), np.int64)
        numbered = list(enumerate(self.rows))
        self.each(lambda task: hamming.count_high(self.hashes, high, counts[task[0]], task[1]), numbered)
        ends = np.cumsum(counts.T.ravel()).reshape(counts.T.shape)
        places = np.ascontiguousarray((ends - counts.T).T)
        edges = np.append(places[0], self.count)
        self.each(lambda t: hamming.move_high(self.hashes, high, places[t[0]], self.moved, t[1]), numbered)
        return edges

    def sort(self, low: tuple[int, int], edges: Array) -> tuple[tuple[Array, ...], Array, Array]:
        """Put all hashes into the order of their keys: words, rows and the first place of every bucket, and the end."""
        if not self.words:
            self.words = tuple(np.empty(self.count, np.uint64) for _ in range(hamming.WORDS))
            self.sorted_rows = np.empty(self.count, np.int32)
        starts = np.empty(((len(edges) - 1) << low[1]) + 1, np.int32)
        starts[0] = 0
        bucketed = (self.words, self.sorted_rows, starts)
        self.each(lambda part: hamming.sort_low(self.moved, low, edges, bucketed, part), _even(edges, 4 * self.threads))
        return bucketed


def _gathered(join: Callable[..., int], flips: int, room: int, part: tuple[int, int]) -> list[Pairs]:
    """All pairs of a part, a buffer of `room` after the other."""
    state = np.array([0, 0 if flips == 0 else part[0], 0, part[0]], np.int64)
    buffers = Pairs(np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.uint8))
    found = []
    while state[0] <= flips:
        count = join(part, state, tuple(buffers), 0)
        if count:
            found.append(Pairs(*(buffer[:count].copy() for buffer in buffers)))
    return found


def _cut(count: int, parts: int) -> list[tuple[int, int]]:
    edges = [count * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:], strict=False))


def _even(starts: Array, parts: int) -> list[tuple[int, int]]:
    """Ranges of buckets that hold about the same number of hashes each."""
    wanted = [int(starts[-1]) * part // parts for part in range(1, parts)]
    edges = [0, *np.searchsorted(starts[:-1], wanted).tolist(), len(starts) - 1]
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if a < b]


def _byte_table(places: Array) -> Array:
    """(32, 256, W) uint64: the permuted bits that each value of each byte sets; bit k goes to places[k]."""
    table = np.zeros((BYTES, 256, hamming.WORDS), np.uint64)
    for bit, place in enumerate(places.tolist()):
        on = (np.arange(256) >> (bit % 8)) & 1
        table[bit // 8, :, place // 64] |= on.astype(np.uint64) << np.uint64(place % 64)
    return table
