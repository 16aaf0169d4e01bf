"""Small pictures on disk, and catalogues of them, for the tests of training data."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from catalogue_rows import SCHEMA
from PIL import Image

from sotediffusion.curate.catalogue import Version

SIZES = [(128, 128), (96, 160), (160, 96), (128, 128), (64, 256)]


def paint(path: Path, number: int, size: tuple[int, int] | None = None) -> Path:
    """A picture of coloured squares, another one for each number."""
    width, height = size or SIZES[number % len(SIZES)]
    squares = np.random.default_rng(number).integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(squares.repeat(32, 0).repeat(32, 1)).save(path)
    return path


def caption(number: int) -> list[dict]:
    """Its caption by groups."""
    return [
        {"group": "quality", "tags": ["best quality" if number % 2 else "low quality"]},
        {"group": "custom", "tags": [f"art by {number % 3}"]},
        {"group": "rest", "tags": ["1girl", f"thing {number}", f"colour {number % 5}"]},
    ]


def catalogue_of(folder: Path, place: Path, count: int, **columns) -> Path:
    """A finished catalogue of `count` pictures painted into `folder`; `columns` are functions of the number."""
    rows = []
    for number in range(count):
        path = folder / f"{number:03d}.png"
        if not path.exists():
            paint(path, number)
        with Image.open(path) as image:
            width, height = image.size
        more = {name: value(number) for name, value in columns.items()}
        rows.append({"row": number, "path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "width": width,
                     "height": height, "caption": caption(number), "repeats": 1, "dropped": False,
                     "score_aesthetic_shadow_v2": number / count} | more)  # fmt: skip
    dataset = lance.write_dataset(
        pa.Table.from_pylist(rows, SCHEMA.append(pa.field("format", pa.string()))),
        str(place / "catalogue.lance"),
        mode="overwrite",
    )
    (place / "versions").mkdir(exist_ok=True)
    version = Version("v1", dataset.version, "2024-01-01 00:00:00", count, count, {}, {}, {"source": str(folder)})
    (place / "versions" / "v1.json").write_text(json.dumps(asdict(version)))
    for name in ("v1", "latest"):
        if name in dataset.tags.list():
            dataset.tags.delete(name)
        dataset.tags.create(name, dataset.version)
    return place
