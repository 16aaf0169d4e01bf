"""How long tags, captions, card tables and tag counts take on a catalogue of synthetic rows, and how much memory.

python benchmarks/catalogue.py --rows 6000000 --folder /tmp/rows
"""

import argparse
import os
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from sotediffusion.curate.compose.cuts import READS, AestheticTable, Cut, CutSettings, QualityTable
from sotediffusion.curate.compose.lists import nest
from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.compose.step import Compose, ComposeSettings
from sotediffusion.curate.report import stats
from sotediffusion.curate.tag.taglist import TagList
from sotediffusion.safety.rating import RATINGS

SHARD = 65_536  # rows of a file
BATCH = 4096  # rows that a step gets at once, as in a run
GENERAL, CHARACTERS = 8000, 2700


def tag_list() -> TagList:
    """As many names as a WD tagger of the third version has, two or three words each."""
    general = [
        f"{a}_{b}"
        for a in ("long", "short", "red", "blue", "open", "white", "black", "large")
        for b in map("thing{}".format, range(1000))
    ]
    names = (*RATINGS, *general, *(f"name_{n}_(series_{n % 300})" for n in range(CHARACTERS)))
    return TagList(names, ("9",) * 4 + ("0",) * GENERAL + ("4",) * CHARACTERS, (1,) * len(names), "0" * 64)


def numbers(count: int, seed: int) -> pa.RecordBatch:
    """A tagger's columns: about 30 tags above the floor and 22 above the threshold, frequent ones first, as in a booru."""
    rng = np.random.default_rng(seed)
    many = rng.integers(15, 46, count)
    rows = np.repeat(np.arange(count), many)
    ids = (4 + np.exp(rng.random(len(rows)) * np.log(GENERAL + CHARACTERS - 1))).astype(np.uint16)
    probabilities = pa.array(rng.uniform(0.05, 1, len(rows)).astype(np.float16))
    known = {
        "tag_ids": nest(pa.array(ids), rows, count),
        "tag_probs": nest(probabilities, rows, count),
        "rating_probs": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(count * 4, np.float32)), 4),
    }
    return pa.record_batch([known.get(field.name, pa.nulls(count, field.type)) for field in READS], schema=READS)


def scored(rows: pa.RecordBatch, schema: pa.Schema, seed: int) -> pa.RecordBatch:
    """The other columns that captions are made of."""
    rng = np.random.default_rng(seed)
    count = len(rows)
    eras = pa.array(["newest", "recent", "mid", "early", "oldest", None], pa.string())
    made = {"date": eras.take(pa.array(rng.integers(0, 6, count)))}
    made |= {name: pa.array(rng.random(count, np.float32)) for name in schema.names if name.startswith("score_")}
    made |= {name: rows.column(name) for name in rows.schema.names}
    return pa.record_batch([made.get(field.name, pa.nulls(count, field.type)) for field in schema], schema=schema)


def shard(order: tuple[Path, int, int]) -> tuple[float, float]:
    """Cut and compose the rows of one file and write it; seconds of each."""
    folder, number, count = order
    cut, compose = Cut(CutSettings(), tag_list()), Compose(ComposeSettings())
    cut.setup()
    compose.setup()
    spent, batches = [0.0, 0.0], []
    for start in range(0, count, BATCH):
        given = numbers(min(BATCH, count - start), number * SHARD + start)
        began = time.perf_counter()
        tags = cut.process(given)
        spent[0] += time.perf_counter() - began
        columns = scored(tags, compose.columns, start)
        began = time.perf_counter()
        captions = compose.process(columns)
        spent[1] += time.perf_counter() - began
        more = {"rating": tags["rating"], "date": columns["date"], "source": pa.array(["danbooru"] * len(tags))}
        batches.append(pa.record_batch([*captions.columns, *more.values()], names=[*captions.schema.names, *more]))
    with pa.OSFile(str(folder / f"{number:05d}.arrow"), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return spent[0], spent[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="Where the rows are written; it is emptied.")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    orders = [(args.folder, n, min(SHARD, args.rows - start)) for n, start in enumerate(range(0, args.rows, SHARD))]
    with ProcessPoolExecutor(args.workers) as pool:
        spent = np.array(list(pool.map(shard, orders))).sum(axis=0) / min(args.workers, len(orders))
    print(f"{args.rows} rows, {args.workers} workers")
    print(f"tag lists {spent[0]:.1f} s, captions {spent[1]:.1f} s (without reading and writing)")
    began = time.perf_counter()
    catalogue = stats.Catalogue(ds.dataset(args.folder, format="arrow"))
    tables = [
        stats.partition(catalogue, RulesSettings()),
        stats.rating_table(catalogue),
        stats.score_table(catalogue, "", "aesthetic", AestheticTable()),
        stats.score_table(catalogue, "", "quality", QualityTable()),
    ]
    between = time.perf_counter()
    tags = stats.tag_counts(catalogue)
    print(f"card tables {between - began:.1f} s, {tables[0].total} pictures in each")
    print(f"{len(tags)} tags counted in {time.perf_counter() - between:.1f} s")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    print(f"largest process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
