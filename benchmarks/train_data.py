"""How long a catalogue of synthetic rows takes to become training samples, in what memory; samples a second that one core reads.

python benchmarks/train_data.py --rows 6000000 --folder /tmp/rows
"""

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.buckets import BucketSettings
from sotediffusion.curate.catalogue import Version
from sotediffusion.curate.compose.step import CAPTION
from sotediffusion.text.tokenizer import ClipTokenizer
from sotediffusion.train.captions import CaptionSettings
from sotediffusion.train.fields import CachedLatents
from sotediffusion.train.fit import Faults
from sotediffusion.train.latents import LatentCache, keys_of
from sotediffusion.train.order import Order
from sotediffusion.train.readers.catalogue import read_catalogue
from sotediffusion.train.samples import Samples
from sotediffusion.train.stream import Making, Stream, fits_of
from sotediffusion.train.wording import Wording

SHARD = 65_536  # rows made at once
LATENTS = 4096  # of the loading test
GROUPS = ("aesthetic", "quality", "date", "rating", "custom", "character", "rest", "text")
WORDS = [f"{a} {b} {n}" for a in ("long", "red", "open", "white") for b in ("hair", "eyes", "dress", "hat") for n in range(700)]


def lists(items: pa.Array, lengths: "np.ndarray") -> pa.ListArray:
    """Lists of these lengths."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), items)


def rows(start: int, count: int) -> pa.RecordBatch:
    """Pictures with about 30 tags, frequent ones first as in a booru; every twentieth shows a text of its own."""
    rng = np.random.default_rng(start)
    many = np.ones((count, len(GROUPS)), np.int64)
    many[:, -2] = rng.integers(12, 36, count)
    many[:, -1] = rng.random(count) < 0.05
    there = np.flatnonzero(many)
    lengths = many.reshape(-1)[there]
    names = np.exp(rng.random(lengths.sum()) * np.log(len(WORDS) - 1)).astype(np.int64)
    tags = pa.array(WORDS).take(pa.array(names))
    shown = np.repeat(there % len(GROUPS) == len(GROUPS) - 1, lengths)
    texts = pa.array([f'The text says "number {start + i}"' for i in range(int(shown.sum()))], pa.string())
    tags = pc.replace_with_mask(tags, pa.array(shown), texts)
    groups = pa.array(GROUPS).take(pa.array(there % len(GROUPS)))
    parts = pa.StructArray.from_arrays([groups, lists(tags, lengths)], names=["group", "tags"])
    captions = lists(parts, (many > 0).sum(1))
    digests = rng.integers(0, 256, (count, 32), np.uint8).tobytes().hex()
    sides = [np.exp(rng.normal(mean, 0.3, count)).astype(np.int32) // 4 * 4 for mean in (7.2, 7.4)]
    columns = {
        "path": pa.array([f"danbooru/{i % 1000:03d}/danbooru_{i}.jpg" for i in range(start, start + count)]),
        "sha256": pa.array([digests[64 * i : 64 * i + 64] for i in range(count)]),
        "width": pa.array(sides[0]), "height": pa.array(sides[1]), "caption": captions.cast(CAPTION),
        "repeats": pa.array(np.where(rng.random(count) < 0.02, 6, 1), pa.int16()), "dropped": pa.array(rng.random(count) < 0.05),
    }  # fmt: skip
    return pa.record_batch(columns)


def make_catalogue(place: Path, count: int) -> None:
    """A finished catalogue, as `sote curate run` leaves it."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, SHARD):
            yield rows(start, min(SHARD, count - start))

    reader = pa.RecordBatchReader.from_batches(rows(0, 1).schema, batches())
    dataset = lance.write_dataset(reader, str(place / "catalogue.lance"), mode="overwrite")
    version = Version("v1", dataset.version, "2024-01-01 00:00:00", count, count, {}, {}, {"source": "/nowhere"})
    (place / "versions").mkdir()
    (place / "versions" / "v1.json").write_text(json.dumps(asdict(version)))
    for name in ("v1", "latest"):
        dataset.tags.create(name, dataset.version)


def timed(what: str, call: Callable[[], object]) -> object:
    """Do something and print how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = call()
    print(f"{what}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} CPU s", flush=True)
    return made


def loading(samples: Samples, place: Path, chunks: int, count: int) -> None:
    """Samples a second from kept latents with captions and tokens."""
    some = samples.take(np.arange(LATENTS))
    fits = fits_of(some, BucketSettings())
    cache = LatentCache(str(place / "latents"), {})
    rng = np.random.default_rng(0)
    for size in np.unique(fits[:, :2], axis=0):
        own = np.flatnonzero((fits[:, :2] == size).all(1))
        latents = rng.standard_normal((len(own), 16, size[1] // 32, size[0] // 32), np.float32).astype(np.float16)
        cache.write(keys_of(some.content[own], fits[own], np.zeros(len(own), bool)), latents)
    fields = {"effnet": CachedLatents(some, fits, cache, Faults(0), False)}
    settings = CaptionSettings(chunks=chunks)
    stream = Stream(some, fits, fields, Wording(some, settings, ClipTokenizer()), Making(captions=settings))
    batches = stream.batches(0, 0, 128)
    seen, cpu = 0, 0.0
    while seen < 2 * count:
        begun = time.process_time()
        batch = next(batches)
        cpu += (time.process_time() - begun) if seen >= count else 0.0  # the first half warms up
        seen += batch.size
    print(f"kept samples with captions of {chunks} chunks: {(seen - count) / cpu:.0f} a second of one core's time", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    place = options.folder
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    make_catalogue(place, options.rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    samples = timed(f"read a catalogue of {options.rows} rows", lambda: read_catalogue(str(place)))
    assert isinstance(samples, Samples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"the table: {samples.rows.nbytes / 1e9:.2f} GB; peak {peak / 1e6:.2f} GB, before {before / 1e6:.2f} GB")
    timed("save it", lambda: samples.save(place / "samples.arrow"))
    opened = timed("open it", lambda: Samples.open(place / "samples.arrow"))
    assert isinstance(opened, Samples)
    fits = timed("fit all pictures into buckets", lambda: fits_of(opened, BucketSettings()))
    sizes = np.unique(np.asarray(fits)[:, 0].astype(np.int64) << 32 | np.asarray(fits)[:, 1], return_inverse=True)[1]
    order = Order(sizes, opened.column("repeats"), 128)
    timed("order an epoch", lambda: order.epoch(0, 0))
    for chunks in (1, 3):
        loading(opened, place / str(chunks), chunks, 4 * LATENTS)


if __name__ == "__main__":
    main()
