"""The step that finds pictures that are there more than once, keeps the best of each, and says which that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.config import plain
from sotediffusion.curate.dedupe import heirs
from sotediffusion.curate.dedupe.alike import Alike, Look, look_closer
from sotediffusion.curate.dedupe.crops import crop_pairs
from sotediffusion.curate.dedupe.groups import Nodes, stars
from sotediffusion.curate.dedupe.looked import Looked
from sotediffusion.curate.dedupe.neighbours import MAX_RADIUS, Pairs, near_pairs
from sotediffusion.curate.dedupe.phash import BYTES, hash_array
from sotediffusion.curate.dedupe.verdicts import Verdicts
from sotediffusion.curate.step import Pictures, WholeStep
from sotediffusion.types import UserError

Array = np.ndarray[Any, Any]

READS = ("row", "path", "sha256", "bytes", "format", "width", "height", "phash", "blank", "luma_mean", "luma_std", "chroma")
WRITES = pa.schema([("group", pa.int64()), ("distance", pa.int16()), ("candidate", pa.int64()), *heirs.WRITES,
                    ("drop_dedupe", pa.string())])  # fmt: skip
LOSSLESS = ("png", "bmp")  # WebP, AVIF and JPEG XL can be either, and the scan does not say which
WORDS = {"copy": "duplicate", "crop": "crop", "watermark": "watermark", "variant": "variant"}  # of the reasons


@dataclass(frozen=True)
class DedupeSettings:
    """The section [dedupe]. Distances are bits of the 256-bit hash."""

    radius: int = 10  # up to here two pictures are the same
    candidates: int = 24  # up to here they are looked at; no more than `radius` switches that off
    crops: int = 80  # up to here pictures of the same light and colour are looked at too, as crops lie far apart; 0 is off
    variants: Literal["keep", "keep one", "link"] = "keep"  # of one picture with a part redrawn
    sources: tuple[str, ...] = ()  # of equal pictures the one whose path begins with an earlier of these is kept
    reference: tuple[str, ...] = ()  # folders, tars or catalogues: what is in there already is left out here


@dataclass(frozen=True)
class Reference:
    """Pictures that are elsewhere already: hashes (R, 32) uint8, where they are, and a digest of all of it."""

    hashes: Array
    paths: Sequence[str]
    digest: str


NO_REFERENCE = Reference(np.zeros((0, BYTES), np.uint8), (), "")


class DedupeStep(WholeStep):
    """Groups of near-duplicates, each around the picture that is kept; see DedupeSettings for what counts as one.

    Without a source nothing can be looked at: candidates are then only named. A picture that turns out not to open is left out,
    and its group is found anew without it.
    """

    name = "dedupe"
    version = 2
    reads = (*READS, *heirs.ASIDES)
    asides = heirs.ASIDES
    otherwise = ", or compare hashes alone with -s dedupe.candidates=0 -s dedupe.crops=0"
    writes = WRITES

    def __init__(self, settings: DedupeSettings = DedupeSettings(), source: Pictures | None = None,
                 verdicts: Verdicts = Verdicts(), reference: Reference = NO_REFERENCE, looked: Looked | None = None):  # fmt: skip
        for name in ("radius", "candidates"):
            if not 0 <= getattr(settings, name) <= MAX_RADIUS:
                raise UserError(f"dedupe.{name}", f"{getattr(settings, name)} is out of range; take 0 to {MAX_RADIUS}")
        self.settings, self.source, self.verdicts, self.reference = settings, source, verdicts, reference
        self.looked = looked or Looked()

    def identity(self) -> dict[str, Any]:
        """The settings, the verdicts, the content of the reference set, and how often bad pictures had another chance."""
        said = {**plain(self.settings), "verdicts": self.verdicts.digest(), "reference": self.reference.digest}
        retried = self.looked.retried()
        return {**said, "retried": retried} if retried else said

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Answers for every row; one without a hash takes no part and gets nulls."""
        hashed = np.flatnonzero(np.asarray(pc.is_valid(rows.column("phash"))))
        bad: dict[int, str] = {}
        while True:
            found = find(rows.take(pa.array(hashed)), self)
            if not found.bad:
                return pa.record_batch(_columns(rows, hashed, found, self, bad), schema=WRITES)
            bad |= {int(hashed[place]): reason for place, reason in found.bad.items()}
            hashed = np.delete(hashed, [*found.bad])


