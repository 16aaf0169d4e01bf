"""Compiled loops for 256-bit hashes: permute the bits, sort by a chunk of them, compare what shares a bucket.

N hashes, W = 4 words of 64 bits, K bits in a key. A key is a run of bits of the permuted hash, given by (shift, K): bits
shift .. shift + K - 1. Every function releases the interpreter's lock, so threads share the work; see neighbours.py.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

WORDS = 4
DENSE = 6  # candidates a hash from which on sorting, and then comparing by vectors, is faster
_ONE = np.uint64(1)
_WORD = np.uint64(64)


def _popcount(typing: Any, word: Any) -> Any:
    """Bits set in a 64-bit word: one instruction, which also exists for vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@njit(cache=True, nogil=True)
def mixed(words: Array, bits: Any) -> Array:
    """For each hash (N, W) a word (N,): its row in the low `bits`, above them the hash, spread so that others hardly ever agree.

    The spreading is the finaliser of splitmix64. Sorted, equal hashes lie side by side in the order of their rows.
    """
    out = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        value = np.uint64(0)
        for w in range(WORDS):
            value = (value ^ words[row, w]) + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
        out[row] = (value << bits) | np.uint64(row)
    return out


@njit(cache=True, nogil=True)
def first_equal(words: Array, mixes: Array, bits: Any) -> Array:
    """The first row (N,) with each row's hash, by the sorted words of `mixed`."""
    first = np.empty(len(words), np.int32)
    low = (_ONE << bits) - _ONE
    start = 0
    while start < len(mixes):
        end = start + 1
        while end < len(mixes) and mixes[end] >> bits == mixes[start] >> bits:
            end += 1
        for place in range(start, end):
            row = np.int32(mixes[place] & low)
            first[row] = row
            for before in range(start, place):  # one step, unless different hashes were spread to the same place
                earlier = np.int32(mixes[before] & low)
                if _same(words, row, earlier):
                    first[row] = first[earlier]
                    break
        start = end
    return first


@njit(cache=True, nogil=True)
def _same(words: Array, one: Any, other: Any) -> bool:
    for w in range(WORDS):
        if words[one, w] != words[other, w]:
            return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _key(hashes: Array, row: int, shift: int, bits: int) -> Any:
    word, low = shift >> 6, np.uint64(shift & 63)
    value = hashes[row, word] >> low
    if low + np.uint64(bits) > _WORD:
        value |= hashes[row, word + 1] << (_WORD - low)
    return np.int64(value & ((_ONE << np.uint64(bits)) - _ONE))


@njit(cache=True, nogil=True)
def permute(hashes: Array, table: Array, out: Array, part: Any) -> None:
    """Write the permuted hashes of the rows first .. end - 1 of part to out; table (32, 256, W) holds each byte's share."""
    for i in range(part[0], part[1]):
        w0 = w1 = w2 = w3 = np.uint64(0)
        for place in range(32):
            share = table[place, hashes[i, place]]
            w0 |= share[0]
            w1 |= share[1]
            w2 |= share[2]
            w3 |= share[3]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = w0, w1, w2, w3


@njit(cache=True, nogil=True)
def count_high(hashes: Array, high: Any, counts: Array, part: Any) -> None:
    """counts[p] += 1 for each hash of the part whose `high` key bits are p."""
    for row in range(part[0], part[1]):
        counts[_key(hashes, row, high[0], high[1])] += 1


@njit(cache=True, nogil=True)
def move_high(hashes: Array, high: Any, places: Array, moved: Any, part: Any) -> None:
    """Move each hash of the part, with its row number, to the next of the places of its `high` key bits."""
    out, rows = moved
    for row in range(part[0], part[1]):
        key = _key(hashes, row, high[0], high[1])
        place = places[key]
        places[key] += 1
        rows[place] = row
        for w in range(WORDS):
            out[place, w] = hashes[row, w]


