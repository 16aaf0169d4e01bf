"""Export many pictures to a file: WebDataset's tars, and Parquet as Hugging Face's `datasets` reads it."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sotediffusion.curate.exports.entries import Done, Entry, ExportSettings, contents, groups_of
from sotediffusion.curate.exports.places import claim
from sotediffusion.curate.scan.sources import PictureSource

Writer = Callable[[Path, Iterable[tuple[Entry, str, bytes, bool]]], None]
_AT_ONCE = 16

FIELDS = (
    ("id", "string"), ("path", "string"), ("sha256", "string"), ("width", "int32"), ("height", "int32"), ("repeats", "int16"),
    ("aesthetic", "string"), ("quality", "string"), ("rating", "string"), ("date", "string"), ("source", "string"), ("site",
                                                                                                                     "string"),
    ("prose", "string"),
)  # fmt: skip
LISTS = ("tags", "tags_character", "tags_copyright")


def export_webdataset(some: Iterable[Entry], source: PictureSource, out: str | Path, settings: ExportSettings, done: Done,
                      on_progress: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """NAME-00000.tar and on, each with KEY.png (or .jpg ...), KEY.txt and KEY.json for every picture."""
    names = (f"{settings.name}-{{:05d}}.tar", "webdataset")
    _pack(some, source, out, settings, done, (names, write_tar, on_progress))


def export_parquet(some: Iterable[Entry], source: PictureSource, out: str | Path, settings: ExportSettings, done: Done,
                   on_progress: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """data/train-00000.parquet and on: `image` as `datasets` decodes it, `text`, lists of tags, and the numbers."""
    names = ("data/train-{:05d}.parquet", "parquet")
    _pack(some, source, out, settings, done, (names, write_parquet, on_progress))


def _pack(some: Iterable[Entry], source: PictureSource, out: str | Path, settings: ExportSettings, done: Done,
          how: tuple[tuple[str, str], Writer, Callable[[int], None] | None]) -> None:  # fmt: skip
    """File by file; one that was finished before from the same pictures and captions is kept."""
    (pattern, form), write, on_progress = how
    place = claim(out, form)
    names: set[str] = set()
    for number, group in enumerate(groups_of(some, settings.per_file)):
        name, fingerprint = pattern.format(number), _fingerprint(group, settings)
        names.add(name)
        if place.has(name, fingerprint):
            done.pictures += len(group)
        else:
            before = done.left_out.total()
            place.put(name, "")  # this run's, but made of nothing known until it is in its place
            with place.making(name) as part:
                write(part, _counted(group, source, settings, done))
            if done.left_out.total() == before:  # what could not be read may be there next time
                place.put(name, fingerprint)
        if on_progress:
            on_progress(done.pictures)
    place.forget_others(names)


def _counted(
    group: list[Entry], source: PictureSource, settings: ExportSettings, done: Done
) -> Iterable[tuple[Entry, str, bytes, bool]]:
    for some in groups_of(group, _AT_ONCE):
        for entry, suffix, data, own in contents(some, source, settings, done):
            done.pictures += 1
            done.converted += not own
            yield entry, suffix, data, own


def _fingerprint(group: list[Entry], settings: ExportSettings) -> str:
    said = [[entry.record(), entry.line] for entry in group]
    return hashlib.sha256(json.dumps([said, settings.keep], sort_keys=True).encode()).hexdigest()[:32]


def write_tar(path: Path, files: Iterable[tuple[Entry, str, bytes, bool]]) -> None:
    """A tar whose bytes depend on the pictures and captions alone."""
    with open(path, "xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for entry, suffix, data, _ in files:
            record = json.dumps(entry.record(), ensure_ascii=False).encode()
            for name, content in ((suffix, data), (".txt", (entry.line + "\n").encode()), (".json", record)):
                member = tarfile.TarInfo(entry.name + name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        archive.close()
        file.flush()
        os.fsync(file.fileno())


def write_parquet(path: Path, files: Iterable[tuple[Entry, str, bytes, bool]]) -> None:
    """A Parquet file of row groups of 100 pictures, with the schema's meaning as `datasets` writes it down."""
    writer = None
    rows: list[dict[str, Any]] = []
    schema: pa.Schema = None
    try:
        for entry, suffix, data, _ in files:
            record = entry.record()
            if writer is None:
                schema = parquet_schema([name for name in record if name.startswith("score_")])
                writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
            rows.append({**record, "image": {"bytes": data, "path": entry.name + suffix}, "text": entry.line})
            if len(rows) == 100:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        if writer is None:
            writer = pq.ParquetWriter(path, schema := parquet_schema([]))
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    finally:
        if writer is not None:
            writer.close()
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def parquet_schema(scores: list[str]) -> pa.Schema:
    """Columns, and the features of the same names in the metadata that `datasets` looks for."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), ("text", pa.string()), *((name, pa.list_(pa.string())) for name in LISTS),
               *((name, pa.type_for_alias(kind)) for name, kind in FIELDS), *((name,
                                                                               pa.float32()) for name in scores)]  # fmt: skip
    features: dict[str, Any] = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    features |= {name: {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"} for name in LISTS}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in FIELDS}
    features |= {name: {"dtype": "float32", "_type": "Value"} for name in scores}
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})
