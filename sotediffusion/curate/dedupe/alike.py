"""A closer look at pictures whose hashes are similar but not near: which of them are one picture after all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sotediffusion.curate.dedupe.looked import KINDS, UNKNOWN, Away, Looked
from sotediffusion.curate.dedupe.structure import compare, square
from sotediffusion.curate.engine.shelves import reason_of
from sotediffusion.curate.step import Pictures

Array = np.ndarray[Any, Any]
Reached = Callable[[int, int], None]

ASPECT = 1.25  # pictures whose sides' ratios differ by more than this factor are not looked at
_AT_ONCE = 1024  # pairs whose pictures are held together, and on file together: a minute of work or less


class Alike(NamedTuple):
    """What a closer look found: rows that are another's copy, with whose and what kind; variants, with of which; rows that could
    not be opened, with why."""

    folded: dict[int, tuple[int, str]]
    variants: dict[int, int]
    bad: dict[int, str]


class Look(NamedTuple):
    """How pairs are looked at."""

    source: Pictures | None  # without one every pair counts as a variant, as nothing is known of it
    looked: Looked  # what is known already, and is to be remembered
    reached: Reached | None = None  # to be told how many pictures have been opened, of how many


def look_closer(pairs: Array, rows: pa.RecordBatch, look: Look, fold_variants: bool) -> Alike:
    """Look at pairs of rows (P, 2), the better first, in the order of the better's rank.

    A row folded into another takes no more part.
    """
    pairs = pairs[_same_aspect(pairs, rows)]
    kinds, bad = _kinds(pairs, rows, look)
    folded: dict[int, tuple[int, str]] = {}
    variants: dict[int, int] = {}
    for (better, worse), number in zip(pairs.tolist(), kinds.tolist(), strict=True):
        kind = "other" if number == UNKNOWN else KINDS[number]
        if better in folded or worse in folded:
            continue
        if kind in ("copy", "crop", "watermark") or (kind == "variant" and fold_variants):
            folded[worse] = (better, kind)
        elif kind == "variant":
            variants.setdefault(worse, better)
    return Alike(folded, {row: other for row, other in variants.items() if row not in folded and other not in folded}, bad)


def _same_aspect(pairs: Array, rows: pa.RecordBatch) -> Array:
    width, height = (np.maximum(np.asarray(rows.column(name).fill_null(1)), 1) for name in ("width", "height"))
    ratio = (width / height)[pairs]
    return np.maximum(ratio[:, 0] / ratio[:, 1], ratio[:, 1] / ratio[:, 0]) <= ASPECT


def _kinds(pairs: Array, rows: pa.RecordBatch, look: Look) -> tuple[Array, dict[int, str]]:
    """What each pair is, as a place in KINDS, and which rows cannot be opened; what is not known yet is looked at."""
    if look.source is None:
        return np.full(len(pairs), KINDS.index("variant"), np.int8), {}
    contents, looked = rows.column("sha256"), look.looked
    kinds = looked.kinds_of(contents, pairs)
    involved = np.unique(pairs)
    bad = {row: looked.bad[content] for row, content in zip(involved.tolist(), contents.take(pa.array(involved)).to_pylist(),
           strict=True) if content in looked.bad}  # fmt: skip
    todo = np.flatnonzero((kinds == UNKNOWN) & ~np.isin(pairs, [*bad]).any(1))
    parts = [todo[start : start + _AT_ONCE] for start in range(0, len(todo), _AT_ONCE)]
    opened = _Count(sum(len(np.unique(pairs[part])) for part in parts), look.reached)
    for part in parts:
        found, failed = _findings(pairs[part], rows.column("path"), look.source, opened)
        looked.keep(contents, pairs[part], found, {contents[row].as_py(): reason for row, reason in failed.items()})
        kinds[part] = found
        bad |= failed
    return kinds, bad


def _findings(pairs: Array, paths: pa.Array, source: Pictures, opened: "_Count") -> tuple[Array, dict[int, str]]:
    wanted = np.unique(pairs).tolist()
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as pool:
        pictures = pool.map(lambda path: _open(source, path), paths.take(pa.array(wanted)).to_pylist())
        seen = dict(zip(wanted, map(opened.one_more, pictures), strict=True))
        kinds = list(pool.map(lambda both: _kind(seen[both[0]], seen[both[1]]), pairs.tolist()))
    return np.array(kinds, np.int8), {row: picture for row, picture in seen.items() if isinstance(picture, str)}


class _Count:
    """Counts pictures as they pass."""

    def __init__(self, total: int, reached: Reached | None):
        self.total, self.reached, self.done = total, reached, 0

    def one_more(self, picture: Array | str) -> Array | str:
        self.done += 1
        if self.reached:
            self.reached(self.done, self.total)
        return picture


def _open(source: Pictures, path: str) -> Array | str:
    """The square of a picture; the reason for one that cannot be opened."""
    try:
        return square(source.decode(path))
    except ValueError as error:
        return str(error)
    except OSError as error:  # deleted since it was listed, as a rule
        return Away(f"unreadable: {reason_of(error)}")


def _kind(one: Array | str, other: Array | str) -> int:
    return UNKNOWN if isinstance(one, str) or isinstance(other, str) else KINDS.index(compare(one, other).kind)
