"""Pairs that may be crops of each other: cutting the edges off flips many bits of the hash, but moves light and colour little.

Pictures are sorted into cells by the mean and the spread of their luma and by their chroma, and each cell is compared with itself
and with the cells around it. What is found is only worth a look: unrelated pictures are among it.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import sched_getaffinity
from typing import Any

import numpy as np
from numba import njit

from sotediffusion.curate.dedupe.hamming import count_near, popcount

Array = np.ndarray[Any, Any]

STEPS = np.array([6.0, 2.5, 4.0])  # grey levels: what cutting off 6 % of each side moves mean, spread and chroma by at most
_CELLS = (45, 54, 66)  # of each axis, with an empty one at both ends
_STRIDES = np.array([_CELLS[1] * _CELLS[2], _CELLS[2], 1])
_AROUND = [int(np.array(step) @ _STRIDES) for step in np.ndindex(3, 3, 3)]
_FORWARD = np.array(sorted(offset - _AROUND[13] for offset in _AROUND if offset >= _AROUND[13]))


def crop_pairs(hashes: Array, light: Array, radius: int) -> Array:
    """Pairs (P, 2) of rows within `radius` bits that are near each other in light and colour, one < other, sorted.

    `hashes` (N, 32) uint8; `light` (N, 3): mean and standard deviation of the luma, and chroma, in grey levels.
    """
    if not radius or len(hashes) < 2:
        return np.zeros((0, 2), np.int64)
    cells = np.clip((light / STEPS).astype(np.int64) + 1, 1, np.array(_CELLS) - 2) @ _STRIDES
    order = np.argsort(cells, kind="stable")
    words = np.ascontiguousarray(np.ascontiguousarray(hashes[order]).view(np.uint64).T)
    starts = np.searchsorted(cells[order], np.arange(int(np.prod(_CELLS)) + 1))
    threads = len(sched_getaffinity(0))
    edges = np.searchsorted(starts, np.linspace(0, len(order), 16 * threads + 1)[1:-1]).tolist()
    edges = [0, *edges, len(starts) - 1]
    join = partial(_join, tuple(words), starts, _FORWARD, np.uint64(radius))
    with ThreadPoolExecutor(threads) as pool:
        found = np.concatenate(list(pool.map(join, edges[:-1], edges[1:])))
    pairs = np.sort(order[found], axis=1)
    pairs = pairs[(np.abs(light[pairs[:, 0]] - light[pairs[:, 1]]) <= STEPS).all(1)]
    return pairs[np.lexsort([pairs[:, 1], pairs[:, 0]])]


@njit(cache=True, nogil=True)
def _join(words: Any, starts: Array, offsets: Array, radius: np.uint64, low: int, high: int) -> Array:
    """Pairs (P, 2) of places: those of the cells low .. high - 1 with those of the cells at the offsets."""
    w0, w1, w2, w3 = words
    out, count = np.empty((1024, 2), np.int64), 0
    for cell in range(low, high):
        for i in range(starts[cell], starts[cell + 1]):
            for offset in offsets:
                first = starts[cell + offset] if offset else i + 1
                end = starts[cell + offset + 1]
                hits = count_near(words, i, first, end, radius) if first < end else 0
                if not hits:
                    continue
                if count + hits > len(out):
                    larger = np.empty((2 * (count + hits), 2), np.int64)
                    larger[:count] = out[:count]
                    out = larger
                for k in range(first, end):
                    bits = popcount(w0[i] ^ w0[k]) + popcount(w1[i] ^ w1[k]) + popcount(w2[i] ^ w2[k]) + popcount(w3[i] ^ w3[k])
                    if bits <= radius:
                        out[count, 0], out[count, 1] = i, k
                        count += 1
    return out[:count]
