"""Pictures that are elsewhere already, read as hashes: from a catalogue, or from a folder that is scanned for it.

What a folder's files hash to is kept in the run's store under a digest of path, size and time, so that a run opens new ones only:
references/DIGEST-OF-THE-PLACE.arrow with a `key` and its `phash`, null for what is no picture. No name of a file is kept.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.catalogue import DATASET, read
from sotediffusion.curate.dedupe.phash import BYTES, hash_array
from sotediffusion.curate.dedupe.step import NO_REFERENCE, Reference
from sotediffusion.curate.engine.columns import DROPPED
from sotediffusion.curate.engine.guarded import Guarded
from sotediffusion.curate.engine.processes import KILLS
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.policy import rule_digest
from sotediffusion.curate.scan.sources import PictureSource, open_source, whole
from sotediffusion.curate.scan.step import SCANNED, ScanStep
from sotediffusion.curate.step import LISTING
from sotediffusion.types import UserError

Array = np.ndarray[Any, Any]

KEPT = pa.schema([("key", pa.binary(32)), ("phash", pa.binary(BYTES))])
PASSING = (KILLS, "unreadable", "bomb")  # reasons that another day, or more memory, may do away with
FOLDER = "references"
_NAMED = 6  # files of a sentence about those left out
_BATCH = 256  # rows that are put together at a time


@dataclass(frozen=True)
class Reading:
    """How a reference set is read: bytes that a picture may take, where hashes are kept, and who is told of what is left out."""

    memory: int = 0
    store: Store | None = None
    say: Callable[[str], None] = lambda _: None


def read_reference(places: Sequence[str], how: Reading = Reading()) -> Reference:
    """The hashes of the kept pictures of catalogues and of all in folders, tars or URLs; UserError for one that is not there."""
    if not places:
        return NO_REFERENCE
    tables = [_known(place, how) for place in places]
    known = [table.filter(pc.is_valid(table.column("phash"))).select(["path", "phash"]).combine_chunks() for table in tables]
    hashes = [hash_array(table.column("phash").combine_chunks()) for table in known if len(table)]
    paths = [f"{place}/{path}" for place, table in zip(places, known, strict=True) for path in table.column("path").to_pylist()]
    together = np.concatenate([np.zeros((0, BYTES), np.uint8), *hashes])
    digest = hashlib.sha256(together.tobytes() + "\0".join(paths).encode()).hexdigest()
    return Reference(together, paths, digest)


def _known(place: str, how: Reading) -> pa.Table:
    """Paths and hashes of what is in a place. What a catalogue left out is not in it: a small copy there takes no place here."""
    source = open_source(place)
    if not Store(whole(place)).exists(DATASET):
        return hashed(whole(place), source, how)
    return read(whole(place)).to_table(columns=["path", "phash"], filter=f"not {DROPPED}")


class _Scans:
    """A source that gives what the scan says of a picture in its place: a row of SCANNED, as bytes of Arrow."""

    def __init__(self, source: PictureSource):
        self.scan = ScanStep(source)

    def decode(self, path: str) -> Array:
        sizes = pa.nulls(1, pa.int64())  # a file of any size is read: the process has its limit
        row = self.scan.process(pa.record_batch([pa.array([path]), sizes], names=["path", "bytes"]))
        return np.frombuffer(row.serialize(), np.uint8)


def hashed(place: str, source: PictureSource, how: Reading) -> pa.Table:
    """The path and hash of every file of a source, null for what is no picture; only what is new since the last run is opened."""
    listed = pa.Table.from_batches(source.listing(), LISTING)
    if not len(listed):
        raise UserError("source", "there are no pictures in it; give another place")
    keys = [hashlib.sha256(repr(tuple(row.values())).encode()).digest() for row in listed.to_pylist()]
    paths, known = listed.column("path").to_pylist(), _kept(place, how.store)
    new = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    rows = _look(source, how.memory, list(new.values())).select(["phash", "drop_scan"]).to_pylist()
    found = {key: (row["phash"], row["drop_scan"] or "") for key, row in zip(new, rows, strict=True)}
    killed = sorted(new[key] for key, (_, reason) in found.items() if reason == KILLS)
    if killed:
        how.say(f"{len(killed)} files of {place} kill the decoder and do not count: {', '.join(killed[:_NAMED])}")
    lasting = known | {key: phash for key, (phash, reason) in found.items() if not reason.startswith(PASSING)}
    if how.store and found:
        kept = {key: lasting[key] for key in keys if key in lasting}
        columns = [pa.array(values, field.type) for values, field in zip((kept.keys(), kept.values()), KEPT, strict=True)]
        how.store.write_table(_file(place), pa.Table.from_arrays(columns, schema=KEPT))
    hashes = pa.array([lasting.get(key) for key in keys], KEPT.field("phash").type)
    return pa.table({"path": listed.column("path"), "phash": hashes})


def _look(
    source: PictureSource, memory: int, paths: Sequence[str], told: Callable[[int], object] = lambda more: None
) -> pa.Table:
    """What the scan says of each picture, in processes that may die of one; reasons only for those that they died of."""
    pictures = Guarded(_Scans(source), memory, np.asarray)

    def one(path: str) -> pa.RecordBatch:
        try:
            return pa.ipc.read_record_batch(pa.py_buffer(pictures.decode(path)), SCANNED)
        except ValueError as error:
            reason = str(error)
        except OSError as error:
            reason = f"unreadable: {error}"
        return pa.RecordBatch.from_pylist([{"drop_scan": reason}], SCANNED)

    pool = ThreadPoolExecutor(len(sched_getaffinity(0)))
    try:
        tables = [SCANNED.empty_table()]
        for start in range(0, len(paths), _BATCH):
            rows = list(pool.map(one, paths[start : start + _BATCH]))
            tables.append(pa.Table.from_batches(rows).combine_chunks())
            told(len(rows))
        return pa.concat_tables(tables)
    finally:
        pool.shutdown(cancel_futures=True)


def _kept(place: str, store: Store | None) -> dict[bytes, bytes | None]:
    """The hashes of earlier runs by the digests of their files."""
    try:
        table = store.read_table(_file(place)) if store else KEPT.empty_table()
    except FileNotFoundError:
        return {}
    return dict(zip(table.column("key").to_pylist(), table.column("phash").to_pylist(), strict=True))


def _file(place: str) -> str:
    """Where the hashes of a place are kept, by all that they depend on."""
    return f"{FOLDER}/{hashlib.sha256(repr((place, ScanStep.version, rule_digest())).encode()).hexdigest()[:32]}.arrow"


def scanned(source: PictureSource, memory: int = 0, told: Callable[[int], object] = lambda more: None) -> pa.Table:
    """What the listing and the scan say of every file of a source, with `row` numbers in the listing's order.

    `memory`: bytes that a picture may take, 0 for any. `told`: hears how many more files were looked at. Raises UserError where
    nothing is listed.
    """
    listed = pa.Table.from_batches(source.listing(), LISTING)
    if not len(listed):
        raise UserError("source", "there are no pictures in it; give another place")
    found = _look(source, memory, listed.column("path").to_pylist(), told)
    return pa.table({"row": pa.array(np.arange(len(listed)))} | _columns(listed) | _columns(found)).combine_chunks()


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name) for name in table.column_names}
