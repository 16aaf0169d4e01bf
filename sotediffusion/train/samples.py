"""What is trained on, as a table in flat arrays: a row a picture, made and read without opening a picture.

Tags are numbers into a vocabulary of (group, tag) pairs, so that six million captions take less than a gigabyte. A table that has
been saved is memory-mapped, so that all ranks of a machine share it.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from sotediffusion.pictures.files import beside, refused
from sotediffusion.types import UserError

CONTENT = 16  # bytes of a file's sha256 that stand for it
REST = "rest"  # the group of tags that nobody sorted
ROWS = pa.schema([
    ("path", pa.string()),  # as its source lists it
    ("content", pa.binary(CONTENT)),
    ("width", pa.int32()),  # px, upright
    ("height", pa.int32()),
    ("tags", pa.list_(pa.int32())),  # into the vocabulary, in the order of the caption
    ("text", pa.string()),  # a caption as one line: kohya's, or prose beside the tags; null where there is none
    ("repeats", pa.int32()),  # times a picture is seen in an epoch
    ("weight", pa.float32()),  # of its loss
    ("part", pa.int16()),  # number of its Part
    ("mask", pa.string()),  # of the loss: a picture of the same source, the row's own path for its transparency, or a whole path
])  # fmt: skip
VOCABULARY = pa.schema([("group", pa.string()), ("tag", pa.string())])
_FORM = 1  # of the file; a later form is another number

Groups = dict[str, list[str]]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A folder or subset of the data, and what it changes of the run's own settings of captions and buckets."""

    name: str
    captions: Mapping[str, Any] = field(default_factory=dict)
    buckets: Mapping[str, Any] = field(default_factory=dict)


