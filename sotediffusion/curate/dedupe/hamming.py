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
_ONE = np.uint64(1)
_WORD = np.uint64(64)


def _popcount(typing: Any, word: Any) -> Any:
    """Bits set in a 64-bit word: one instruction, which also exists for vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@njit(cache=True, nogil=True)
def mixed(words: Array) -> Array:
    """One word (N,) of each hash (N, W), spread so that different hashes hardly ever share it (the finaliser of splitmix64)."""
    out = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        value = np.uint64(0)
        for w in range(WORDS):
            value = (value ^ words[row, w]) + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
        out[row] = value
    return out


@njit(cache=True, nogil=True)
def first_equal(words: Array, mixes: Array, order: Array) -> Array:
    """The first row (N,) with each row's hash; `order` sorts the mixes."""
    first = np.empty(len(words), np.int32)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and mixes[order[end]] == mixes[order[start]]:
            end += 1
        if end == start + 1:
            first[order[start]] = order[start]
            start = end
            continue
        run = np.sort(order[start:end])
        for place in range(end - start):
            row = run[place]
            first[row] = row
            for earlier in run[:place]:  # one step, unless different hashes share a mix
                if (words[earlier] == words[row]).all():
                    first[row] = first[earlier]
                    break
        start = end
    return first


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
def count_coarse(hashes: Array, chunk: Any, fine: int, counts: Array, part: Any) -> None:
    """counts[p] += 1 for each hash of the part whose key's high bits, above the `fine` low ones, are p."""
    for row in range(part[0], part[1]):
        counts[_key(hashes, row, chunk[0], chunk[1]) >> fine] += 1


@njit(cache=True, nogil=True)
def move_coarse(hashes: Array, chunk: Any, fine: int, places: Array, moved: Any, part: Any) -> None:
    """Move each hash of the part, with its row number, to the next of the places of its high bits."""
    out, rows = moved
    for row in range(part[0], part[1]):
        high = _key(hashes, row, chunk[0], chunk[1]) >> fine
        place = places[high]
        places[high] += 1
        rows[place] = row
        for w in range(WORDS):
            out[place, w] = hashes[row, w]


@njit(cache=True, nogil=True)
def sort_fine(moved: Any, chunk: Any, fine: int, edges: Array, bucketed: Any, part: Any) -> None:
    """Sort each of the coarse partitions `part` by its low key bits: into W words (N,) and rows, `starts` of every bucket."""
    hashes, from_rows = moved
    words, rows, starts = bucketed
    w0, w1, w2, w3 = words
    size = 1 << fine
    keys = np.empty(np.diff(edges[part[0] : part[1] + 1]).max(), np.int32)
    for high in range(part[0], part[1]):
        first, count = edges[high], edges[high + 1] - edges[high]
        places = starts[high * size + 1 : (high + 1) * size + 1]
        places[:] = 0
        for i in range(count):
            keys[i] = _key(hashes, first + i, chunk[0], chunk[1]) & (size - 1)
            places[keys[i]] += 1
        place = first
        for low in range(size):  # each becomes where its bucket starts, and below where it ends, which is the next one's start
            place, places[low] = place + places[low], place
        for i in range(count):
            place = places[keys[i]]
            places[keys[i]] += 1
            rows[place] = from_rows[first + i]
            w0[place], w1[place] = hashes[first + i, 0], hashes[first + i, 1]
            w2[place], w3[place] = hashes[first + i, 2], hashes[first + i, 3]


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
def join(bucketed: Any, search: Any, part: Any, state: Array, pairs: Any) -> int:
    """Compare what shares a bucket of the part, and for a reach of 1 what is one flipped key bit away; the number of pairs.

    Stops when the buffers of `pairs` are full; `state` (flip, bucket, place) says where to go on, flip = K when all is done.
    """
    words, _, starts = bucketed
    chunks, current, radius, reach = search
    count, flips = 0, np.int64(chunks[current, 1]) if reach else 0
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
