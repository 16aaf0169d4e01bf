"""Shelf: pictures, previews and pictures to start from as files, on this machine's disk or in an object store."""

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sotediffusion.names import unknown
from sotediffusion.pictures.files import beside, refused, sync_folder
from sotediffusion.serve.storage.database import masked
from sotediffusion.types import UserError

SUFFIXES = ("png", "webp", "jpg")
WIDTHS = (256, 512, 1024)  # px, of small copies
RESERVE = 2**30  # bytes that stay free on a disk

_JOB = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{30}})/[0-9a-f]+(-preview|-w[0-9]+)?\.({'|'.join(SUFFIXES)})")


class Shelf:
    """Files by names that the server makes, `ab/<job>/<random>.png`: no caller's word ever becomes a path.

    A file is there whole or not at all; on a disk its content and its name are synced before `put` returns. `place` is a folder
    or a URL that fsspec knows (s3://bucket/folder; keys come from the environment or from the store's own files).
    Raises UserError for a place that cannot be opened, that takes no more or that does not answer.
    """

    def __init__(self, place: str | Path, reserve: int = RESERVE):
        self.place = str(place)
        self.reserve = reserve

    def __repr__(self) -> str:
        return f"Shelf({masked(self.place)!r})"

    def put(self, job: str, content: bytes, suffix: str = "png") -> str:
        """Keep a file of this job under a new name that nobody guesses; the name."""
        return self._write(f"{_folder(job)}/{secrets.token_hex(16)}", content, suffix, durable=True)

    def put_preview(self, job: str, fence: int, content: bytes, suffix: str = "jpg") -> str:
        """Keep the latest preview of one run of this job in place of the one before; its name stays the same."""
        return self._write(f"{_folder(job)}/{fence:x}-preview", content, suffix, durable=False)

    def put_thumbnail(self, name: str, width: int, content: bytes) -> str:
        """Keep a small copy of a picture beside it; it goes with its job, or with `remove`."""
        small = thumbnail_name(name, width)
        self._path(small)  # raises for a name that no shelf made
        return self._write(small.removesuffix(".webp"), content, "webp", durable=False)

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError for a name that is not here, or that no shelf made."""
        path = self._path(name)
        with self._reaching():
            content: bytes = self._files.cat_file(path)
        return content

    def remove(self, names: Collection[str]) -> None:
        """Remove files; those that are gone already are no fault."""
        for name in names:
            with suppress(FileNotFoundError), self._reaching():
                self._files.rm_file(self._path(name))

    def remove_job(self, job: str) -> None:
        """Remove all that is kept of a job."""
        folder = f"{self._root}/{_folder(job)}"
        with suppress(FileNotFoundError), self._reaching():
            self._files.rm(folder, recursive=True)

    def check_room(self) -> None:
        """Raise UserError where the disk is so full that pictures may not fit; asked before a job is accepted."""
        if not self._local:
            return
        free = shutil.disk_usage(self._root).free
        if free < self.reserve:
            raise UserError("disk", f"{free >> 20} MiB are free where pictures are kept, and {self.reserve >> 20} MiB must stay "
                                    "free; delete pictures or give more space, then try again")  # fmt: skip

    def jobs(self) -> Iterator[str]:
        """The ids of the jobs of which something is kept."""
        for shard in self._names(""):
            yield from (name for name in self._names(shard) if _JOB.fullmatch(name))

    def written(self, job: str) -> dict[str, float]:
        """When each file that is kept of a job was written, in seconds since 1970."""
        found = {}
        for name in (f"{_folder(job)}/{name}" for name in self._names(_folder(job))):
            if _NAME.fullmatch(name):
                with suppress(FileNotFoundError), self._reaching():  # it may go between two looks: others remove files, too
                    found[name] = self._files.modified(self._path(name)).timestamp()
        return found

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.place, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            place = masked(self.place)
            raise UserError("shelf", f"{place} cannot be opened ({error}); give a folder or s3://bucket/name") from None
        if "file" in files.protocol:
            try:
                Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise refused(Path(root), error, "shelf") from None
        return files, root.rstrip("/")

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @property
    def _local(self) -> bool:
        return "file" in self._files.protocol

    @property
    def _faults(self) -> type[Exception]:
        """What the place raises; clients of object stores have errors of their own."""
        return OSError if self._local else Exception

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """What goes wrong with the place, in words; what is not there is for the caller to judge."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except self._faults as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            said = f"{masked(self.place)} fails ({reason[:120]})"
            raise UserError("disk", f"{said}; free space or mend it, then try again") from error

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError(f"{name[:80]!r} is not on the shelf")
        return f"{self._root}/{name}"

    def _names(self, folder: str) -> list[str]:
        """What lies directly in a folder; nothing where there is none."""
        try:
            with self._reaching():
                found = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def _write(self, stem: str, content: bytes, suffix: str, durable: bool) -> str:
        if suffix not in SUFFIXES:
            raise unknown("suffix", suffix, SUFFIXES)
        path = self._path(name := f"{stem}.{suffix}")
        try:
            with self._reaching():
                if self._local:
                    _write_to_disk(Path(path), content, durable)
                else:
                    self._files.pipe_file(path, content)
        except FileNotFoundError:  # a bucket that is gone, or a job removed this moment
            raise UserError("disk", f"{masked(self.place)} has no place for this job any more; make it anew") from None
        return name


def thumbnail_name(name: str, width: int) -> str:
    """Where a small copy of the picture of this name lies."""
    return f"{name.rpartition('.')[0]}-w{width}.webp"


def with_thumbnails(name: str) -> list[str]:
    """A picture and all small copies that there may be of it."""
    return [name, *(thumbnail_name(name, width) for width in WIDTHS)]


def _folder(job: str) -> str:
    if not _JOB.fullmatch(job):
        raise FileNotFoundError(f"{job[:80]!r} is no id of a job")
    return f"{job[:2]}/{job}"


def _write_to_disk(path: Path, content: bytes, durable: bool) -> None:
    with beside(path) as part, open(part, "xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        for folder in path.parents[:3]:  # the job's, its shard, the root: all of them may be new
            sync_folder(folder)
