"""Times pixels on their way to the models: `python benchmarks/pictures.py [--workers 2] [--count 240] [--rounds 9]`.

First what decoding and each view cost one core, CPU milliseconds a picture, beside the same view by the library whose bytes it
has to give; then the engine with decoding workers, shared memory and a model process that answers at once, in pictures a second
by the clock and per core second of all its processes. Pictures are drawn, 1500x2000, JPEG 4:4:4 of quality 92 with some grain.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from sotediffusion.curate.engine.local import Local  # noqa: E402
from sotediffusion.curate.engine.processes import Means  # noqa: E402
from sotediffusion.curate.engine.runner import Runner  # noqa: E402
from sotediffusion.curate.engine.store import Store  # noqa: E402
from sotediffusion.curate.inference.views import centre_view, square_view, squashed_view  # noqa: E402
from sotediffusion.curate.scan.sources import open_source  # noqa: E402
from sotediffusion.curate.step import PictureStep, Step, View  # noqa: E402
from sotediffusion.pictures.pixels import decode  # noqa: E402

WIDTH, HEIGHT = 1500, 2000
DRAWN = 8  # different pictures
GRAIN = 4.0  # grey levels; with it a file is about as large as the pictures that the card was made from (814 KB)


def corner(picture: Any) -> Any:
    """A view that costs nothing."""
    return picture[:1, :1]


NOTHING = View("corner", (1, 1, 3), "uint8", corner)
VIEWS = {"tagger 448": square_view(448), "CLIP 224": centre_view(224), "aesthetic 1024": squashed_view(1024)}


class Listed(Step):
    """Stands in for the scan."""

    name, version = "scan", 1
    reads = ("path",)
    writes = pa.schema([("drop_scan", pa.string())])

    def identity(self) -> dict[str, Any]:
        return {}

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([pa.nulls(len(rows), pa.string())], schema=self.writes)


class Stub(PictureStep):
    """A model that answers at once."""

    version = 1
    reads = ()

    def __init__(self, name: str, views: tuple[View, ...]):
        self.name, self.views = name, views  # type: ignore[misc]
        self.writes = pa.schema([(name, pa.uint8())])

    def identity(self) -> dict[str, Any]:
        return {"views": [view.name for view in self.views]}

    def look(self, rows: pa.RecordBatch, pictures: dict[str, Any]) -> pa.RecordBatch:
        return pa.record_batch([pa.array(pictures[self.views[0].name][:, 0, 0, 0])], schema=self.writes)


def draw(folder: Path, count: int) -> float:
    """`count` files of DRAWN pictures; their mean size in KB."""
    import simplejpeg

    from sotediffusion.miniature.render import render
    from sotediffusion.miniature.sample import sample_scene

    folder.mkdir(parents=True)
    sizes = []
    for number in range(DRAWN):
        grain = np.random.default_rng(number).normal(0, GRAIN, (HEIGHT, WIDTH, 1))
        picture = np.clip(render(sample_scene(9, number), WIDTH, HEIGHT) + grain, 0, 255).astype(np.uint8)
        data = simplejpeg.encode_jpeg(picture, 92, "RGB", "444")
        sizes.append(len(data))
        for copy in range(number, count, DRAWN):
            (folder / f"{copy:05d}.jpg").write_bytes(data)
    return statistics.mean(sizes) / 1000


def milliseconds(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU time of each piece of work: the median of rounds in which they take turns, so that load falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, piece in work.items():
            began = time.process_time()
            piece()
            taken[name].append((time.process_time() - began) * 1e3)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def by_libraries(picture: Any) -> dict[str, Callable[[], Any]]:
    """The views as kohya's tagger and transformers' processors make them."""
    import cv2
    from PIL import Image

    def tagger() -> Any:
        side = max(picture.shape)
        left, top = (side - WIDTH) // 2, (side - HEIGHT) // 2
        around = ((top, side - HEIGHT - top), (left, side - WIDTH - left), (0, 0))
        padded = np.pad(picture[:, :, ::-1], around, constant_values=255)
        return cv2.resize(padded, (448, 448), interpolation=cv2.INTER_AREA)

    def clip() -> Any:
        wide = int(224 * HEIGHT / WIDTH)
        return np.asarray(Image.fromarray(picture).resize((224, wide), Image.Resampling.BICUBIC))[(wide - 224) // 2 :][:224]

    def aesthetic() -> Any:
        return np.asarray(Image.fromarray(picture).resize((1024, 1024), Image.Resampling.BILINEAR))

    return dict(zip(VIEWS, (tagger, clip, aesthetic), strict=True))


def one_core(file: Path, rounds: int) -> float:
    """Prints what each part costs; milliseconds of the decode."""
    data = file.read_bytes()
    picture = decode(data)
    others = by_libraries(picture)
    for name, view in VIEWS.items():
        assert np.array_equal(view.make(picture), others[name]()), name
    work: dict[str, Callable[[], Any]] = {"decode": lambda: decode(data)}
    work |= {name: lambda view=view: view.make(picture) for name, view in VIEWS.items()}  # type: ignore[misc]
    work |= {f"{name}, library": other for name, other in others.items()}
    cost = milliseconds(work, rounds)
    print(f"decode: {cost['decode']:.1f} ms, {1e3 / cost['decode']:.0f} a core second")
    for name in VIEWS:
        ours, theirs = cost[name], cost[f"{name}, library"]
        print(f"view {name}: {ours:.1f} ms, by the library {theirs:.1f} ms, {theirs / ours:.1f} times as long")
    whole = cost["decode"] + sum(cost[name] for name in VIEWS)
    print(f"decode and all views: {whole:.1f} ms, {1e3 / whole:.0f} a core second")
    return cost["decode"]


def engine(folder: Path, views: tuple[View, ...], workers: int) -> tuple[float, float]:
    """Pictures a second by the clock, and a core second, once the processes have started."""
    out = Path(tempfile.mkdtemp(dir=folder))
    means = [Means(Store(out / place), open_source(str(folder / place)), workers, 3 * 2**30) for place in ("warm", "timed")]
    with Local(means[0]) as pool:
        for pool.means in means:
            os.makedirs(pool.means.store.root)
            steps: list[Step] = [Listed(), Stub("seen", views)]
            runner = Runner(pool.means.store, steps, pool)
            runner.take_in(pool.means.source, b"k" * 32)
            runner.do_stage([runner.place(steps[0])])
            busy, began = _busy(pool), time.perf_counter()
            runner.do_stage([runner.place(steps[1])])
            busy, took = _busy(pool) - busy, time.perf_counter() - began
        count = int(runner.ledger.present.sum())
    shutil.rmtree(out)
    return count / took, count / busy


def _busy(pool: Local) -> float:
    """CPU seconds of this process and of the pool's."""
    ticks = 0
    for worker in pool.spare.workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=240, help="pictures that go through the engine")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = draw(folder / "timed", args.count)
        shutil.copytree(folder / "timed", folder / "warm", ignore=lambda _, names: sorted(names)[16:])
        print(f"{platform.machine()}, {args.workers} decoding workers; JPEG {WIDTH}x{HEIGHT} of {size:.0f} KB on average")
        floor = 1e3 / one_core(folder / "timed" / "00000.jpg", args.rounds)
        chosen = {"no view": (NOTHING,), "tagger 448": (VIEWS["tagger 448"],), "all views": tuple(VIEWS.values())}
        for label, views in chosen.items():
            clock, core = engine(folder, views, args.workers)
            print(f"engine, {label}: {clock:.1f} pictures a second, {core:.1f} a core second "
                  f"({core / floor:.0%} of the decode's)")


if __name__ == "__main__":
    from pictures import main as run  # by its name, so that workers find the steps

    run()
