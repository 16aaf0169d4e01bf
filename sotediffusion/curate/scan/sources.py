"""Where pictures lie: folders, object stores and tar archives, listed in one fixed order and read, never written."""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from sotediffusion.curate.engine.shelves import Folder, Item, Shelf, Store, file_system, or_error, refuse_keys
from sotediffusion.curate.step import LISTING
from sotediffusion.pictures.headers import Limits
from sotediffusion.pictures.pixels import Pixels, decode
from sotediffusion.types import UserError

MEMBER = "::"  # between a tar and its member's name
PICTURES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".jxl", ".bmp", ".gif",
            ".tif", ".tiff", ".heic", ".heif", ".psd", ""}  # fmt: skip # "" as scrapers name files by hash alone
MOVING = {".mp4", ".m4v", ".webm", ".mkv", ".mov", ".avi", ".flv", ".wmv", ".ogv", ".mpg", ".mpeg", ".zip", ".ugoira", ".swf"}
SIDECARS = (".json", ".txt", ".caption", ".tags")
CLOSED = "/"  # among what was passed over: folders, which no suffix is called
_BATCH = 4096  # rows of one listing batch

# What scan has let through may be opened again; this only keeps a file changed since then from taking all memory.
_OPENED_BEFORE = Limits(max_pixels=178_000_000, max_bytes=2**30)


class Place(NamedTuple):
    """Where the bytes of a tar's member are."""

    start: int
    size: int


@dataclass(frozen=True)
class PictureSource:
    """A tree of pictures with what was found beside them. Pickles; every process opens it anew."""

    shelf: Shelf
    only: str | None = None  # a single archive instead of all of the tree
    skipped: Counter[str] = field(default_factory=Counter, compare=False, repr=False)  # files that listing passed over, by suffix

    def listing(self) -> Iterator[pa.RecordBatch]:
        """Record batches of LISTING, sorted by path, of every file that could be a picture.

        `modified` is the newest of the file and its sidecars, so that a changed caption counts as a change.
        """
        self.skipped.clear()
        rows: list[tuple[str, int, int]] = []
        for row in self._walk(""):
            rows.append(row)
            if len(rows) == _BATCH:
                yield _batch(rows)
                rows = []
        if rows:
            yield _batch(rows)

    def read(self, path: str) -> bytes:
        """The bytes of one picture as listed; OSError where they cannot be had."""
        return _raised(self.read_all([path])[0])

    def read_all(self, paths: list[str]) -> list[bytes | OSError]:
        """Many pictures at once; of an object store the requests run side by side."""
        plain = [path for path in paths if MEMBER not in path]
        found = dict(zip(plain, self.shelf.read_all(plain), strict=True))
        return [found[path] if path in found else or_error(self._read_member, path) for path in paths]

    def sidecars(self, paths: list[str]) -> list[list[tuple[str, bytes]]]:
        """For each picture the sidecars beside it, (name, content), the most telling last."""
        wanted = [(at, name) for at, path in enumerate(paths) for name in sidecar_names(path)]
        members = [pair for pair in wanted if MEMBER in pair[1]]
        files = [pair for pair in wanted if MEMBER not in pair[1]]
        found: list[list[tuple[str, bytes]]] = [[] for _ in paths]
        contents = self.shelf.read_all([name for _, name in files])
        for (at, name), content in [
            *zip(files, contents, strict=True),
            *((p, or_error(self._read_member, p[1])) for p in members),
        ]:
            if isinstance(content, bytes):
                found[at].append((name.rpartition("/")[2].rpartition(MEMBER)[2], content))
        return found

    def decode(self, path: str) -> Pixels:
        """The whole picture as RGB uint8 (H, W, 3), upright, alpha on white.

        Raises ValueError with the reason for a file that is no good, OSError where it cannot be read.
        """
        return decode(self.read(path), _OPENED_BEFORE)

    def _walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        items = sorted(item for item in self._items(folder) if not item.name.startswith("."))
        if self.only is not None:
            items = [item for item in items if item.name == self.only]
        beside: dict[str, int] = {}  # what a sidecar is named after -> the newest of such
        for item in items:
            if item.name.endswith(SIDECARS):
                base = item.name.rpartition(".")[0]
                beside[base] = max(item.modified, beside.get(base, 0))
        for item in items:
            name = item.name
            if name.endswith("/"):
                yield from self._walk(folder + name)
            elif name.endswith(".tar"):
                yield from self._members(folder + name, item)
            elif self._is_listed(name):
                newest = max(item.modified, beside.get(name, 0), beside.get(_stem(name), 0)) if beside else item.modified
                yield folder + name, item.size, newest

    def _items(self, folder: str) -> list[Item]:
        """What is in a folder; nothing where it is closed to us, as lost+found, or gone since its parent was read."""
        try:
            return self.shelf.items(folder)
        except (PermissionError, FileNotFoundError) as error:
            if not folder:
                raise UserError("source", f"it cannot be listed ({error.strerror or error}); give a folder that can be") from None
            self.skipped[CLOSED] += 1
            return []

    def _members(self, path: str, item: Item) -> Iterator[tuple[str, int, int]]:
        for name, place in sorted(tar_index(self.shelf, path, item.size, item.modified).items()):
            if self._is_listed(name):
                yield path + MEMBER + name, place.size, item.modified

    def _is_listed(self, name: str) -> bool:
        base = name.rpartition("/")[2].lstrip(".")
        suffix = base[base.rfind(".") :].lower() if "." in base else ""
        if suffix in PICTURES or suffix in MOVING:
            return True
        if suffix not in SIDECARS:
            self.skipped[suffix[:16]] += 1
        return False

    def _read_member(self, path: str) -> bytes:
        tar, _, name = path.partition(MEMBER)
        place = _known_index(self.shelf, tar).get(name)
        if place is None:
            raise FileNotFoundError(path)
        return self.shelf.read(tar, place.start, place.size)


