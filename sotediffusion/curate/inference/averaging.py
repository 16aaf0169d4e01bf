"""OpenCV's shrinking by area (`cv2.INTER_AREA`) to the bit, several times as fast, for a picture padded with white to a square.

A pixel made is the mean of the square's pixels under it, those at its edge by the share that lies under it. OpenCV adds in 32 bit
floats, first along a row and then down the rows; here the order is the same, for many rows at once, and the white is left out.
"""

import math

import cv2
import numpy as np
from numba import njit, types

from sotediffusion.curate.inference.turning import BAND, LEAST, READ_ROWS, ROWS, Array, turn

WHITE = 255
LANES = 16  # colours of the pixels made that are added up side by side

_FLOATS = types.Array(types.float32, 1, "C")
_FLOATS2 = types.Array(types.float32, 2, "C")
_PLACES = types.Array(types.int64, 1, "C")
_CELLS = types.Tuple((_PLACES, _PLACES, _FLOATS2))
_SHARES = types.UniTuple(_FLOATS, 2)

Cells = tuple[Array, Array, Array]


def shrunk_square(picture: Array, size: int) -> Array:
    """RGB uint8 (H, W, 3), the longer side above `size` -> `on_square` shrunk to (size, size, 3), BGR."""
    height, width = picture.shape[:2]
    side = max(height, width)
    if side % size == 0 or min(height, width) < LEAST or side > size * BAND:
        # for whole factors OpenCV adds otherwise, and small pictures are soon done
        return np.ascontiguousarray(cv2.resize(on_square(picture), (size, size), interpolation=cv2.INTER_AREA)[:, :, ::-1])
    left, top = (side - width) // 2, (side - height) // 2
    scale = side / size
    across = range(int(left / scale), min(math.ceil((left + width) / scale), size))  # what is not all white
    down = range(int(top / scale), min(math.ceil((top + height) / scale), size))
    columns, near = shares(side, size, across)
    rows, upper = shares(side, size, down)
    made = np.empty((len(down), -(-3 * len(across) // LANES) * LANES), np.uint8)
    average(np.ascontiguousarray(picture).reshape(height, -1), left - near, top - upper, columns, rows, made)
    square = np.full((size, size, 3), WHITE, np.uint8)
    cells = made[:, : 3 * len(across)].reshape(len(down), len(across), 3)
    square[down.start : down.stop, across.start : across.stop] = cv2.cvtColor(cells, cv2.COLOR_RGB2BGR)
    return square


def on_square(picture: Array) -> Array:
    """A picture in the middle of a white square of its longer side; the odd pixel goes right and below."""
    height, width = picture.shape[:2]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    sides = (top, side - height - top, left, side - width - left)
    return np.asarray(cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(WHITE,) * 3))


def shares(count: int, wanted: int, cells: range) -> tuple[Cells, int]:
    """Of some of `wanted` cells over `count` pixels: first pixel (C,), how many (C,), and the share of each (C, T) float32.

    Pixels are counted from the first that any of these cells has; which one that is comes second.
    """
    scale = count / wanted
    start = np.arange(cells.start, cells.stop) * scale
    end = start + scale
    whole = np.minimum(scale, count - start)
    after = np.minimum(np.floor(end), count - 1).astype(np.int64)  # the pixel that the cell ends in
    inside = np.minimum(np.ceil(start).astype(np.int64), after)  # the first that begins in the cell
    before, behind = inside - start > 1e-3, end - after > 1e-3  # OpenCV leaves out what is thinner
    first, held = inside - before, after - inside + before + behind
    share = np.repeat((1 / whole)[:, None], held.max(), axis=1)
    share[before, 0] = ((inside - start) / whole)[before]
    edge = np.minimum(np.minimum(end - after, 1.0), whole) / whole
    share[behind, held[behind] - 1] = edge[behind]
    return (first - first[0], held, share.astype(np.float32)), int(first[0])


@njit([_SHARES(_CELLS)], cache=True, nogil=True)
def by_pixel(cells: Cells) -> tuple[Array, Array]:
    """The same seen from the pixels: the share of each in the cell it begins in (N,), and in the one that begins in it (N,)."""
    first, count, share = cells
    own = np.zeros(first[-1] + count[-1], np.float32)
    following = np.zeros(len(own), np.float32)
    for cell in range(len(first)):
        for t in range(count[cell]):
            if t == 0 and cell > 0 and first[cell] < first[cell - 1] + count[cell - 1]:
                following[first[cell]] = share[cell, 0]
            else:
                own[first[cell] + t] = share[cell, t]
    return own, following


@njit([(READ_ROWS, _CELLS, _FLOATS2)], cache=True, nogil=True)
def add_across(lying: Array, cells: Cells, added: Array) -> None:
    """added[j, x] = sum of share[j, t] * lying[first[j] + t, x] over t < count[j], in this order."""
    first, count, share = cells
    for j in range(len(first)):
        for t in range(count[j]):
            part, f = share[j, t], first[j] + t
            if t == 0:
                for x in range(lying.shape[1]):
                    added[j, x] = part * np.float32(lying[f, x])
            else:
                for x in range(lying.shape[1]):
                    added[j, x] += part * np.float32(lying[f, x])


@njit([(types.Array(types.float32, 2, "A"), _CELLS, _SHARES, _FLOATS, _PLACES, ROWS)], cache=True, nogil=True)
def add_down(added: Array, cells: Cells, shares: tuple[Array, Array], sums: Array, at: Array, made: Array) -> None:
    """Go on adding the rows that lie in `added` (J, R) into cells.

    `at` says which row comes next and which cell it is in, and is moved on; `sums` (J,) is what that cell has so far.
    """
    first, count, _ = cells
    own, following = shares
    row, line = at[0], at[1]
    for side in range(0, len(sums), LANES):
        line = at[1]
        for r in range(added.shape[1]):
            part = own[row + r]
            for j in range(side, side + LANES):
                sums[j] += part * added[j, r]
            if row + r == first[line] + count[line] - 1:
                for j in range(side, side + LANES):
                    made[line, j] = np.uint8(np.rint(sums[j]))
                line += 1
                part = following[row + r]
                for j in range(side, side + LANES):
                    sums[j] = part * added[j, r]
    at[0], at[1] = row + added.shape[1], line


@njit([(READ_ROWS, types.intp, types.intp, _CELLS, _CELLS, ROWS)], cache=True, nogil=True)
def average(picture: Array, left: int, above: int, across: Cells, down: Cells, made: Array) -> None:
    """(H, W * 3), white for `left` pixels and `above` rows before it and around -> made (cells down, J >= cells across * 3)."""
    height, width = picture.shape
    first, count, _ = across
    lying = np.full((3 * (first[-1] + count[-1]), BAND), WHITE, np.uint8)
    bands = lying.reshape(len(lying) // 3, 3 * BAND)  # a row for each pixel across
    added = np.zeros((made.shape[1], BAND), np.float32)
    cells = added[: 3 * len(first)].reshape(len(first), 3 * BAND)
    shares = by_pixel(down)
    sums, at = np.zeros(made.shape[1], np.float32), np.zeros(2, np.int64)
    add_across(bands, across, cells)
    add_down(added[:, :above], down, shares, sums, at, made)
    for band in range(0, height, BAND):
        start = min(band, height - 8)
        stop = min(start + BAND, height)
        turn(picture[start:stop], lying[3 * left : 3 * left + width])
        add_across(bands, across, cells)
        add_down(added[:, band - start : stop - start], down, shares, sums, at, made)
    lying[:] = WHITE
    add_across(bands, across, cells)
    add_down(added[:, : len(shares[0]) - at[0]], down, shares, sums, at, made)