@njit(cache=True, nogil=True)
def _sort_low(moved: Any, low: Any, span: Any, bucketed: Any, base: int) -> None:
    """Sort the moved hashes of the span by their `low` key bits, to the places from `base`; `ends` of every bucket."""
    hashes, from_rows = moved
    words, rows, ends = bucketed
    w0, w1, w2, w3 = words
    ends[:] = 0
    for i in range(span[0], span[1]):
        ends[_key(hashes, i, low[0], low[1])] += 1
    place = np.int32(base)
    for key in range(len(ends)):  # each becomes where its bucket starts, and below where it ends
        place, ends[key] = place + ends[key], place
    for i in range(span[0], span[1]):
        key = _key(hashes, i, low[0], low[1])
        place = ends[key]
        ends[key] += 1
        rows[place] = from_rows[i]
        w0[place], w1[place], w2[place], w3[place] = hashes[i, 0], hashes[i, 1], hashes[i, 2], hashes[i, 3]


@njit(cache=True, nogil=True)
def sort_low(moved: Any, low: Any, edges: Array, bucketed: Any, part: Any) -> None:
    """Sort each of the partitions `part` by its low key bits: into W words (N,) and rows, `starts` of every bucket."""
    words, rows, starts = bucketed
    size = 1 << low[1]
    for high in range(part[0], part[1]):
        ends = starts[high * size + 1 : (high + 1) * size + 1]
        _sort_low(moved, low, (edges[high], edges[high + 1]), (words, rows, ends), edges[high])


@njit(cache=True, nogil=True)
def count_near(words: Any, i: int, first: int, end: int, radius: np.uint64) -> Any:
    """How many of the places first .. end - 1 are within the radius of place i; unsigned places let it compile to vectors."""
    w0, w1, w2, w3 = words
    a, b, c, d = w0[i], w1[i], w2[i], w3[i]
    hits = np.uint64(0)
    for k in range(np.uint64(first), np.uint64(end)):
        bits = popcount(a ^ w0[k]) + popcount(b ^ w1[k]) + popcount(c ^ w2[k]) + popcount(d ^ w3[k])
        hits += np.uint64(bits <= radius)
    return np.int64(hits)


@njit(cache=True, nogil=True, inline="always")
def _seen_before(difference: Any, chunks: Array, before: int, reach: np.uint64) -> bool:
    """Whether the pair met in an earlier chunk already."""
    for c in range(before):
        shift, bits = chunks[c]
        word, low = shift >> 6, np.uint64(shift & 63)
        value = difference[word] >> low
        if low + np.uint64(bits) > _WORD:
            value |= difference[word + 1] << (_WORD - low)
        if popcount(value & ((_ONE << np.uint64(bits)) - _ONE)) <= reach:
            return True
    return False


@njit(cache=True, nogil=True)
def _emit(bucketed: Any, search: Any, i: int, span: Any, pairs: Any, count: int) -> int:
    """Write the pairs of place i with the places of the span that are within the radius and first met in this chunk."""
    words, rows, _ = bucketed
    w0, w1, w2, w3 = words
    chunks, current, radius, reach = search
    one, other, distance = pairs
    for k in range(span[0], span[1]):
        difference = (w0[i] ^ w0[k], w1[i] ^ w1[k], w2[i] ^ w2[k], w3[i] ^ w3[k])
        bits = popcount(difference[0]) + popcount(difference[1]) + popcount(difference[2]) + popcount(difference[3])
        if bits <= radius and not _seen_before(difference, chunks, current, reach):
            one[count], other[count] = min(rows[i], rows[k]), max(rows[i], rows[k])
            distance[count] = bits
            count += 1
    return count


