"""A closer look at pictures whose hashes are similar but not near: which of them are one picture after all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sotediffusion.curate.dedupe.structure import Finding, compare, square
from sotediffusion.curate.step import Source

Array = np.ndarray[Any, Any]
Reached = Callable[[int, int], None]

ASPECT = 1.25  # pictures whose sides' ratios differ by more than this factor are not looked at
_AT_ONCE = 4096  # pairs whose pictures are held together


class Alike(NamedTuple):
    """What a closer look found: rows that are another's copy, with whose and what kind; and variants, with of which."""

    folded: dict[int, tuple[int, str]]
    variants: dict[int, int]


def look_closer(pairs: Array, rows: pa.RecordBatch, source: Source | None, fold_variants: bool,
                reached: Reached | None = None) -> Alike:  # fmt: skip
    """Look at pairs of rows (P, 2), the better first, in the order of the better's rank.

    A row folded into another takes no more part. Without a source every pair counts as a variant, as nothing is known of it.
    `reached` is told how many pictures have been opened, of how many.
    """
    pairs = pairs[_same_aspect(pairs, rows)]
    folded: dict[int, tuple[int, str]] = {}
    variants: dict[int, int] = {}
    parts = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    opened = _Count(sum(len(np.unique(part)) for part in parts), reached)
    for part in parts:
        for (better, worse), finding in zip(part.tolist(), _findings(part, rows, source, opened), strict=True):
            if finding is None or better in folded or worse in folded:
                continue
            if finding.kind in ("copy", "crop", "watermark") or (finding.kind == "variant" and fold_variants):
                folded[worse] = (better, finding.kind)
            elif finding.kind == "variant":
                variants.setdefault(worse, better)
    return Alike(folded, {row: other for row, other in variants.items() if row not in folded and other not in folded})


def _same_aspect(pairs: Array, rows: pa.RecordBatch) -> Array:
    width, height = (np.maximum(np.asarray(rows.column(name).fill_null(1)), 1) for name in ("width", "height"))
    ratio = (width / height)[pairs]
    return np.maximum(ratio[:, 0] / ratio[:, 1], ratio[:, 1] / ratio[:, 0]) <= ASPECT


def _findings(pairs: Array, rows: pa.RecordBatch, source: Source | None, opened: "_Count") -> list[Finding | None]:
    if source is None:
        return [Finding("variant", 1.0, 1.0)] * len(pairs)
    wanted = np.unique(pairs).tolist()
    paths = rows.column("path").take(pa.array(wanted)).to_pylist()
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as pool:
        seen = dict(zip(wanted, map(opened.one_more, pool.map(lambda path: _open(source, path), paths)), strict=True))
        return list(pool.map(lambda both: _found(seen[both[0]], seen[both[1]]), pairs.tolist()))


class _Count:
    """Counts pictures as they pass."""

    def __init__(self, total: int, reached: Reached | None):
        self.total, self.reached, self.done = total, reached, 0

    def one_more(self, picture: Array | None) -> Array | None:
        self.done += 1
        if self.reached:
            self.reached(self.done, self.total)
        return picture


def _open(source: Source, path: str) -> Array | None:
    """The square of a picture; None for one that cannot be opened any more, which then resembles nothing."""
    try:
        return square(source.decode(path))
    except ValueError:
        return None


def _found(one: Array | None, other: Array | None) -> Finding | None:
    return None if one is None or other is None else compare(one, other)
