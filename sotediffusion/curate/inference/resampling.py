"""Pillow's resizing of RGB pictures to the bit, several times as fast: the same sums in the same fixed point, many at once.

Pillow (`Image.resize` since 13) makes two passes with one filter each, one along the rows and one along the columns. A pass is a
weighted sum of neighbours whose weights are whole multiples of 2^-22, rounded and clipped to 8 bits, so any way of adding gives
the same bytes. Here a pass along the columns adds whole rows; for a pass along the rows the picture is turned, band by band.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, types
from PIL import Image

from sotediffusion.curate.inference.turning import BAND, LEAST, READ_ROWS, ROWS, Array, turn

BITS = 22  # after the point of a weight
TOGETHER = 4  # neighbours that are added in one go; windows are a multiple of it
_HALF = np.int32(1 << (BITS - 1))

_TABLE = (types.Array(types.int64, 1, "C"), types.Array(types.int32, 2, "C"))

Window = tuple[int, int, int, int]  # top, left, height, width


def _box(x: Array) -> Array:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0.0)


def _cubic(x: Array) -> Array:
    """Keys 1981 with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# Pillow's number: the filter, and how far it reaches at scale 1. The others, which need a sine, are left to Pillow.
FILTERS: dict[int, tuple[Callable[[Array], Array], float]] = {
    Image.Resampling.BOX: (_box, 0.5), Image.Resampling.BILINEAR: (_triangle, 1.0), Image.Resampling.BICUBIC: (_cubic, 2.0),
}  # fmt: skip


def resized(picture: Array, height: int, width: int, resample: int, window: Window | None = None) -> Array:
    """RGB uint8 (H, W, 3) -> (height, width, 3), or of that only a window, by Pillow's filter number `resample`."""
    top, left, rows, columns = window or (0, 0, height, width)
    if min(*picture.shape[:2], rows, columns) < LEAST or resample not in FILTERS:
        whole = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling(resample)))
        return whole[top : top + rows, left : left + columns]
    source = np.ascontiguousarray(picture).reshape(picture.shape[0], -1)
    down = weights(picture.shape[0], height, resample)
    along = weights(picture.shape[1], width, resample)
    down, along = (down[0][top : top + rows], down[1][top : top + rows]), (along[0][left : left + columns],
                                                                          along[1][left : left + columns])  # fmt: skip
    made = np.empty((rows, 3 * columns), np.uint8)
    if picture.shape[0] - height > max(0, 2 * (picture.shape[1] - width)):  # Pillow's rule for which pass comes first
        between = np.empty((rows, source.shape[1]), np.uint8)
        add_rows(source, *down, between)
        add_columns(between, *along, made)
    else:
        first, last = int(down[0][0]), int(down[0][-1]) + down[1].shape[1]
        between = np.empty((last - first, 3 * columns), np.uint8)
        add_columns(source[first:last], *along, between)
        add_rows(between, down[0] - first, down[1], made)
    return made.reshape(rows, columns, 3)


def weights(count: int, wanted: int, resample: int) -> tuple[Array, Array]:
    """Of each of `wanted` pixels made from `count`: the first that it is made of (wanted,), and weights from there (wanted, T).

    T is a multiple of TOGETHER; weights are int32 multiples of 2^-BITS.
    """
    shape, reach = FILTERS[resample]
    scale = count / wanted
    stretch = max(scale, 1.0)
    centre = (np.arange(wanted) + 0.5) * scale
    low = np.maximum((centre - reach * stretch + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + reach * stretch + 0.5).astype(np.int64), count)
    taps = -(-int((high - low).max()) // TOGETHER) * TOGETHER
    first = np.minimum(low, count - taps)
    at = first[:, None] + np.arange(taps)
    shares = shape((at - centre[:, None] + 0.5) * (1 / stretch))
    shares[(at < low[:, None]) | (at >= high[:, None])] = 0
    total = np.zeros(wanted)
    for tap in range(taps):  # one after the other: another order would round otherwise
        total += shares[:, tap]
    shares /= total[:, None]
    return first, (shares * (1 << BITS) + np.where(shares < 0, -0.5, 0.5)).astype(np.int32)


@njit([(READ_ROWS, *_TABLE, ROWS)], cache=True, nogil=True)
def add_rows(rows: Array, first: Array, shares: Array, made: Array) -> None:
    """made[j, x] = sum over t of shares[j, t] * rows[first[j] + t, x], rounded and clipped to 8 bits."""
    count, taps = shares.shape
    width = made.shape[1]
    sums = np.empty(width, np.int32)
    for j in range(count):
        f, a, b, c, d = first[j], shares[j, 0], shares[j, 1], shares[j, 2], shares[j, 3]
        if taps == TOGETHER:
            for x in range(width):
                value = np.int32(_HALF + a * rows[f, x] + b * rows[f + 1, x] + c * rows[f + 2, x] + d * rows[f + 3, x])
                made[j, x] = min(max(value >> BITS, 0), 255)
            continue
        sums[:] = _HALF
        for t in range(0, taps, TOGETHER):
            f, a, b, c, d = first[j] + t, shares[j, t], shares[j, t + 1], shares[j, t + 2], shares[j, t + 3]
            for x in range(width):
                sums[x] += a * rows[f, x] + b * rows[f + 1, x] + c * rows[f + 2, x] + d * rows[f + 3, x]
        for x in range(width):
            made[j, x] = min(max(sums[x] >> BITS, 0), 255)


@njit([(READ_ROWS, *_TABLE, ROWS)], cache=True, nogil=True)
def add_columns(rows: Array, first: Array, shares: Array, made: Array) -> None:
    """The same along each row of RGB pixels: rows (R, W * 3) -> made (R, len(first) * 3), R at least 8."""
    count, width, columns = len(rows), rows.shape[1], len(first)
    lying, added = np.empty((width, BAND), np.uint8), np.empty((3 * columns, BAND), np.uint8)
    for band in range(0, count, BAND):
        start = min(band, count - 8)
        stop = min(start + BAND, count)
        turn(rows[start:stop], lying)
        add_rows(lying.reshape(width // 3, 3 * BAND), first, shares, added.reshape(columns, 3 * BAND))
        turn(added, made[start:stop])
