"""A user's own pictures as a data folder from which parts of a cascade are trained: fitted once, in shards, with their tags."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sotediffusion.buckets import BucketSettings
from sotediffusion.pictures.pixels import Pixels
from sotediffusion.train.captions import split_tags
from sotediffusion.train.checkpoint import replace_file
from sotediffusion.train.draw import SHARD, claim, save_array, sizes, taken
from sotediffusion.train.fill import Loader
from sotediffusion.train.fit import Faults
from sotediffusion.train.opening import Data, DataSettings, read_data
from sotediffusion.train.samples import REST, Groups, Samples

GROUP = 64  # pictures opened side by side


def settings_for(area: int) -> DataSettings:
    """How pictures are fitted into sizes of at most `area` px."""
    sides = [side for size in sizes(area) for side in size]
    return DataSettings(buckets=BucketSettings(math.isqrt(area), scale=1.0, shortest=min(sides), longest=max(sides)))


def pack(place: str, out: Path, area: int, faults: Faults) -> Iterator[tuple[int, int]]:
    """Write the pictures of a catalogue or of a kohya folder into `out`; yields how many are done, and of how many, after each
    shard. Whole shards are not made again. UserError: no pictures, too many that cannot be read, other pictures in `out`.
    """
    settings = settings_for(area)
    data = read_data(place, settings, str(out / "listing"))
    claim(out, {"pictures": data.samples.identity, "area": area})
    (out / "tags").mkdir(exist_ok=True)
    rows = np.flatnonzero(data.fits[:, 0] > 0)
    loader = Loader(data.samples, settings.fit, faults)
    for start in range(0, len(rows), SHARD):
        some = rows[start : start + SHARD]
        tags = out / "tags" / f"{start // SHARD:05d}.jsonl"
        if not tags.is_file():
            _write_shard(out, tags, data, loader, some)
        yield start + len(some), len(rows)


def _write_shard(out: Path, tags: Path, data: Data, loader: Loader, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    """Pictures first, tags last, which say that it is there."""
    buckets: dict[str, list[Pixels]] = {}
    lines = []
    for start in range(0, len(rows), GROUP):
        some = rows[start : start + GROUP]
        for row, picture in zip(some.tolist(), loader.load(some, data.fits[some], np.zeros(len(some), bool)), strict=True):
            if picture is not None:
                height, width = picture.shape[:2]
                own = buckets.setdefault(f"{width}x{height}", [])
                lines.append({"shard": tags.stem, "bucket": f"{width}x{height}", "row": len(own),
                              "tags": tags_of(data.samples, row)})  # fmt: skip
                own.append(picture)
    with taken(out):
        for bucket, pictures in buckets.items():
            save_array(out / "pictures" / f"{tags.stem}-{bucket}.npy", np.stack(pictures))
        replace_file(tags, lambda temporary: temporary.write_text("".join(json.dumps(line) + "\n" for line in lines)))


def tags_of(samples: Samples, row: int) -> Groups:
    """A picture's tags by group; those of a caption in one line are in no group of their own."""
    return samples.groups(row) or {REST: split_tags(samples.text(row) or "")}
