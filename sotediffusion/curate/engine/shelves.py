"""Trees of files, in a folder of this machine or in an object store, behind one small face."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, Protocol

from sotediffusion.types import UserError

GO_ON = "mend that and run the same command again, which goes on where it was"
OF_ONE = (FileNotFoundError, PermissionError, IsADirectoryError)  # what is said of one file, of which the others know nothing
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")


class Item(NamedTuple):
    """One entry of a folder; the name of a folder ends in a slash, so that sorting names sorts whole paths."""

    name: str
    size: int
    modified: int  # ns since 1970


class Shelf(Protocol):
    """A tree of files, whatever holds it. Paths are relative and posix. It is a key of caches, so it hashes by its place."""

    def __hash__(self) -> int:
        """By the place."""

    def items(self, folder: str) -> list[Item]:
        """What is directly in a folder; "" is the root."""

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """A file, or `size` bytes of it; OSError where it cannot be read."""

    def read_all(self, paths: list[str]) -> list[bytes | OSError]:
        """Many files at once, each as its content or as why not."""

    def open(self, path: str) -> BinaryIO:
        """A file to seek in."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    root: str

    def items(self, folder: str) -> list[Item]:
        with os.scandir(os.path.join(self.root, raw_name(folder))) as entries:
            return [item for entry in entries if (item := self._item(entry)) is not None]

    def _item(self, entry: "os.DirEntry[str]") -> Item | None:
        try:
            if entry.is_dir():
                if entry.is_symlink() and _holds(os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))):
                    return None  # a link to a folder around it would be walked for ever
                return Item(shown_name(entry.name) + "/", 0, 0)
            about = entry.stat()
        except OSError:  # a link to nowhere
            return Item(shown_name(entry.name), 0, 0)
        return Item(shown_name(entry.name), about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else None

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        with self.open(path) as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def read_all(self, paths: list[str]) -> list[bytes | OSError]:
        return [or_error(self.read, path) for path in paths]

    def open(self, path: str) -> BinaryIO:
        full = os.path.join(self.root, raw_name(path))
        try:
            return open(full, "rb")
        except OSError:
            if os.path.isdir(self.root):
                raise
            raise UserError("source", f"the folder {self.root} is gone; {GO_ON}") from None


def _holds(folder: str, other: str) -> bool:
    return os.path.commonpath([folder, other]) == folder


def reason_of(error: OSError) -> str:
    """Why a file cannot be read, without its path."""
    return (error.strerror or ("the file is gone" if isinstance(error, FileNotFoundError) else str(error)))[:200]


def or_error(read: Callable[[str], bytes], path: str) -> bytes | OSError:
    try:
        content: bytes = read(path)
        return content
    except OSError as error:
        return error


@contextmanager
def reached(field: str, place: str, answers: tuple[type[OSError], ...]) -> Iterator[None]:
    """UserError for whatever a store's client raises, each its own kinds, but for those `answers` that tell of one file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, *answers)):
            raise
        raise UserError(field, f"{masked(place)} does not answer ({str(error)[:200] or type(error).__name__}); {GO_ON}") from None


@dataclass(frozen=True)
class Store:
    """A prefix of an object store that fsspec reaches; keys and endpoint come from the environment or its own files."""

    url: str

    def items(self, folder: str) -> list[Item]:
        system, root = file_system(self.url)
        prefix = f"{root}/{folder}".rstrip("/")
        found = []
        with self._reached():
            listed = system.ls(prefix, detail=True)
        for about in listed:
            name = about["name"].rstrip("/").rpartition("/")[2]
            if about["type"] == "directory":
                found.append(Item(name + "/", 0, 0))
            elif about["name"].rstrip("/") != prefix:  # the marker that some stores keep for an empty folder
                found.append(Item(name, int(about.get("size") or 0), _nanoseconds(about)))
        return found

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        system, root = file_system(self.url)
        end = None if size is None else start + size
        with self._reached():
            content: bytes = system.cat_file(f"{root}/{path}", start=start or None, end=end)
        return content

    def read_all(self, paths: list[str]) -> list[bytes | OSError]:
        system, root = file_system(self.url)
        if not paths:
            return []
        with self._reached():
            found = system.cat([f"{root}/{path}" for path in paths], on_error="return")
        if isinstance(found, bytes):
            return [found]
        results = [found.get(f"{root}/{path}", FileNotFoundError(path)) for path in paths]
        for result in results:
            if isinstance(result, Exception):
                with self._reached(), suppress(*OF_ONE):
                    raise result
        return results

    def open(self, path: str) -> BinaryIO:
        system, root = file_system(self.url)
        with self._reached():
            file: BinaryIO = system.open(f"{root}/{path}", "rb", block_size=2**16, cache_type="readahead")
        return file

    def _reached(self) -> AbstractContextManager[None]:
        return reached("source", self.url, OF_ONE)


@lru_cache(maxsize=16)
def file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(
            "source", f"{masked(url)} cannot be opened ({error}); give a folder or a URL such as s3://bucket/folder"
        ) from None
    return system, root.rstrip("/")


def _nanoseconds(about: dict[str, Any]) -> int:
    when = about.get("LastModified") or about.get("mtime") or about.get("updated") or about.get("last_modified") or 0
    return int((when.timestamp() if hasattr(when, "timestamp") else float(when) if isinstance(when, int | float) else 0) * 1e9)


def masked(place: str) -> str:
    """A URL without the password or key that somebody put in it; a key may have slashes, a port is none."""
    return re.sub(r"//[^/@]*(?::(?!\d+/)[^@]*)?@", "//***@", place)


def refuse_keys(field: str, place: str) -> None:
    """UserError for a URL with a key in it: places are written down, and said in many sentences."""
    if masked(place) != place:
        raise UserError(
            field, f"{masked(place)} has a key in it; put keys into the environment, as the store's own tools read them"
        )


def shown_name(name: str) -> str:
    """A file name that is no valid UTF-8 with its odd bytes as \\xe9, so that it fits a table."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", name)


def raw_name(path: str) -> str:
    """The file name that `shown_name` was made from."""
    return _ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), path) if "\\x" in path else path