def passed_over(skipped: Counter[str], most: int = 6) -> str:
    """What a listing left alone, in words: `12, by name no pictures: 7 .part, 5 .rar`; empty for none."""
    skipped = skipped.copy()
    closed = skipped.pop(CLOSED, 0)
    named = [f"{count} {suffix}" for suffix, count in sorted(skipped.items(), key=lambda item: (-item[1], item[0]))[:most]]
    others = skipped.total() - sum(count for _, count in skipped.most_common(most))
    rest = [f"{others} others"] if others else []
    files = [f"{skipped.total()}, by name no pictures: {', '.join(named + rest)}"] if skipped else []
    return "; ".join([*files, *([f"folders that cannot be read: {closed}"] if closed else [])])


def whole(place: str) -> str:
    """A place as it may be written down: a local one from the root, a URL as it is."""
    if "://" in place and not place.startswith("file://"):
        return place
    return os.path.abspath(os.path.expanduser(place.removeprefix("file://")))


def open_source(place: str) -> PictureSource:
    """The pictures of a local folder, a .tar file, or a URL that fsspec knows (s3://bucket/folder).

    UserError where there is nothing of the kind.
    """
    if "://" in place and not place.startswith("file://"):
        return _open_store(place)
    path = whole(place)
    if os.path.isdir(path):
        return PictureSource(Folder(path))
    if path.endswith(".tar") and os.path.isfile(path):
        return PictureSource(Folder(os.path.dirname(path)), only=os.path.basename(path))
    raise UserError("source", f"{place} is neither a folder nor a .tar file; give the place of the pictures")


def _open_store(place: str) -> PictureSource:
    refuse_keys("source", place)
    system, root = file_system(place)
    try:
        kind = system.info(root)["type"]
    except FileNotFoundError:
        raise UserError("source", f"{place} does not exist; give a folder or a URL such as s3://bucket/folder") from None
    except Exception as error:  # every store has errors of its own for a refused key
        raise UserError(
            "source", f"{place} cannot be opened ({type(error).__name__}: {error}); check the address and its keys"
        ) from None
    if kind == "directory":
        return PictureSource(Store(place.rstrip("/")))
    if not place.endswith(".tar"):
        raise UserError("source", f"{place} is a single file; give its folder, or a .tar")
    folder, _, name = place.rpartition("/")
    return PictureSource(Store(folder), only=name)


def sidecar_names(path: str) -> list[str]:
    """Where scrapers and trainers put what they know of a picture, plainest first: a.txt, a.jpg.txt, a.json, a.jpg.json, ..."""
    names = [base + suffix for suffix in reversed(SIDECARS) for base in (_stem(path), path)]
    return list(dict.fromkeys(names))


def _stem(path: str) -> str:
    """The path without its suffix; a dot in a folder's or a tar's name begins none."""
    stem, dot, suffix = path.rpartition(".")
    return path if not dot or "/" in suffix or MEMBER in suffix else stem


@lru_cache(maxsize=4)
def tar_index(shelf: Shelf, path: str, size: int, modified: int) -> dict[str, Place]:
    """Every file in a tar and where its bytes are; of a tar cut short, what is whole. Size and time keep the cache fresh."""
    found = {}
    try:
        with shelf.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg() and member.offset_data + member.size <= size:
                    found[member.name.removeprefix("./")] = Place(member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined] # or it keeps every header it has seen
    except tarfile.TarError:
        pass
    return found


def _known_index(shelf: Shelf, path: str) -> dict[str, Place]:
    folder, slash, name = path.rpartition("/")
    for item in _archives(shelf, folder + slash):
        if item.name == name:
            return tar_index(shelf, path, item.size, item.modified)
    return {}


@lru_cache(maxsize=4)
def _archives(shelf: Shelf, folder: str) -> list[Item]:
    return [item for item in shelf.items(folder) if item.name.endswith(".tar")]


def _raised(content: bytes | OSError) -> bytes:
    if isinstance(content, OSError):
        raise content
    return content


def _batch(rows: list[tuple[str, int, int]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(column, kind.type) for column, kind in zip(columns, LISTING, strict=True)], schema=LISTING)
