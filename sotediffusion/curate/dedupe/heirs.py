"""What a kept picture takes over from its copies that are left out: when it was made, and what was noted beside them.

The copy with the most bytes is kept, and it may be one that somebody saved again without a word: its date and tags are then
those of its group. Later steps use them where the picture has none of its own; the policy looks at them in any case.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.lists import encode, flatten

Array = np.ndarray[Any, Any]

ASIDES = ("side_date", "side_tags", "side_general", "side_character", "side_series")
WRITES = pa.schema([("group_date", pa.string()), ("group_tags", pa.list_(pa.string()))])
OLDEST = "1900"  # what is dated before it was dated by a machine that did not know


def taken_over(keepers: Array, noted: list[pa.Array], count: int) -> list[pa.Array]:
    """The columns WRITES for `count` pictures, from the columns ASIDES of copies and the place of each one's keeper."""
    date, *tags = (column.cast(pa.string() if place == 0 else pa.list_(pa.string())) for place, column in enumerate(noted))
    return [_dates(keepers, date, count), _tags(keepers, tags, count)]


def _dates(keepers: Array, dates: pa.Array, count: int) -> pa.Array:
    """The earliest, as a copy is younger than what it was made from."""
    found: dict[int, str] = {}
    for keeper, date in zip(keepers.tolist(), dates.to_pylist(), strict=True):
        if date and date[:4].isdecimal() and date >= OLDEST:
            found[keeper] = min(date, found.get(keeper, date))
    place = np.full(count, -1)
    place[[*found]] = np.arange(len(found))
    return pa.array(found.values(), pa.string()).take(pa.array(place, mask=place < 0))


def _tags(keepers: Array, columns: list[pa.Array], count: int) -> pa.Array:
    """All of them, each once."""
    parts = [flatten(column) for column in columns]
    codes, texts = _coded([values for _, values in parts])
    owner, code = np.concatenate([np.repeat(keepers, np.diff(starts)) for starts, _ in parts]), np.concatenate(codes)
    there = code < len(texts)
    owner, code = np.divmod(np.unique(owner[there] * len(texts) + code[there]), max(len(texts), 1))
    many = np.bincount(owner, minlength=count)
    starts = pa.array(np.append(0, np.cumsum(many)), pa.int32())
    return pa.ListArray.from_arrays(starts, texts.take(pa.array(code)), mask=pa.array(many == 0))


def _coded(columns: list[pa.Array]) -> tuple[list[Array], pa.Array]:
    """As `encode`; the columns meet as distinct strings only, as all of them together may be more than the 2 GiB of an array."""
    coded = [encode([column]) for column in columns]
    places, texts = encode([own for _, own in coded])
    return [np.append(place, len(texts))[code] for place, ([code], _) in zip(places, coded, strict=True)], texts
