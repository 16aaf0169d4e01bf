"""Groups of near-duplicates as stars: every picture left out is near its keeper itself, never only near a neighbour of it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from sotediffusion.curate.dedupe.neighbours import Pairs, distinct
from sotediffusion.curate.dedupe.verdicts import Verdicts

Array = np.ndarray[Any, Any]
FAR = 255  # as a distance: further than is ever searched


@dataclass
class Nodes:
    """What is compared: the rows of one hash are one node; blank rows and rows with a verdict are one node per content."""

    hashes: Array  # (H, 32) uint8, of the first H nodes; the others have no hash of their own
    first: Array  # (U,) the first row of each node
    number: Array  # (N,) each row's node
    of_content: dict[str, int] = field(default_factory=dict)  # nodes of rows with a verdict
    beside: dict[int, list[int]] = field(default_factory=dict)  # those by the node that has their hash

    @classmethod
    def of(cls, hashes: Array, contents: pa.Array, alone: Array, verdicts: Verdicts) -> "Nodes":
        """Of rows with hashes (N, 32), content hashes and whether they are blank (N,)."""
        first, number = distinct(hashes)
        nodes = cls(hashes if len(first) == len(hashes) else hashes[first], first, number)
        named = pc.is_in(contents, pa.array(sorted(verdicts.named()), pa.string()))
        judged = np.asarray(named.fill_null(False))
        rows = np.flatnonzero(alone | judged)
        if len(rows):
            nodes._set_apart(rows, contents.take(pa.array(rows)), judged[rows] & ~alone[rows], judged[rows])
        return nodes

    def _set_apart(self, rows: Array, contents: pa.Array, compared: Array, judged: Array) -> None:
        _, places, inverse = np.unique(np.asarray(contents.dictionary_encode().indices), return_index=True, return_inverse=True)
        for node, place in enumerate(places.tolist(), len(self.first)):
            if compared[place]:
                self.beside.setdefault(int(self.number[rows[place]]), []).append(node)
            if judged[place]:
                self.of_content[contents[place].as_py()] = node
        self.number = self.number.copy()
        self.number[rows] = len(self.first) + inverse
        self.first = np.concatenate([self.first, rows[places]])

    def spread(self, pairs: Pairs) -> Pairs:
        """Pairs of hashes as pairs of nodes: what stands beside a hash has its neighbours, and itself at distance 0."""
        if not self.beside:
            return pairs
        extra: list[tuple[int, int, int]] = []
        some = np.array(list(self.beside))
        touched = np.isin(pairs.one, some) | np.isin(pairs.other, some)
        for a, b, distance in zip(*(column[touched].tolist() for column in pairs), strict=True):
            extra += [(x, y, distance) for x in self._all_of(a) for y in self._all_of(b) if (x, y) != (a, b)]
        for node in self.beside:
            those = self._all_of(node)
            extra += [(x, y, 0) for place, x in enumerate(those) for y in those[place + 1 :]]
        return _with(pairs, extra)

    def _all_of(self, node: int) -> list[int]:
        return [node, *self.beside.get(node, ())]

    def judged(self, pairs: Pairs, verdicts: Verdicts) -> Pairs:
        """Without the pairs that somebody told apart, and with those that somebody called the same, at distance FAR."""
        same = [(*both, FAR) for both in self.called(verdicts.same)]
        different = self.called(verdicts.different)
        if different:
            codes = pairs.one.astype(np.int64) * len(self.first) + pairs.other
            forbidden = [a * len(self.first) + b for x, y in different for a, b in ((x, y), (y, x))]
            keep = ~np.isin(codes, forbidden)
            pairs = Pairs(*(column[keep] for column in pairs))
        return _with(pairs, same)

    def called(self, verdicts: frozenset[tuple[str, str]]) -> list[tuple[int, int]]:
        """The nodes of verdicts whose contents are both here."""
        known = self.of_content
        return [(known[a], known[b]) for a, b in sorted(verdicts) if a in known and b in known]

    def rows_in(self, pairs: Pairs) -> Array:
        """The rows that share a node or have a neighbour, ascending; all others are alone."""
        touched = np.bincount(self.number, minlength=len(self.first)) > 1
        touched[pairs.one] = True
        touched[pairs.other] = True
        return np.flatnonzero(touched[self.number])


def _with(pairs: Pairs, extra: list[tuple[int, int, int]]) -> Pairs:
    if not extra:
        return pairs
    more = np.array(extra)
    return Pairs(*(np.concatenate([column, more[:, i].astype(column.dtype)]) for i, column in enumerate(pairs)))


def stars(nodes: Nodes, pairs: Pairs, order: Array) -> Array:
    """Each row's keeper (N,) int64, itself where it is kept.

    `pairs` are of nodes; `order` are the rows of nodes.rows_in(pairs), best first: the best row not yet taken keeps, and takes
    all its neighbours not yet taken. So the result depends on the pairs and the order alone, not on how either was come by.
    """
    best = nodes.first.astype(np.int64)
    best[nodes.number[order[::-1]]] = order[::-1]
    numbers = nodes.number[order]
    _, places = np.unique(numbers, return_index=True)
    keeper = _take(numbers[np.sort(places)], *_both_ways(len(nodes.first), pairs))
    return best[keeper[nodes.number]]


def _both_ways(nodes: int, pairs: Pairs) -> tuple[Array, Array]:
    """Each node's neighbours, at starts[node] .. starts[node + 1]."""
    ends = np.concatenate([pairs.one, pairs.other])
    order = np.argsort(ends, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=nodes))])
    return starts, np.concatenate([pairs.other, pairs.one])[order]


@njit(cache=True, nogil=True)
def _take(order: Array, starts: Array, others: Array) -> Array:
    keeper = np.arange(len(starts) - 1)
    free = np.ones(len(starts) - 1, np.bool_)
    for node in order:
        if not free[node]:
            continue
        free[node] = False
        for place in range(starts[node], starts[node + 1]):
            other = others[place]
            if free[other]:
                free[other] = False
                keeper[other] = node
    return keeper