class Samples:
    """A table of ROWS, its vocabulary, its parts, and the place that its paths are relative to."""

    def __init__(self, rows: pa.Table, vocabulary: pa.Table, parts: tuple[Part, ...], source: str):
        self.rows, self.vocabulary, self.parts, self.source = rows, vocabulary, parts, source
        self.notes: tuple[str, ...] = ()  # what the reader has to say

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers as one array (N,)."""
        return self.rows.column(name).to_numpy()

    @cached_property
    def content(self) -> NDArray[np.uint64]:
        """The pictures' hashes (N, 2)."""
        chunks = [chunk for chunk in self.rows.column("content").chunks if len(chunk)]
        return np.concatenate([np.empty((0, 2), np.uint64), *map(_hashes, chunks)])

    def path(self, row: int) -> str:
        return str(self.rows.column("path")[row].as_py())

    def mask(self, row: int) -> str | None:
        """The path of the row's mask."""
        path: str | None = self.rows.column("mask")[row].as_py()
        return path

    def text(self, row: int) -> str | None:
        """The row's one line."""
        line: str | None = self.rows.column("text")[row].as_py()
        return line

    def groups(self, row: int) -> Groups:
        """The row's tags by group, in the order of the caption."""
        codes = self._codes(row)
        found: Groups = {}
        for name, word in zip(self._groups[codes].tolist(), self._words.take(pa.array(codes)).to_pylist(), strict=True):
            found.setdefault(self._names[name], []).append(word)
        return found

    @cached_property
    def identity(self) -> str:
        """A digest of the pictures, their captions, repeats, parts and masks; paths may change, as when a folder moves."""
        hasher = hashlib.blake2b(json.dumps([asdict(part) for part in self.parts], default=str).encode(), digest_size=16)
        for table, names in ((self.rows, [name for name in ROWS.names if name not in ("path", "mask")]), (self.vocabulary, None)):
            for name in names or table.column_names:
                hasher.update(f"{name}:{_digest(table.column(name))}".encode())
        if self.rows.column("mask").null_count < len(self):
            hasher.update(self._mask_sizes().tobytes())
        return hasher.hexdigest()

    def take(self, rows: Numbers) -> "Samples":
        """Only these rows, which ascend."""
        assert (np.diff(rows) > 0).all()
        there = np.zeros(len(self), bool)
        there[rows] = True
        return self._with(self.rows.filter(pa.array(there)))  # chunk by chunk: Arrow's take joins them, up to 2 GiB of text

    def once(self) -> "Samples":
        """The same pictures, each seen once in an epoch."""
        ones = pa.array(np.ones(len(self), np.int32))
        place = ROWS.get_field_index("repeats")
        return self._with(self.rows.set_column(place, ROWS.field(place), ones))

    def masked(self, masks: pa.Array | pa.ChunkedArray) -> "Samples":
        """The same pictures with these masks (N) where they have none of their own."""
        place = ROWS.get_field_index("mask")
        return self._with(self.rows.set_column(place, ROWS.field(place), pc.coalesce(self.rows.column("mask"), masks)))

    def held(self, share: float) -> NDArray[np.bool_]:
        """Which rows (N,) belong to the `share` of pictures kept for validation: the same ones whatever else is in the table."""
        return (self.content[:, 0] >> np.uint64(11)).astype(np.float64) / 2.0**53 < share

    def save(self, path: Path) -> None:
        """Write the table to one file, whole or not at all. UserError where the disk refuses."""
        about = {"form": _FORM, "source": self.source, "parts": [asdict(part) for part in self.parts], "identity": self.identity}
        schema = ROWS.with_metadata({"samples": json.dumps(about)})
        try:
            with beside(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
                for table, head in ((self.vocabulary, VOCABULARY), (self.rows, schema)):
                    with ipc.new_stream(file, head) as writer:
                        writer.write_table(table, max_chunksize=1 << 18)
        except OSError as error:
            raise refused(path, error, "data") from None

    @classmethod
    def open(cls, path: Path) -> "Samples":
        """A saved table, memory-mapped. UserError where it is damaged."""
        try:
            file = pa.memory_map(str(path))
            vocabulary = ipc.open_stream(file).read_all()
            rows = ipc.open_stream(file).read_all()
            about = json.loads(rows.schema.metadata[b"samples"])
            assert about["form"] == _FORM
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError, AssertionError):
            raise UserError("data", f"{path} is damaged or of another version; delete it and run again") from None
        samples = cls(rows, vocabulary, tuple(Part(**part) for part in about["parts"]), about["source"])
        samples.identity = about["identity"]
        return samples

    def _mask_sizes(self) -> Numbers:
        """Bytes of each row's mask (N,), by which masks of the same names are told apart; -1 where there is none, -2 for the
        picture's own transparency, -3 for one that is gone.
        """
        masks, paths = (self.rows.column(name).to_pylist() for name in ("mask", "path"))
        return np.array([-1 if mask is None else -2 if mask == path else _size(os.path.join(self.source, mask))
                         for mask, path in zip(masks, paths, strict=True)], np.int64)  # fmt: skip

    def _with(self, rows: pa.Table) -> "Samples":
        samples = Samples(rows, self.vocabulary, self.parts, self.source)
        samples.notes = self.notes
        return samples

    def _codes(self, row: int) -> NDArray[np.int32]:
        chunk = bisect_right(self._starts, row) - 1
        offsets, codes = self._tags[chunk]
        at = row - self._starts[chunk]
        return codes[offsets[at] : offsets[at + 1]]

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each chunk that has rows."""
        chunks = self.rows.column("tags").chunks
        return np.cumsum([0, *(len(chunk) for chunk in chunks)])[:-1].tolist()

    @cached_property
    def _tags(self) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        return [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in self.rows.column("tags").chunks]

    @cached_property
    def _words(self) -> pa.Array:
        return self.vocabulary.column("tag").combine_chunks()

    @cached_property
    def _coded(self) -> pa.DictionaryArray:
        return self.vocabulary.column("group").combine_chunks().dictionary_encode()

    @cached_property
    def _groups(self) -> NDArray[np.int32]:
        return self._coded.indices.to_numpy()

    @cached_property
    def _names(self) -> list[str]:
        return self._coded.dictionary.to_pylist()


class Coder:
    """Turns tags into numbers of one growing vocabulary, batch by batch."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def encode(self, groups: list[str], group: NDArray[np.int32], tags: pa.Array) -> NDArray[np.int32]:
        """The number of each pair of `groups[group[i]]` and `tags[i]`; work in Python is per distinct pair."""
        coded = tags.dictionary_encode()
        words = coded.dictionary.to_pylist()
        pair = group * np.int32(len(words)) + coded.indices.to_numpy()
        there = np.zeros(len(groups) * len(words), bool)
        there[pair] = True
        table = np.empty(len(there), np.int32)
        for place in np.flatnonzero(there).tolist():
            key = (groups[place // len(words)], words[place % len(words)])
            table[place] = self.numbers.setdefault(key, len(self.numbers))
        return table[pair]

    def finish(self, chunks: list[pa.ListArray]) -> tuple[pa.ChunkedArray, pa.Table]:
        """All lists, which are used up, with numbers of the sorted vocabulary, and it: the order of reading leaves no trace."""
        table = pa.table([pa.array(column, pa.string()) for column in zip(*self.numbers, strict=True)] or [[], []], VOCABULARY)
        order = pc.sort_indices(table, [("group", "ascending"), ("tag", "ascending")]).to_numpy()
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        lists = []
        while chunks:  # each is let go of as soon as it is numbered anew
            chunk = chunks.pop(0)
            lists.append(pa.ListArray.from_arrays(chunk.offsets, pa.array(place[chunk.values.to_numpy()])))
        return pa.chunked_array(lists, pa.list_(pa.int32())), table.take(pa.array(order))


def from_groups(records: Iterable[Mapping[str, Any]], parts: tuple[Part, ...], source: str) -> Samples:
    """A table from a mapping a row with the names of ROWS, `tags` as Groups; for folders of some thousands of pictures."""
    kept = [{"repeats": 1, "weight": 1.0, "part": 0, **record} for record in records]
    coder = Coder()
    pairs = [[(group, tag) for group, tags in (record.get("tags") or {}).items() for tag in tags] for record in kept]
    flat = [pair for row in pairs for pair in row]
    names = sorted({group for group, _ in flat})
    group = np.array([names.index(name) for name, _ in flat], np.int32)
    codes = coder.encode(names, group, pa.array([tag for _, tag in flat], pa.string()))
    offsets = np.cumsum([0, *map(len, pairs)]).astype(np.int32)
    tags, vocabulary = coder.finish([pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes))])
    columns = [tags if name.name == "tags" else pa.array([row.get(name.name) for row in kept], name.type) for name in ROWS]
    return Samples(pa.table(columns, ROWS), vocabulary, parts, source)


