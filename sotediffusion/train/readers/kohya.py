"""A kohya data set as samples: a folder of pictures with .txt captions, `10_name` folders, dataset.toml, metadata JSON.

Facts follow sd-scripts, branch stable-cascade: pictures lie directly in their folder, a caption is the first line of its file.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.policy import refuses
from sotediffusion.curate.scan.sources import PICTURES, PictureSource, open_source
from sotediffusion.names import listing
from sotediffusion.train.captions import split_tags
from sotediffusion.train.fit import Faults
from sotediffusion.train.readers.measure import File, Measured, measure
from sotediffusion.train.readers.metadata import read_metadata
from sotediffusion.train.samples import Part, Samples, from_groups
from sotediffusion.types import UserError

NUMBERED = re.compile(r"(\d+)_(.*)")
EXTENSIONS = (".txt", ".caption")
REGULARISATION = "reg"
IMAGES = "img"


@dataclass(frozen=True)
class Subset:
    """One folder of pictures and how it is to be used. Paths are absolute."""

    folder: str
    repeats: int = 1
    words: str = ""  # the caption of a picture that has none
    extensions: tuple[str, ...] = EXTENSIONS
    metadata: str | None = None  # a JSON file of captions
    masks: str | None = None  # a folder of masks
    alpha: bool = False  # whether transparency masks the loss of a picture that has no mask
    regularisation: bool = False
    captions: Mapping[str, Any] = field(default_factory=dict)
    buckets: Mapping[str, Any] = field(default_factory=dict)


def read_kohya(subsets: list[Subset], memory: Store | None, faults: Faults, prior_loss_weight: float = 1.0) -> Samples:
    """The samples of all subsets. What the policy refuses is left out and only counted.

    `memory` is where content and sizes are written down, so that the next start reads no picture. Raises UserError where a
    folder or a picture that metadata names is not there, a subset has no pictures, a caption is no text, or too many pictures
    cannot be read.
    """
    _check_folders(subsets)
    root = os.path.commonpath([folder for subset in subsets for folder in (subset.folder, subset.masks) if folder])
    source = open_source(root)
    told = [read_metadata(subset.metadata, subset.folder) if subset.metadata else {} for subset in subsets]
    listed = [_listed(source, os.path.relpath(subset.folder, root), lines, subset.metadata)
              for subset, lines in zip(subsets, told, strict=True)]  # fmt: skip
    for subset, files in zip(subsets, listed, strict=True):
        if not files:
            raise UserError("data", f"{subset.folder} has no pictures directly in it; give the folder they are in, "
                                    "or bring Parquet and tars in by `sote curate import`")  # fmt: skip
    every = {file for files in listed for file, _ in files.values()}
    seen = measure(sorted(every), source, memory, faults)
    rows: list[dict[str, Any]] = []
    refused = 0
    for number, (subset, files) in enumerate(zip(subsets, listed, strict=True)):
        there = [path for path in files if path in seen]
        masks = _masks(subset, source, root)
        for path, line in zip(there, _captions(subset, files, there, source), strict=True):
            if refuses(split_tags(line), "", path):
                refused += 1
                continue
            rows.append(_row(path, seen[path], line) | {
                "repeats": subset.repeats, "part": number, "mask": masks.get(_stem(path), path if subset.alpha else None),
                "weight": prior_loss_weight if subset.regularisation else 1.0,
            })  # fmt: skip
    rows = _balanced(rows, subsets)
    parts = tuple(Part(os.path.basename(subset.folder), dict(subset.captions), dict(subset.buckets)) for subset in subsets)
    samples = from_groups(rows, parts, root)
    if refused:
        samples.notes += (f"{refused} picture{'s are' if refused > 1 else ' is'} left out by the policy",)
    return samples


def subsets_of(root: str) -> tuple[list[Subset], list[str]]:
    """The subsets of a folder: its `10_name` folders, also under `img` and, for regularisation, `reg`, or else itself.

    Also what is said of folders that are passed over.
    """
    root = os.path.abspath(root)
    found, passed = _numbered(root)
    if not found:
        found, passed = _numbered(os.path.join(root, IMAGES))
    if not found:
        return [Subset(root)], []
    other, _ = _numbered(os.path.join(root, REGULARISATION))
    found += [Subset(one.folder, one.repeats, one.words, regularisation=True) for one in other]
    return found, [f"{listing(passed)}: passed over, as only folders called like 10_name are read"] if passed else []


def _numbered(folder: str) -> tuple[list[Subset], list[str]]:
    """The folders called like 10_name, and the names of the others."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []
    found = [(name, match) for name in names if (match := NUMBERED.fullmatch(name)) and int(match[1]) > 0]
    subsets = [Subset(os.path.join(folder, name), int(match[1]), match[2].strip()) for name, match in found]
    known = {name for name, _ in found} | {REGULARISATION}
    return subsets, [name for name in names if name not in known and not name.startswith(".")]


