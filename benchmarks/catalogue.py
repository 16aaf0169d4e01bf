"""What work on a catalogue of synthetic rows takes: tags, rules, captions, columns and tables, in one process.

python benchmarks/catalogue.py --rows 6000000 --folder /tmp/rows
"""

import argparse
import os
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate import catalogue
from sotediffusion.curate.compose.cuts import AestheticTable, Cut, CutSettings, QualityTable
from sotediffusion.curate.compose.rules import Rules, RulesSettings
from sotediffusion.curate.compose.step import Compose
from sotediffusion.curate.engine.columns import Finished
from sotediffusion.curate.engine.runner import Runner
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.engine.work import Bench, Stage, Task
from sotediffusion.curate.lists import nest
from sotediffusion.curate.report import stats
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.curate.step import LISTING, Step
from sotediffusion.curate.tag.taglist import TagList
from sotediffusion.safety.rating import RATINGS

GENERAL, CHARACTERS, ARTISTS = 8000, 2700, 50_000
SITES = ("danbooru", "pixiv", "gelbooru", "yandere")
TAGS = pa.list_(pa.string())
SECRET = b"benchmark"
AIMS = {"compose": 60.0}  # seconds of steps


def tag_list() -> TagList:
    """As many names as a WD tagger of the third version has, two or three words each."""
    words = ("long", "short", "red", "blue", "open", "white", "black", "large")
    general = [f"{a}_thing{n}" for a in words for n in range(GENERAL // len(words))]
    names = (*RATINGS, *general, *(f"name_{n}_(series_{n % 300})" for n in range(CHARACTERS)))
    return TagList(names, ("9",) * 4 + ("0",) * GENERAL + ("4",) * CHARACTERS, (1,) * len(names), "0" * 64)


NAMES = pa.array(tag_list().names[4:])


def frequent(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Numbers below `most`, low ones oftener, as tags are in a booru."""
    return np.exp(rng.random(count) * np.log(most)).astype(np.int64) - 1


def lists(rng: np.random.Generator, rows: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of the rows' lists of tags begins, and tags."""
    starts = np.append(0, np.cumsum(rng.integers(low, high, rows)))
    return starts, frequent(rng, starts[-1], len(NAMES))


class Made(Step):
    """Columns made of nothing but the row's number."""

    version = 1
    workers = 1  # a stage of its own, as what opens pictures has

    def identity(self) -> dict[str, Any]:
        return {}


class Scan(Made):
    """What a scan finds of files with a booru's JSON beside half of them."""

    name = "scan"
    reads = tuple(LISTING.names)
    writes = pa.schema([("sha256", pa.string()), ("side_tags", TAGS), ("side_artist", TAGS), ("side_site", pa.string()),
                        ("side_date", pa.string()), ("side_extra", pa.string()), ("monochrome", pa.bool_())])  # fmt: skip

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        numbers = [int(path.rpartition("/")[2][:-4]) for path in rows.column("path").to_pylist()]
        rng, count = np.random.default_rng(numbers[0]), len(rows)
        starts, tags = lists(rng, count, 0, 20)
        artist = pa.array([f"artist {n}" for n in rng.integers(0, ARTISTS, count)])
        made = {
            "sha256": pa.array([f"{number:064x}" for number in numbers]),
            "side_tags": nest(NAMES.take(pa.array(tags)), starts),
            "side_artist": nest(artist, np.arange(count + 1)),
            "side_site": pa.array([SITES[number % 4] for number in numbers]),
            "side_date": pa.array([f"20{y:02d}-07-01T{y:02d}:00:00Z" for y in rng.integers(5, 25, count)]),
            "side_extra": pa.array(['{"file_ext": "jpg", "parent_id": 12345, "uploader": "somebody"}'] * count),
            "monochrome": pa.array(rng.random(count) < 0.05),
        }
        return pa.record_batch(list(made.values()), schema=self.writes)


class Tag(Made):
    """A tagger's columns: about 30 tags above the floor and 22 above the threshold."""

    name = "tag"
    reads = ("row",)
    writes = pa.schema([("tag_ids", pa.list_(pa.uint16())), ("tag_probs", pa.list_(pa.float16())),
                        ("rating_probs", pa.list_(pa.float32(), 4))])  # fmt: skip

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        rng = np.random.default_rng(rows.column("row")[0].as_py())
        starts, ids = lists(rng, len(rows), 15, 46)
        ratings = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(len(rows) * 4, np.float32)), 4)
        probabilities = pa.array(rng.uniform(0.05, 1, len(ids)).astype(np.float16))
        columns = [nest(pa.array((ids + 4).astype(np.uint16)), starts), nest(probabilities, starts), ratings]
        return pa.record_batch(columns, schema=self.writes)


class Score(Made):
    """A scorer's column."""

    reads = ("row",)

    def __init__(self, name: str):
        self.name = name  # type: ignore[misc]
        self.writes = pa.schema([(name, pa.float32())])

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        rng = np.random.default_rng(rows.column("row")[0].as_py())
        return pa.record_batch([pa.array(rng.random(len(rows), np.float32))], schema=self.writes)


class Many:
    """A source of so many files."""

    def __init__(self, count: int):
        self.count = count

    def listing(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.count, 4096):
            numbers = range(start, min(start + 4096, self.count))
            paths = [f"{SITES[number % 4]}/{number // 1000}/{number}.jpg" for number in numbers]
            yield pa.record_batch([pa.array(paths), pa.array([10_000] * len(paths)), pa.array([1] * len(paths))], schema=LISTING)


class Here:
    """Runs stages in this process, and says how long each step's share took."""

    workers = 1

    def __init__(self, store: Store):
        self.store = store

    def run(self, stage: Stage, tasks: Iterable[Task]) -> Iterator[Any]:
        spent = {placed.name: timed(placed.step) for placed in stage.steps if not isinstance(placed.step, Made)}
        bench = Bench(self.store, stage)
        if not spent:
            for task in tasks:
                yield from bench.work(task)
            return
        with line(f"{stage.name}, with reading and writing"):
            for task in tasks:
                yield from bench.work(task)
        for name, seconds in spent.items():
            print(f"  {name:58s} {seconds[0]:9.1f} {seconds[1]:9.1f}{aimed(seconds[0], AIMS.get(name))}", flush=True)

    def compare(self, *anything: Any) -> Any:
        raise NotImplementedError


def timed(step: Any) -> list[float]:
    """Wall and CPU seconds that a step's process takes from now on."""
    spent, process = [0.0, 0.0], step.process

    def measured(rows: pa.RecordBatch) -> pa.RecordBatch:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = process(rows)
        spent[0] += time.perf_counter() - wall
        spent[1] += time.process_time() - cpu
        return answer

    step.process = measured
    return spent


@contextmanager
def line(what: str, aim: float | None = None) -> Iterator[None]:
    """Print what was done, the wall and CPU seconds it took, and whether it reached its aim in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall = time.perf_counter() - wall
    print(f"{what:60s} {wall:9.1f} {time.process_time() - cpu:9.1f}{aimed(wall, aim)}", flush=True)


def aimed(value: float, aim: float | None) -> str:
    return "" if aim is None else f"   <= {aim:g}: {'yes' if value <= aim else 'NO'}"


def chain(*more: Step) -> list[Step]:
    scores = Score("score_aesthetic_shadow_v2"), Score("score_aes_b32_v0")
    return [Scan(), *scores, *more, Tag(), Cut(CutSettings(), tag_list()), Rules(), Compose()]


def walk(store: Store, rows: int, steps: list[Step]) -> Finished:
    runner = Runner(store, steps, Here(store))
    ledger = runner.run(Many(rows), SECRET)  # type: ignore[arg-type]
    return Finished(store, runner.chain.placed, runner.parts, ledger)


def catalogue_lines(folder: Path, rows: int) -> None:
    store = Store(folder / "catalogue")
    finished = walk(store, rows, [Scan(), Score("score_aesthetic_shadow_v2")])
    catalogue.commit(finished, {})
    finished = walk(store, rows, chain()[:-3])
    with line("tag lists (30 a picture) and two scores into the catalogue", 60):
        catalogue.commit(finished, {})
    finished = walk(store, rows, chain())
    with line("tags, dates, captions and all into the catalogue"):
        catalogue.commit(finished, {})
    with line(f"a run that finds {rows:,} known files and nothing to do"):
        catalogue.commit(walk(store, rows, chain()), {})
    finished = walk(store, rows, chain(Score("score_new")))
    with line("a float column into the catalogue", 2):
        catalogue.commit(finished, {})
    with line("the four card tables and the tag counts", 10):
        opened = stats.Catalogue(catalogue.read(store.root), threads=1)
        tables = [
            stats.partition(opened, RulesSettings()),
            stats.rating_table(opened),
            stats.score_table(opened, "", "aesthetic", AestheticTable()),
            stats.score_table(opened, "", "quality", QualityTable()),
        ]
        counted = len(stats.tag_counts(opened))
    print(f"  {counted:,} tags; {tables[0].total:,} pictures in each table")


def listing_line(folder: Path, files: int) -> None:
    """Empty files in folders of a thousand, half of them with a sidecar."""
    place = folder / "files"
    for number in range(files):
        if number % 1000 == 0:
            (place / f"{number // 1000}").mkdir(parents=True)
        (place / f"{number // 1000}" / f"{number}.jpg").touch()
        if number % 2:
            (place / f"{number // 1000}" / f"{number}.jpg.json").touch()
    source, store = open_source(str(place)), Store(folder / "listed")
    Runner(store, [Named()], Here(store)).run(source, SECRET)
    with line(f"{files:,} known files on the disk, listed and known again", 60):
        Runner(store, [Named()], Here(store)).run(source, SECRET)


class Named(Made):
    """A first step that looks at nothing."""

    name = "scan"
    reads = tuple(LISTING.names)
    writes = pa.schema([("sha256", pa.string())])

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([rows.column("path")], schema=self.writes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--files", type=int, default=1_000_000, help="Files on the disk that a scan lists; 0 leaves that out.")
    parser.add_argument("--folder", type=Path, required=True, help="Where the rows are written; it is emptied.")
    args = parser.parse_args()
    pa.set_cpu_count(1)
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    what = f"{args.rows:,} rows, one process, {len(os.sched_getaffinity(0))} cores"
    print(f"{what:60s}      wall     CPU s   aim for 6M rows, 1M files")
    if args.files:
        listing_line(args.folder, args.files)
    catalogue_lines(args.folder, args.rows)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory: {most:.2f} GiB{aimed(most, 4)}")


if __name__ == "__main__":
    main()