def content_of(sha256: pa.Array) -> pa.Array:
    """Hashes written in hexadecimal -> the bytes that stand for a picture, without work in Python."""
    letters = np.frombuffer(_letters(sha256), np.uint8)
    digits = ((letters & 15) + 9 * (letters >> 6)).reshape(len(sha256), -1)[:, : 2 * CONTENT]
    packed = pa.py_buffer((digits[:, ::2] << 4 | digits[:, 1::2]).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(CONTENT), len(sha256), [None, packed])


def _letters(column: pa.Array) -> memoryview:
    """The characters of a column of strings, one after the other."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]].tolist()
    return memoryview(data)[ends[0] : ends[1]] if data else memoryview(b"")


def _hashes(chunk: pa.Array) -> NDArray[np.uint64]:
    start = chunk.offset * CONTENT
    data = np.frombuffer(chunk.buffers()[1], np.uint8)[start : start + len(chunk) * CONTENT]
    return data.view(np.uint64).reshape(-1, 2)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -3


def _digest(column: pa.ChunkedArray) -> str:
    """Of the values, however they are cut into chunks."""
    lengths, values = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for chunk in (chunk for chunk in column.chunks if len(chunk)):
        if pa.types.is_list(chunk.type):
            lengths.update(pc.fill_null(pc.list_value_length(chunk), -1).to_numpy(zero_copy_only=False).tobytes())
            values.update(chunk.flatten().to_numpy())
        elif pa.types.is_string(chunk.type):
            lengths.update(pc.fill_null(pc.binary_length(chunk), -1).to_numpy(zero_copy_only=False).tobytes())
            values.update(_letters(pc.fill_null(chunk, "")))
        elif pa.types.is_fixed_size_binary(chunk.type):
            values.update(_hashes(chunk).tobytes())
        else:
            values.update(chunk.to_numpy(zero_copy_only=False).tobytes())
    return lengths.hexdigest() + values.hexdigest()
