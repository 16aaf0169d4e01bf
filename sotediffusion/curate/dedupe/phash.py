"""The 256-bit hash of what a picture looks like: signs of its lowest frequencies, so small edits flip few bits.

Bit k = 16 v + u tells whether the DCT-II coefficient of vertical frequency v and horizontal frequency u of the 64 x 64 luma is
above the median of the 16 x 16 lowest. It is stored in byte k // 8 at place k % 8, lowest bit first. BLANK, which no other
picture can have, stands for a picture without structure: a white page and a black one say nothing that could be compared.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE = 64  # of the luma that is hashed; area-averaged, never point-sampled: single pixels of flat art are coin flips
LOW = 16  # frequencies kept per axis
BITS = LOW * LOW
BYTES = BITS // 8
BLANK = bytes(BYTES)

_FLAT = 1.0  # grey levels of standard deviation: below it there is only noise to hash
_GRID = 2.0**-10  # coefficients are rounded to it, so that the order of additions on another machine decides no tie


def _cosines() -> Array:
    """Rows of the orthonormal DCT-II (LOW, SIDE)."""
    angles = np.arange(LOW)[:, None] * (np.arange(SIDE) + 0.5)[None, :] * (np.pi / SIDE)
    rows = np.cos(angles) * np.sqrt(2.0 / SIDE)
    rows[0] /= np.sqrt(2.0)
    return rows


_DCT = _cosines()


def phash(luma64: Array) -> bytes:
    """The hash of one picture, 32 bytes.

    `luma64` (64, 64) uint8 or float, grey levels 0-255 of the upright picture, alpha on white, averaged over areas. ValueError
    for another shape. The method is pHash (Zauner 2010) at 16 x 16, the zero frequency included.
    """
    return bytes(phashes(np.asarray(luma64)[None])[0])


def phashes(luma64: Array) -> Array:
    """The hashes (N, 32) uint8 of N pictures (N, 64, 64); each as `phash` gives it."""
    if luma64.ndim != 3 or luma64.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"luma has shape {luma64.shape}; a hash is made from (N, {SIDE}, {SIDE})")
    luma = luma64.astype(np.float64)
    low = _DCT @ luma @ _DCT.T
    low = np.round(low.reshape(-1, BITS) / _GRID)
    bits = low > np.median(low, axis=1, keepdims=True)
    bits[luma.std(axis=(1, 2)) < _FLAT] = False
    return np.packbits(bits, axis=1, bitorder="little")


def hash_array(column: Any) -> Array:
    """An Arrow column of hashes without nulls as (N, 32) uint8, not copied."""
    held = np.frombuffer(column.buffers()[1], np.uint8)
    return held[column.offset * BYTES : (column.offset + len(column)) * BYTES].reshape(-1, BYTES)


def distance(one: bytes, other: bytes) -> int:
    """How many of the bits differ (Hamming)."""
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).bit_count()
