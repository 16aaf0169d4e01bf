"""Pictures that are elsewhere already, read as hashes: from a catalogue, or from a folder that is scanned for it."""

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from os import sched_getaffinity
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.catalogue import DATASET, read
from sotediffusion.curate.dedupe.phash import BYTES, hash_array
from sotediffusion.curate.dedupe.step import NO_REFERENCE, Reference
from sotediffusion.curate.engine.columns import DROPPED
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.scan.sources import PictureSource, open_source, whole
from sotediffusion.curate.scan.step import ScanStep
from sotediffusion.types import UserError

_BATCH = 128  # files that a process scans in one go
_FEW = 64  # files that are not worth a second process


def read_reference(places: Sequence[str]) -> Reference:
    """The hashes of the kept pictures of catalogues and of all in folders, tars or URLs; UserError for one that is not there."""
    if not places:
        return NO_REFERENCE
    tables = [_known(place) for place in places]
    known = [table.filter(pc.is_valid(table.column("phash"))).select(["path", "phash"]).combine_chunks() for table in tables]
    hashes = [hash_array(table.column("phash").combine_chunks()) for table in known if len(table)]
    paths = [f"{place}/{path}" for place, table in zip(places, known, strict=True) for path in table.column("path").to_pylist()]
    together = np.concatenate([np.zeros((0, BYTES), np.uint8), *hashes])
    digest = hashlib.sha256(together.tobytes() + "\0".join(paths).encode()).hexdigest()
    return Reference(together, paths, digest)


def _known(place: str) -> pa.Table:
    """Paths and hashes of what is in a place. What a catalogue left out is not in it: a small copy there takes no place here."""
    source = open_source(place)
    if not Store(whole(place)).exists(DATASET):
        return scanned(source)
    return read(whole(place)).to_table(columns=["path", "phash"], filter=f"not {DROPPED}")


def scanned(source: PictureSource) -> pa.Table:
    """What the listing and the scan say of every file of a source, with `row` numbers in the listing's order."""
    batches = list(_cut(source))
    step = ScanStep(source)
    if sum(map(len, batches)) <= _FEW:
        results = [step.process(batch) for batch in batches]
    else:
        with ProcessPoolExecutor(len(sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(step.process, batches))
    if not batches:
        raise UserError("source", "there are no pictures in it; give another place")
    listed, found = pa.Table.from_batches(batches), pa.Table.from_batches(results)
    table = pa.table({"row": pa.array(np.arange(len(listed)))} | _columns(listed) | _columns(found))
    return table.combine_chunks()


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name) for name in table.column_names}


def _cut(source: PictureSource) -> Iterator[pa.RecordBatch]:
    for batch in source.listing():
        for start in range(0, len(batch), _BATCH):
            yield batch.slice(start, _BATCH)