@dataclass
class Found:
    """Of N rows with hashes: each one's keeper (below 0: of the reference, from its end), how it is like it, how far."""

    keeper: Array  # (N,), itself where it is kept
    kind: dict[int, str]  # of rows that a closer look folded into another; all others left out are copies
    distance: Array  # (N,) int16 bits between a row and its keeper
    candidate: dict[int, int]
    bad: dict[int, str]  # rows that cannot be opened, which spoils all the rest of this


def find(rows: pa.RecordBatch, step: DedupeStep) -> Found:
    """Keepers among rows that all have a hash: first by hash alone, then by a closer look at the keepers that are left."""
    settings, before = step.settings, len(step.reference.hashes)
    own = hash_array(rows.column("phash"))
    hashes = np.concatenate([step.reference.hashes, own]) if before else own
    contents = pa.concat_arrays([pa.nulls(before, pa.string()), rows.column("sha256").cast(pa.string())])
    blank = np.concatenate([np.zeros(before, bool), np.asarray(rows.column("blank").fill_null(False))]) | ~hashes.any(1)
    nodes = Nodes.of(hashes, contents, blank, step.verdicts)
    pairs = near_pairs(nodes.hashes, max(settings.radius, settings.candidates))
    pairs = _apart_from_itself(nodes.spread(pairs), nodes, before)
    near = nodes.judged(_where(pairs, pairs.distance <= settings.radius), step.verdicts)
    order = _in_order(nodes.rows_in(near), rows, step, before)
    keeper = stars(nodes, near, order)
    looked = _to_look_at(_where(pairs, pairs.distance > settings.radius), nodes, keeper, rows, step)
    alike = look_closer(looked, rows, Look(step.source, step.looked, step.reached), settings.variants == "keep one")
    if settings.variants != "link" and step.source is not None:
        alike = alike._replace(variants={})
    return _settled(hashes, keeper, alike, before)


def _to_look_at(far: Pairs, nodes: Nodes, keeper: Array, rows: pa.RecordBatch, step: DedupeStep) -> Array:
    """Pairs of kept rows (P, 2) that may be one picture, the better first, by rank; those told apart by a person left out."""
    before = len(step.reference.hashes)
    rows_of = keeper[nodes.first]  # of each node: its own best row, or the one that took it
    kept = nodes.number[rows_of] == np.arange(len(nodes.first))
    pairs = np.stack([rows_of[far.one], rows_of[far.other]], axis=1)[kept[far.one] & kept[far.other]]
    chosen = rows_of[: len(nodes.hashes)][kept[: len(nodes.hashes)]] - before
    chosen = chosen[chosen >= 0]
    found = crop_pairs(hash_array(rows.column("phash"))[chosen], _light(rows)[chosen], step.settings.crops)
    pairs = np.concatenate([pairs, chosen[found] + before])
    pairs = pairs[(pairs >= before).all(1)]
    told = {tuple(sorted((rows_of[a], rows_of[b]))) for a, b in nodes.called(step.verdicts.different)}
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    if told:
        pairs = pairs[[tuple(both) not in told for both in pairs.tolist()]]
    involved = np.unique(pairs)
    rank = np.empty(len(involved), np.int64)
    rank[best_first(rows.take(pa.array(involved - before)), step.settings, step.verdicts.keep)] = np.arange(len(involved))
    ranks = np.sort(rank[np.searchsorted(involved, pairs)], axis=1)
    by_rank = involved[np.argsort(rank)]
    return by_rank[ranks[np.lexsort([ranks[:, 1], ranks[:, 0]])]] - before


def best_first(rows: pa.RecordBatch, settings: DedupeSettings, preferred: frozenset[str]) -> Array:
    """Places of the rows, best first: those that a person chose, pixels, lossless formats, bytes, source, and the oldest row."""
    chosen = np.asarray(pc.is_in(rows.column("sha256"), pa.array(sorted(preferred), pa.string())))
    lossless = np.asarray(pc.is_in(rows.column("format"), pa.array(LOSSLESS)))
    pixels = _numbers(rows, "width") * _numbers(rows, "height")
    rank = np.full(len(rows), len(settings.sources))
    for place, prefix in reversed(list(enumerate(settings.sources))):
        rank[np.asarray(pc.starts_with(rows.column("path"), prefix).fill_null(False))] = place
    return np.lexsort([_numbers(rows, "row"), rank, -_numbers(rows, "bytes"), ~lossless, -pixels, ~chosen])


