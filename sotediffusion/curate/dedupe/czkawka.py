"""Czkawka's picture hashes, bit for bit, for people who used it before: algorithms, resize filters and named tolerances.

A picture is made grey (Rec. 709 weights, transparency ignored as there), resized, and neighbouring pixels compared. Bits go into
bytes lowest first. The behaviour is that of the crates image 0.25 and image_hasher 3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sotediffusion.names import unknown
from sotediffusion.types import UserError

Array = np.ndarray[Any, Any]

SIZES = (8, 16, 32, 64)
PRESETS = {  # most bits of difference at each of SIZES
    "original": (0, 0, 0, 0), "very high": (1, 2, 4, 6), "high": (2, 5, 10, 20), "medium": (5, 15, 20, 40),
    "small": (7, 30, 40, 40), "very small": (14, 40, 40, 40), "minimal": (40, 40, 40, 40),
}  # fmt: skip
_WEIGHTS = np.array([2126, 7152, 722])


def tolerance(preset: str, size: int) -> int:
    """The bits that a named similarity allows at a hash size."""
    if preset not in PRESETS:
        raise unknown("similarity", preset, PRESETS)
    return PRESETS[preset][SIZES.index(_checked(size))]


def czkawka_hash(picture: Array, algorithm: str = "gradient", filter: str = "nearest", size: int = 16) -> bytes:
    """The hash of a picture (H, W, 3 or 4) uint8, upright; UserError for a name or size that Czkawka does not have."""
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    if filter not in FILTERS:
        raise unknown("filter", filter, FILTERS)
    _checked(size)
    if algorithm == "blockhash":
        return _packed(_blockhash(picture, size))
    width, height, bits = ALGORITHMS[algorithm]
    grey = (picture[:, :, :3].astype(np.int64) @ _WEIGHTS // 10000).astype(np.uint8)
    return _packed(bits(resized(grey, width(size), height(size), filter)))


def says_nothing(hash: bytes) -> bool:
    """Whether Czkawka leaves the picture out: all bits are the same."""
    return not any(hash) or all(byte == 255 for byte in hash)


def similar(hashes: list[bytes], bits: int, order: Array) -> Array:
    """Each row's keeper (N,) among hashes of one kind: stars of at most `bits` of difference, by the rows' order, best first.

    Pictures whose hash says nothing stay alone, as in Czkawka. Its own groups depend on chance; these do not.
    """
    rows = np.array([row for row in order.tolist() if not says_nothing(hashes[row])], np.int64)
    keeper = np.arange(len(hashes))
    if not len(rows):
        return keeper
    known = np.array([np.frombuffer(hashes[row], np.uint8) for row in rows])
    free = np.ones(len(rows), bool)
    for place in range(len(rows)):  # the pictures of one folder: no index is worth it here
        if free[place]:
            near = free & (np.bitwise_count(known ^ known[place]).sum(1) <= bits)
            keeper[rows[near]] = rows[place]
            free &= ~near
    return keeper


def resized(grey: Array, width: int, height: int, filter: str) -> Array:
    """A grey picture (H, W) uint8 at another size: columns first, in float32, rounded at the end."""
    if grey.shape == (height, width):
        return grey
    rows, columns = (_taps(old, new, *FILTERS[filter]) for old, new in zip(grey.shape, (height, width), strict=True))
    between = rows @ grey.astype(np.float32)
    return np.floor(np.clip(between @ columns.T, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _taps(old: int, new: int, kernel: Callable[[Array], Array], support: float) -> Array:
    """(new, old) float32: how much each old pixel adds to each new one."""
    ratio = np.float32(old) / np.float32(new)
    scale = max(ratio, np.float32(1))
    reach = np.float32(support) * scale
    weights = np.zeros((new, old), np.float32)
    for place in range(new):
        middle = (np.float32(place) + np.float32(0.5)) * ratio
        left = min(max(int(np.floor(middle - reach)), 0), old - 1)
        right = min(max(int(np.ceil(middle + reach)), left + 1), old)
        taps = kernel((np.arange(left, right, dtype=np.float32) - (middle - np.float32(0.5))) / scale)
        weights[place, left:right] = taps / taps.sum()
    return weights


def _sinc(x: Array) -> Array:
    return np.sinc(x.astype(np.float64)).astype(np.float32)


def _lanczos3(x: Array) -> Array:
    return np.where(np.abs(x) < 3, _sinc(x) * _sinc(x / 3), np.float32(0))


def _catmull_rom(x: Array) -> Array:
    a = np.abs(x)
    near, far = 1.5 * a**3 - 2.5 * a**2 + 1, -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return np.where(a < 1, near, np.where(a < 2, far, 0)).astype(np.float32)


def _gaussian(x: Array) -> Array:
    return (np.exp(-(x**2) / (2 * 0.5**2)) / (np.sqrt(2 * np.pi) * 0.5)).astype(np.float32)


def _triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0).astype(np.float32)


FILTERS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "nearest": (np.ones_like, 0.0), "lanczos3": (_lanczos3, 3.0), "triangle": (_triangle, 1.0), "gaussian": (_gaussian, 3.0),
    "catmullrom": (_catmull_rom, 2.0),
}  # fmt: skip


def _mean(grey: Array) -> Array:
    return (grey >= grey.sum(dtype=np.int64) // grey.size).ravel()


def _median(grey: Array) -> Array:
    low, high = np.sort(grey.ravel())[[grey.size // 2 - 1, grey.size // 2]].astype(int)
    return (grey >= (low + high) // 2).ravel()


def _gradient(grey: Array) -> Array:
    return (grey[:, 1:] > grey[:, :-1]).ravel()


def _vert_gradient(grey: Array) -> Array:
    """Column after column."""
    return (grey[1:] > grey[:-1]).T.ravel()


def _double_gradient(grey: Array) -> Array:
    return np.concatenate([_gradient(grey), _vert_gradient(grey)])


def _blockhash(picture: Array, size: int) -> Array:
    """Which of size x size blocks are lighter than the median of their band; pixels wholly transparent count as white."""
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise UserError("algorithm", f"blockhash needs {size}x{size} px and a picture has {width}x{height}; take gradient")
    total = picture[:, :, :3].astype(np.int64).sum(axis=2)
    if picture.shape[2] == 4:
        total[picture[:, :, 3] == 0] = 3 * 255
    rows, columns = (np.floor(np.arange(n, dtype=np.float32) / np.float32(n / size)).astype(int) for n in (height, width))
    by_row = np.add.reduceat(total, np.searchsorted(rows, np.arange(size)), axis=0)
    blocks = np.add.reduceat(by_row, np.searchsorted(columns, np.arange(size)), axis=1)
    bands = blocks.reshape(-1, 4 * size)
    medians = np.sort(bands, axis=1)[:, [2 * size]]
    half = 3 * 255 * (height / size) * (width / size) / 2
    return ((bands > medians) | ((bands == medians) & (medians > half))).ravel()


def _same(size: int) -> int:
    return size


def _one_more(size: int) -> int:
    return size + 1


def _half_and_one(size: int) -> int:
    return size // 2 + 1


ALGORITHMS: dict[str, tuple[Callable[[int], int], Callable[[int], int], Callable[[Array], Array]]] = {
    "mean": (_same, _same, _mean), "median": (_same, _same, _median), "gradient": (_one_more, _same, _gradient),
    "vertgradient": (_same, _one_more, _vert_gradient), "doublegradient": (_half_and_one, _half_and_one, _double_gradient),
    "blockhash": (_same, _same, _mean),
}  # fmt: skip


def _packed(bits: Array) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _checked(size: int) -> int:
    if size not in SIZES:
        raise UserError("hash size", f"{size} is none of Czkawka's; take 8, 16, 32 or 64")
    return size