def _check_folders(subsets: list[Subset]) -> None:
    """UserError naming the folders that are not there."""
    wanted = dict.fromkeys(folder for subset in subsets for folder in (subset.folder, subset.masks) if folder)
    absent = [folder for folder in wanted if not os.path.isdir(folder)]
    if absent:
        raise UserError("data", f"{len(absent)} of {len(wanted)} folders of pictures or masks are not there: {listing(absent, 3)}"
                                "; mend image_dir or conditioning_data_dir, or bring them back")  # fmt: skip


def _files(source: PictureSource, folder: str) -> list[File]:
    """The pictures directly in a folder of the source."""
    prefix = "" if folder == "." else folder + "/"
    try:
        items = sorted(source.shelf.items(prefix))
    except (FileNotFoundError, NotADirectoryError):  # of the folders, only one that metadata names may be absent
        return []
    wanted = PICTURES - {""}
    return [File(prefix + item.name, item.size, item.modified) for item in items
            if os.path.splitext(item.name)[1].lower() in wanted and not item.name.startswith(".")]  # fmt: skip


def _listed(source: PictureSource, folder: str, told: dict[str, str], metadata: str | None) -> dict[str, tuple[File, str]]:
    """The pictures of a subset by path, with their metadata: those directly in its folder, or those that the metadata names.

    UserError naming those of the metadata that are not there.
    """
    if not told:
        return {file.path: (file, "") for file in _files(source, folder)}
    found: dict[str, tuple[File, str]] = {}
    absent = set(told)
    for inner in sorted({os.path.dirname(key) for key in told}):
        for file in _files(source, os.path.normpath(os.path.join(folder, inner))):
            inside = os.path.normpath(os.path.relpath(file.path, folder))
            if (line := told.get(inside, told.get(_stem(inside)))) is not None:
                found[file.path] = (file, line)
                absent -= {inside, _stem(inside)}
    if absent:
        elsewhere = ", or say in a dataset.toml by image_dir in which folder they are" if len(absent) == len(told) else ""
        raise UserError("data", f"{len(absent)} of {len(told)} pictures that {metadata} names are not there: "
                                f"{listing(sorted(absent), 3)}; bring them back, or take them out of it{elsewhere}")  # fmt: skip
    return found


def _captions(subset: Subset, listed: dict[str, tuple[File, str]], paths: list[str], source: PictureSource) -> Iterator[str]:
    """The caption of each picture: of the metadata, else of the file beside it, else the subset's own words."""
    lines = {path: listed[path][1] for path in paths if listed[path][1]}
    for extension in subset.extensions:
        open_ = [path for path in paths if path not in lines]
        for path, content in zip(open_, source.shelf.read_all([_stem(path) + extension for path in open_]), strict=True):
            if isinstance(content, bytes):
                lines[path] = _first_line(content, _stem(path) + extension)
    return (lines.get(path, subset.words) for path in paths)


def _first_line(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("data", f"the caption {name} is no UTF-8 text; save it as UTF-8") from None
    return text.splitlines()[0].strip() if text else ""


def _row(path: str, seen: Measured, line: str) -> dict[str, Any]:
    return {"path": path, "content": seen.content, "width": seen.width, "height": seen.height, "text": line}


def _masks(subset: Subset, source: PictureSource, root: str) -> dict[str, str]:
    """Masks by the path that their picture has without its suffix."""
    if not subset.masks:
        return {}
    folder = os.path.relpath(subset.folder, root)
    files = _files(source, os.path.relpath(subset.masks, root))
    return {os.path.normpath(os.path.join(folder, os.path.basename(_stem(file.path)))): file.path for file in files}


def _balanced(rows: list[dict[str, Any]], subsets: list[Subset]) -> list[dict[str, Any]]:
    """kohya's rule: pictures of regularisation are seen as often as all others together, by going round them."""
    reg = [row for row in rows if subsets[row["part"]].regularisation]
    if not reg:
        return rows
    own = [row for row in rows if not subsets[row["part"]].regularisation]
    wanted = sum(row["repeats"] for row in own)
    times = evened([row["repeats"] for row in reg], wanted)
    return own + [row | {"repeats": count} for row, count in zip(reg, times, strict=True) if count]


def evened(repeats: Iterable[int], wanted: int) -> list[int]:
    """How often each is seen so that all are seen `wanted` times together: first as often as it says, then once more in turn."""
    first = np.array(list(repeats))
    times = np.where(np.cumsum(first) - first < wanted, first, 0)
    used, missing = np.flatnonzero(times), max(0, wanted - int(times.sum()))
    rounds, rest = divmod(missing, max(1, len(used)))
    times[used] += rounds
    times[used[:rest]] += 1
    found: list[int] = times.tolist()
    return found


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]
