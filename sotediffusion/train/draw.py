"""Draws the miniature's training pictures into shards: small, once, and resumable shard by shard."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sotediffusion.buckets import bucket_sizes
from sotediffusion.pictures.files import refused
from sotediffusion.train.checkpoint import replace_file, save_json
from sotediffusion.types import UserError

SHARD = 1000  # samples
STEP = 32  # px; one cell of the EffNet encoder
WIDEST = 1.8  # long side over short side


@dataclass(frozen=True)
class Drawing:
    """Which pictures a data folder holds; written to `drawing.json`, so that a folder never mixes two."""

    seed: int
    area: int = 256 * 256  # px


def sizes(area: int) -> list[tuple[int, int]]:
    """Widths and heights, multiples of STEP, of at most `area`."""
    shortest = math.ceil(math.sqrt(area / WIDEST) / STEP) * STEP
    return bucket_sizes(area, STEP, shortest, max(shortest, math.isqrt(int(area * WIDEST)) // STEP * STEP))


def nearest(aspect: float, choices: list[tuple[int, int]]) -> tuple[int, int]:
    """The size whose aspect ratio is nearest by ratio; of several, the one of largest area."""
    return min(choices, key=lambda size: (round(abs(math.log(size[0] / size[1] / aspect)), 6), -size[0] * size[1]))


def draw(out: Path, count: int, drawing: Drawing, processes: int = 1) -> Iterator[int]:
    """Draw samples 0 ... `count` - 1 into `out`; yields how many are there after each shard. Whole shards are not drawn again.

    UserError: `out` holds others, or takes no more.
    """
    with taken(out):
        (out / "tags").mkdir(parents=True, exist_ok=True)
    claim(out, asdict(drawing))
    shards = [(out, start, min(start + SHARD, count), drawing) for start in range(0, count, SHARD)]
    done = 0
    with ProcessPoolExecutor(processes) as pool:
        run: Callable[..., Any] = pool.map if processes > 1 else map
        for drawn in run(_draw_shard, shards):
            done += drawn
            yield done


def claim(out: Path, about: dict[str, Any]) -> None:
    """Write down which pictures a folder holds. UserError when it was begun with others."""
    path = out / "drawing.json"
    if path.is_file() and json.loads(path.read_text()) != about:
        raise UserError("out", f"{out} holds pictures of {path.read_text()}, not of {about}; choose another folder")
    with taken(path):
        save_json(path, about)


@contextmanager
def taken(path: Path, field: str = "out") -> Iterator[None]:
    """Says of a disk that does not take what is written to `path` so in a sentence."""
    try:
        yield
    except OSError as error:
        raise refused(path, error, field) from None


def _draw_shard(task: tuple[Path, int, int, Drawing]) -> int:
    """Draw one shard unless its tags, which are written last, say that it is there with that many samples."""
    from sotediffusion.miniature.caption import tags_of
    from sotediffusion.miniature.render import render
    from sotediffusion.miniature.sample import sample_scene

    out, start, stop, drawing = task
    name = f"{start // SHARD:05d}"
    tags = out / "tags" / f"{name}.jsonl"
    if tags.is_file() and len(tags.read_text().splitlines()) == stop - start:
        return stop - start
    pictures: dict[str, list[np.ndarray[Any, Any]]] = {}
    lines = []
    choices = sizes(drawing.area)
    for index in range(start, stop):
        scene = sample_scene(drawing.seed, index)
        width, height = nearest(scene.width / scene.height, choices)
        rows = pictures.setdefault(f"{width}x{height}", [])
        lines.append({"shard": name, "bucket": f"{width}x{height}", "row": len(rows), "tags": tags_of(scene)})
        rows.append(render(scene, width, height))
    for bucket, rows in pictures.items():
        save_array(out / "pictures" / f"{name}-{bucket}.npy", np.stack(rows))
    with taken(tags):
        replace_file(tags, lambda temporary: temporary.write_text("".join(json.dumps(line) + "\n" for line in lines)))
    return stop - start


def save_array(path: Path, array: "np.ndarray[Any, Any]", field: str = "out") -> None:
    """Write an array whole or not at all. UserError, under the name `field`: the disk does not take it."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, array)

    with taken(path, field):
        replace_file(path, write)