@njit(cache=True, nogil=True)
def join(bucketed: Any, search: Any, part: Any, state: Array, pairs: Any, count: int) -> int:
    """Compare what shares a bucket of the part, and for a reach of 1 what is one flipped key bit away; the number of pairs.

    They come after the `count` that are there. Stops when the buffers of `pairs` are full; `state` (flip, bucket, place) says
    where to go on, flip = K + 1 (for a reach of 0: 1) when all is done.
    """
    words, _, starts = bucketed
    chunks, current, radius, reach = search
    flips = np.int64(chunks[current, 1]) if reach else 0
    for flip in range(state[0], flips + 1):
        mask = (1 << flip) >> 1
        for bucket in range(state[1], part[1]):
            if bucket & mask:
                continue
            end = starts[bucket + 1]
            for i in range(max(starts[bucket], state[2]), end):
                first, last = (starts[bucket + mask], starts[bucket + mask + 1]) if flip else (i + 1, end)
                if first == last:
                    continue
                hits = count_near(words, i, first, last, radius)
                if count + hits > pairs[2].size:
                    state[0], state[1], state[2] = flip, bucket, i
                    return count
                if hits:
                    count = _emit(bucketed, search, i, (first, last), pairs, count)
        state[1], state[2] = part[0], 0
    state[0] = flips + 1
    return count


@njit(cache=True, nogil=True)
def _candidates(hashes: Array, low: Any, span: Any, counts: Array) -> Any:
    """How many pairs of the span share a bucket."""
    counts[:] = 0
    pairs = np.int64(0)
    for i in range(span[0], span[1]):
        key = _key(hashes, i, low[0], low[1])
        pairs += counts[key]
        counts[key] += 1
    return pairs


@njit(cache=True, nogil=True)
def _join_sparse(moved: Any, low: Any, search: Any, span: Any, chains: Any, pairs: Any, count: int) -> int:
    """`join` of a partition whose buckets hold few hashes, unsorted: each is compared with those of its bucket before it."""
    hashes, rows = moved
    chunks, current, radius, reach = search
    last, before = chains  # of each bucket the last hash; of each hash the one before it in its bucket, -1 for none
    one, other, distance = pairs
    last[:] = -1
    for i in range(span[0], span[1]):
        a, b, c, d = hashes[i, 0], hashes[i, 1], hashes[i, 2], hashes[i, 3]
        key = _key(hashes, i, low[0], low[1])
        k = last[key]
        before[i - span[0]], last[key] = k, i
        while k >= 0:
            difference = (a ^ hashes[k, 0], b ^ hashes[k, 1], c ^ hashes[k, 2], d ^ hashes[k, 3])
            bits = popcount(difference[0]) + popcount(difference[1]) + popcount(difference[2]) + popcount(difference[3])
            if bits <= radius and not _seen_before(difference, chunks, current, reach):
                one[count], other[count] = min(rows[i], rows[k]), max(rows[i], rows[k])
                distance[count] = bits
                count += 1
            k = before[k - span[0]]
    return count


@njit(cache=True, nogil=True)
def join_parts(partitions: Any, low: Any, search: Any, part: Any, state: Array, pairs: Any, count: int) -> int:
    """`sort_low` and `join` of one partition (moved, edges) after another while it is in the cache, for a reach of 0.

    Where buckets are small (of fair bits nearly all are), sorting costs more than it saves and is left out.
    The number of pairs; `state` (flip, bucket, place, partition) as for `join`.
    """
    moved, edges = partitions
    size = 1 << low[1]
    most = np.diff(edges[part[0] : part[1] + 1]).max()
    words = (np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(most, np.uint64))
    rows, starts = np.empty(most, np.int32), np.zeros(size + 1, np.int32)
    chains = (np.empty(size, np.int32), np.empty(most, np.int32))
    for high in range(state[3], part[1]):
        span = (edges[high], edges[high + 1])
        state[0], state[3] = 0, high
        few = _candidates(moved[0], low, span, chains[0])
        if few > min(DENSE * (span[1] - span[0]), pairs[2].size):
            _sort_low(moved, low, span, (words, rows, starts[1:]), 0)
            count = join((words, rows, starts), search, (0, size), state, pairs, count)
        elif count + few <= pairs[2].size:
            count = _join_sparse(moved, low, search, span, chains, pairs, count)
            state[0] = 1
        if state[0] == 0:
            return count
    return count
