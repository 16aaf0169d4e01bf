"""Writes drawn pictures as a training folder people know: images with caption files beside them, and the truth in one table.

Layout under `out`: `truth.jsonl`, `drawing.json` (which drawing this is), and kohya's `<repeats>_<name>` folders:
`img/1_miniature/` for the pictures as drawn and, in a raw drawing, `img/1_scrape/` for the mess beside them.
"""

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sotediffusion.miniature import scrape
from sotediffusion.miniature.caption import caption, tags_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.miniature.scene import Scene
from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError

CLEAN = Path("img") / "1_miniature"
MOST = 10_000_000  # pictures in one drawing
BATCH = 16  # pictures a process draws between two reports


def draw(
    out: Path, count: int, seed: int, raw: bool = False, processes: int = 1, on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw the first `count` pictures of series `seed` into `out` and return the path of its truth table.

    Pictures already whole are kept, so a stopped drawing goes on where it was. `on_progress` is told how many pictures are there.
    Raises UserError for a count out of range, an unwritable folder, or a folder that holds another drawing.
    """
    if not 1 <= count <= MOST:
        raise UserError("count", f"{count} is not between 1 and {MOST}; say how many pictures to draw")
    _claim(out, seed, raw)
    batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    parts = _run(partial(_draw_batch, out, seed, raw), batches, processes)
    lines: list[str] = []
    for done, rows in enumerate(parts, start=1):
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        if on_progress:
            on_progress(min(done * BATCH, count))
    write_whole(out / "truth.jsonl", "".join(lines).encode())
    return out / "truth.jsonl"


def _run(work: Callable[[range], list[dict[str, Any]]], batches: list[range], processes: int) -> Iterator[list[dict[str, Any]]]:
    if processes <= 1:
        yield from map(work, batches)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(work, batches)


def _claim(out: Path, seed: int, raw: bool) -> None:
    """Make `out` this drawing's folder, or raise UserError when it already holds another's."""
    name, claim = out / "drawing.json", {"seed": seed, "raw": raw}
    try:
        held = json.loads(name.read_text()) if name.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError("out", f"{name} cannot be read; remove the folder or name another one") from error
    if held is not None and held != claim:
        raise UserError("out", f"{out} holds the drawing {json.dumps(held)}, not {json.dumps(claim)}; name another folder")
    if held is None:
        write_whole(name, json.dumps(claim).encode())


def _draw_batch(out: Path, seed: int, raw: bool, indices: range) -> list[dict[str, Any]]:
    rows = []
    for index in indices:
        scene = sample_scene(seed, index)
        name = CLEAN / f"{index:07d}.{_extension(scene)}"
        if not (out / name).with_suffix(".txt").is_file():  # the caption is written last, so it vouches for the picture
            image = Image.fromarray(render(scene, scene.width, scene.height))
            write_whole(out / name, scrape.encoded(image, name.suffix))
            write_whole((out / name).with_suffix(".txt"), caption(scene).encode())
        rows.append(truth_of(scene, index, name))
        if raw:
            rows += scrape.mess(out, index, scene, name)
    return rows


def _extension(scene: Scene) -> str:
    return random.Random(f"file {scene.seed}").choice(("png", "jpg", "webp"))


def truth_of(scene: Scene, index: int, name: Path) -> dict[str, Any]:
    """One row of the truth table: the file, its scene in full, and its caption by groups of tags."""
    return {"index": index, "file": name.as_posix(), "kind": "drawn", "caption": caption(scene), "tags": tags_of(scene),
            "scene": asdict(scene)}