def _numbers(rows: pa.RecordBatch, name: str) -> Array:
    return np.asarray(rows.column(name).cast(pa.int64()).fill_null(0))


def _light(rows: pa.RecordBatch) -> Array:
    return np.stack([np.asarray(rows.column(name).fill_null(0)) for name in ("luma_mean", "luma_std", "chroma")], axis=1)


def _in_order(involved: Array, rows: pa.RecordBatch, step: DedupeStep, before: int) -> Array:
    """The involved rows, the reference's before all others."""
    own = involved[involved >= before]
    subset = rows.take(pa.array(own - before))
    return np.concatenate([involved[involved < before], own[best_first(subset, step.settings, step.verdicts.keep)]])


def _apart_from_itself(pairs: Pairs, nodes: Nodes, before: int) -> Pairs:
    """Without the pairs within the reference: none of its pictures may take another one's place there."""
    if not before:
        return pairs
    held = np.zeros(len(nodes.first), bool)
    held[nodes.number[:before]] = True
    return _where(pairs, ~(held[pairs.one] & held[pairs.other]))


def _where(pairs: Pairs, mask: Array) -> Pairs:
    return Pairs(*(column[mask] for column in pairs))


def _settled(hashes: Array, keeper: Array, alike: Alike, before: int) -> Found:
    """Rows follow their keeper where that was folded into another."""
    final = np.arange(len(keeper))
    for row, (into, _) in alike.folded.items():
        final[row + before] = into + before
    keeper = final[keeper]
    moved = np.flatnonzero(keeper != np.arange(len(keeper)))
    distance = np.zeros(len(keeper), np.int16)
    distance[moved] = np.bitwise_count(hashes[moved] ^ hashes[keeper[moved]]).sum(1)
    kinds = {row: kind for row, (_, kind) in alike.folded.items()}
    return Found(keeper[before:] - before, kinds, distance[before:], alike.variants, alike.bad)


def _columns(rows: pa.RecordBatch, hashed: Array, found: Found, step: DedupeStep, bad: dict[int, str]) -> list[pa.Array]:
    numbers, paths = np.asarray(rows.column("row")).take(hashed), rows.column("path")
    left_out = found.keeper != np.arange(len(hashed))
    outside = found.keeper < 0
    leads = np.zeros(len(hashed), bool)
    leads[found.keeper[left_out & ~outside]] = True
    group = np.full(len(rows), -1, np.int64)
    group[hashed] = np.where((left_out & ~outside) | leads, numbers[np.maximum(found.keeper, 0)], -1)
    distance = np.full(len(rows), -1, np.int16)
    distance[hashed] = np.where(left_out | leads, found.distance, -1)
    candidate = np.full(len(rows), -1, np.int64)
    for place, other in found.candidate.items():
        candidate[hashed[place]] = numbers[other]
    reasons: list[str | None] = [bad.get(place) for place in range(len(rows))] if bad else [None] * len(rows)
    for place in np.flatnonzero(left_out).tolist():
        keeper = int(found.keeper[place])
        reasons[hashed[place]] = (
            f"in the reference set: {step.reference.paths[len(step.reference.paths) + keeper]}" if keeper < 0
            else f"{WORDS[found.kind.get(place, 'copy')]}: of {paths[int(hashed[keeper])]}"
        )  # fmt: skip
    numbered = [pa.array(column, mask=column < 0) for column in (group, distance, candidate)]
    inherited = _inherited(hashed, numbers, found.keeper, left_out & ~outside, step, len(rows))
    return [*numbered, *inherited, pa.array(reasons, pa.string())]


def _inherited(hashed: Array, numbers: Array, keeper: Array, copies: Array, step: DedupeStep, count: int) -> list[pa.Array]:
    """What kept pictures take over from the copies of them."""
    if step.fetch is None or not copies.any():
        return [pa.nulls(count, column.type) for column in heirs.WRITES]
    places = np.flatnonzero(copies)
    places = places[np.argsort(numbers[places])]
    return heirs.taken_over(hashed[keeper[places]], step.fetch(heirs.ASIDES, numbers[places]), count)
