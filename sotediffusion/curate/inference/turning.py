"""Pictures laid on their side in compiled loops, so that what adds up neighbours in a row can do so for many rows at once."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

BAND = 64  # rows that are turned together: wide enough for the loops over them, small enough to stay in a core's cache
LEAST = 16  # px: pictures and outputs with a shorter side are not worth these loops, which want whole words and windows
ROWS = types.Array(types.uint8, 2, "C")  # what the loops write
READ_ROWS = types.Array(types.uint8, 2, "C", readonly=True)  # what they read
COLUMNS = 128  # bytes of a row that are turned before the next rows: two cache lines
_ODD_BYTES, _ODD_PAIRS, _UPPER = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00000000FFFFFFFF)
_BYTE, _PAIR, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)


def _place(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(64).as_pointer())


def _word(typing: Any, array: Any, at: Any) -> Any:
    """The eight bytes of a flat array from `at` on, wherever that is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=1)

    return types.uint64(array, types.intp), generate


def _put(typing: Any, array: Any, at: Any, word: Any) -> Any:
    """Eight bytes into a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _place(context, builder, signature.args[0], *arguments[:2]), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


word: Any = intrinsic(_word)
put: Any = intrinsic(_put)


@njit(inline="always")
def _swapped(one: Any, other: Any, mask: Any, bits: Any) -> Any:
    """The bytes of `one` above, and those of `other` below the mask's change places."""
    change = ((one >> bits) ^ other) & mask
    return one ^ (change << bits), other ^ change


@njit([(READ_ROWS, ROWS)], cache=True, nogil=True)
def turn(source: Array, to: Array) -> None:
    """to[x, y] = source[y, x] for all x and y that both have, at least 8 of either.

    Blocks of 8 x 8 bytes are turned as eight words: bytes, then pairs, then halves change places across the diagonal.
    """
    rows, width = min(source.shape[0], to.shape[1]), min(source.shape[1], to.shape[0])
    pitch, to_pitch = source.shape[1], to.shape[1]
    source, to = source.reshape(-1), to.reshape(-1)
    for left in range(0, width, COLUMNS):
        for upper in range(0, rows, 8):
            y = min(upper, rows - 8)
            for near in range(left, min(left + COLUMNS, width), 8):
                x = min(near, width - 8)
                p = y * pitch + x
                a, b, c, d = word(source, p), word(source, p + pitch), word(source, p + 2 * pitch), word(source, p + 3 * pitch)
                p += 4 * pitch
                e, f, g, h = word(source, p), word(source, p + pitch), word(source, p + 2 * pitch), word(source, p + 3 * pitch)
                a, b = _swapped(a, b, _ODD_BYTES, _BYTE)
                c, d = _swapped(c, d, _ODD_BYTES, _BYTE)
                e, f = _swapped(e, f, _ODD_BYTES, _BYTE)
                g, h = _swapped(g, h, _ODD_BYTES, _BYTE)
                a, c = _swapped(a, c, _ODD_PAIRS, _PAIR)
                b, d = _swapped(b, d, _ODD_PAIRS, _PAIR)
                e, g = _swapped(e, g, _ODD_PAIRS, _PAIR)
                f, h = _swapped(f, h, _ODD_PAIRS, _PAIR)
                a, e = _swapped(a, e, _UPPER, _HALF)
                b, f = _swapped(b, f, _UPPER, _HALF)
                c, g = _swapped(c, g, _UPPER, _HALF)
                d, h = _swapped(d, h, _UPPER, _HALF)
                q = x * to_pitch + y
                put(to, q, a)
                put(to, q + to_pitch, b)
                put(to, q + 2 * to_pitch, c)
                put(to, q + 3 * to_pitch, d)
                q += 4 * to_pitch
                put(to, q, e)
                put(to, q + to_pitch, f)
                put(to, q + 2 * to_pitch, g)
                put(to, q + 3 * to_pitch, h)
