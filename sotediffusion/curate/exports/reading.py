"""Other people's data sets as sources: what their captions say becomes sidecars that the scan reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sotediffusion.curate.policy import is_refused
from sotediffusion.curate.scan.posts import read_post
from sotediffusion.curate.scan.sidecars import CONTENT, read_sidecars, read_tags
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.pictures.files import write_whole
from sotediffusion.pictures.headers import FORMATS, sniff
from sotediffusion.types import UserError

TABLE = "sidecars.jsonl"
_SUFFIXES = {"jpeg": ".jpg"}
_IMAGES = ("image", "img", "jpg", "png", "webp", "picture", "image_bytes", "bytes")
_CAPTIONS = ("text", "caption", "captions", "prompt", "tags")


@dataclass(frozen=True)
class Imported:
    """What an import came to: how many pictures, where the scan shall look, and with which table."""

    pictures: int
    source: str
    table: Path | None = None
    left_out: int = 0
    refused: int = 0  # by the policy: not written anywhere


def form_of(place: str) -> str:
    """`kohya`, `parquet` or `webdataset`, by what lies there; UserError where it is none of them."""
    path = Path(place)
    if path.suffix == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None)):
        return "parquet"
    if path.is_dir() and any(path.glob("*.json")) and _metadata_files(path):
        return "kohya"
    if path.suffix == ".tar" or (path.is_dir() and next(path.rglob("*.tar"), None)):
        return "webdataset"
    if path.is_dir() and next(path.rglob("*.txt"), None):
        return "kohya"
    raise UserError(
        "dataset", f"{place} is none of kohya's folders, Parquet files and WebDataset's tars; give the folder of one of them"
    )


def import_dataset(place: str, out: Path) -> Imported:
    """Make a data set ready for `sote curate run`. What has to be written goes to `out`; the data set itself is never changed."""
    form = form_of(place)
    if form == "parquet":
        return import_parquet(Path(place), out)
    if form == "kohya":
        return import_kohya(Path(place), out)
    return Imported(sum(len(batch) for batch in open_source(place).listing()), place)  # tars are read as they are


def import_kohya(root: Path, out: Path) -> Imported:
    """A table of what kohya's metadata files say; captions in .txt files are read by the scan itself.

    A key of a metadata file is a path, or the path without its suffix, absolute or under the folder, or the bare stem. What the
    policy refuses is in the table by a hash of its content alone, by which the scan knows it.
    """
    source = open_source(str(root))
    paths = [path for batch in source.listing() for path in batch.column("path").to_pylist()]
    by_name = _names(paths)
    told: dict[str, dict[str, Any]] = {}
    missing = 0
    for file in _metadata_files(root):
        for key, value in json.loads(file.read_text(encoding="utf-8")).items():
            path = _found(key, root, by_name)
            if path is None or not isinstance(value, dict):
                missing += 1
            else:
                told[path] = {**told.get(path, {"path": path}), **_said(value)}
    if not told:
        return Imported(len(paths), str(root), None, missing)
    table = out / TABLE
    sides = zip(told, source.sidecars(list(told)), strict=True)
    refused = {path for path, beside in sides if is_refused(path, read_sidecars(path, beside, told))}
    rows = [told[path] for path in sorted(told.keys() - refused)]
    rows += [{"path": f"{CONTENT}{hash}"} for hash in sorted(sha256(source.read(path)).hexdigest() for path in refused)]
    write_whole(table, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return Imported(len(paths) - len(refused), str(root), table, missing, len(refused))


def _metadata_files(root: Path) -> list[Path]:
    """JSON files that map pictures to captions."""
    found = []
    for path in sorted(root.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue
        if isinstance(content, dict) and any(
            isinstance(value, dict) and {"tags", "caption"} & set(value) for value in content.values()
        ):
            found.append(path)
    return found


def _names(paths: list[str]) -> dict[str, str]:
    """Every way a metadata key may name a picture; a bare stem that two pictures share names neither."""
    names: dict[str, str] = {}
    shared = set()
    for path in paths:
        stem = path.rpartition("/")[2].rpartition(".")[0]
        if stem in names:
            shared.add(stem)
        names |= {stem: path}
    names = {name: path for name, path in names.items() if name not in shared}
    return names | {path.rpartition(".")[0]: path for path in paths} | {path: path for path in paths}


def _found(key: str, root: Path, by_name: dict[str, str]) -> str | None:
    plain = key.replace("\\", "/")
    inside = plain.removeprefix(root.resolve().as_posix() + "/").removeprefix(root.as_posix() + "/").removeprefix("./")
    name = plain.rpartition("/")[2]
    return by_name.get(inside) or by_name.get(name) or by_name.get(name.rpartition(".")[0] or name)


def _said(value: dict[str, Any]) -> dict[str, Any]:
    """Tags and prose of one picture; a caption of tags counts as tags."""
    said: dict[str, Any] = {}
    tags: list[str] = []
    for key in ("caption", "tags"):
        if isinstance(value.get(key), str):
            side = read_tags(value[key])
            tags += side.tags
            for group, names in side.groups.items():
                said.setdefault(f"tags_{group}", []).extend(names)
            if side.text:
                said["caption"] = side.text
    return {**said, "tags": list(dict.fromkeys(tags))} if tags else said


def import_parquet(place: Path, out: Path) -> Imported:
    """Pictures out of Parquet files into `out/pictures`, each with a .json of its other columns.

    The picture's column is a struct of bytes and path, as `datasets` writes it, or bytes. UserError where there is none.
    """
    files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    folder = out / "pictures"
    count = left_out = refused = 0
    for row in _rows(files):
        data = row.pop("", None)
        kind = sniff(data) if isinstance(data, bytes) else "empty"
        if kind not in FORMATS:
            left_out += 1
            continue
        told = _told(row)
        if is_refused("", read_post(told)):
            refused += 1
            continue
        name = f"{count // 1000:05d}/{count:08d}"
        write_whole(folder / f"{name}.json", json.dumps(told, ensure_ascii=False, default=str).encode())
        write_whole(folder / f"{name}{_SUFFIXES.get(kind, '.' + kind)}", data)
        count += 1
    return Imported(count, str(folder), None, left_out, refused)


def _rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows as plain values, the picture's bytes under the empty name."""
    for path in files:
        try:
            file = pq.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise UserError("dataset", f"{path} is no readable Parquet file ({str(error)[:100]})") from None
        with file:
            column = _image_column(file.schema_arrow.names)
            if column is None:
                raise UserError(
                    "dataset", f"{path} has no column of pictures; its columns are {', '.join(file.schema_arrow.names)[:200]}"
                )
            for batch in file.iter_batches(batch_size=16):
                for row in batch.to_pylist():
                    held = row.pop(column)
                    row[""] = held.get("bytes") if isinstance(held, dict) else held
                    yield row


def _image_column(names: list[str]) -> str | None:
    return next((name for name in _IMAGES if name in names), None)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the scan's reader of JSON: the caption's tags as tags, unless lists of tags are there already."""
    kept = {key: value for key, value in row.items() if value is not None and not isinstance(value, bytes)}
    if isinstance(kept.get("tags"), list):
        return {key: value for key, value in kept.items() if key not in ("text", "prompt")}
    for key in _CAPTIONS:
        if isinstance(kept.get(key), str):
            said = _said({"tags": kept.pop(key)})
            return {**kept, **said}
    return kept
