"""A folder for finished files, on this machine or in an object store: each file is there whole or not at all."""

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc

from sotediffusion.curate.engine.shelves import reached, refuse_keys
from sotediffusion.pictures.files import beside, sync_folder
from sotediffusion.types import UserError

SCHEME = "://"


class Store:
    """Files by name under one place; names are posix paths. Pickles, so that workers have it.

    On a disk a file is written beside its name, synced and renamed; an object store puts a whole object at once.
    """

    taken = False  # another run has the place now, which thought this one dead: nothing is written any more

    def __init__(self, place: str | Path):
        """UserError for a URL with a key in it."""
        self.place = str(place)
        refuse_keys("out", self.place)
        self.remote = SCHEME in self.place and not self.place.startswith("file" + SCHEME)
        self.root = self.place if self.remote else os.path.abspath(self.place.removeprefix("file" + SCHEME))

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "remote": self.remote, "root": self.root}

    @cached_property
    def files(self) -> tuple[Any, str]:
        """The fsspec file system and the place's path in it; keys come from the environment or from the system's own files."""
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError("out", f"{self.place} cannot be opened ({error}); give a folder or s3://bucket/name") from None
        return system, path.rstrip("/")

    @property
    def lance_options(self) -> dict[str, str] | None:
        """What Lance needs to know of the place; its keys and endpoint come from the environment like ours."""
        return {"allow_http": "true"} if self.place.startswith("s3" + SCHEME) else None

    def _ask(self, question: str, *words: Any, **more: Any) -> Any:
        """Of the object store; UserError where it does not answer."""
        with reached("out", self.place, (FileNotFoundError, FileExistsError, NotADirectoryError)):
            return getattr(self.files[0], question)(*words, **more)

    def path(self, name: str) -> str:
        """The full path of a file; for an object store as the store's own client wants it."""
        return f"{self.files[1]}/{name}" if self.remote else os.path.join(self.root, name)

    def names(self, folder: str) -> list[str]:
        """The files and folders directly in a folder, sorted; none where it does not exist."""
        try:
            if self.remote:
                found = [entry.rstrip("/").rpartition("/")[2] for entry in self._ask("ls", self.path(folder), detail=False)]
            else:
                found = os.listdir(self.path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if name and not name.startswith("."))

    def exists(self, name: str) -> bool:
        return bool(self._ask("exists", self.path(name))) if self.remote else os.path.exists(self.path(name))

    def read(self, name: str) -> bytes:
        """A file's content; FileNotFoundError where there is none."""
        if self.remote:
            content: bytes = self._ask("cat_file", self.path(name))
            return content
        return Path(self.path(name)).read_bytes()

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Put a file there, whole; UserError where the place refuses."""
        self.check_ours()
        try:
            if self.remote:
                self._ask("pipe_file", self.path(name), bytes(content))
            else:
                _write_synced(self.path(name), content)
        except OSError as error:
            raise refused(self.path(name), error) from None

    def check_ours(self) -> None:
        """Raise UserError where another run has taken the place over."""
        if self.taken:
            raise UserError("out", f"{self.place} was taken over by another run, as this one had not answered for minutes; "
                                   "wait for that one, then run the same command again")  # fmt: skip

    def create(self, name: str, content: bytes) -> bool:
        """Put a file into an object store unless there is one of that name; whether it was put."""
        try:
            self._ask("pipe_file", self.path(name), content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise refused(self.path(name), error) from None
        return True

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            if self.remote:
                self._ask("rm_file", self.path(name))
            else:
                os.unlink(self.path(name))

    def remove_halves(self, folders: Collection[str]) -> None:
        """Remove what writers that were killed left beside the names in folders of a disk; for who is the only one to write."""
        if not self.remote:
            for folder in folders:
                for half in Path(self.path(folder)).rglob(".*.part"):
                    half.unlink(missing_ok=True)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Put a table there as an Arrow file."""
        sink = pa.BufferOutputStream()
        with ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.write(name, sink.getvalue())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """An Arrow file, or the columns of it that it has; memory-mapped on a disk."""
        try:
            source = pa.BufferReader(self.read(name)) if self.remote else pa.memory_map(self.path(name))
            file = ipc.open_file(source)
            if columns is not None:
                kept = [place for place, field in enumerate(file.schema.names) if field in columns]
                file = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=kept))
            return file.read_all()
        except pa.ArrowInvalid as error:
            raise UserError("out", f"{self.path(name)} is damaged ({str(error)[:80]}); delete it and run again") from None


def refused(path: str, error: OSError) -> UserError:
    """What to tell of a disk or store that does not take a file."""
    reason = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)[:120]
    return UserError("out", f"{path} cannot be written ({reason}); free space or mend the place, then run the same command again")


def _write_synced(path: str, content: bytes | pa.Buffer) -> None:
    with beside(Path(path)) as part, open(part, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(Path(path).parent)
