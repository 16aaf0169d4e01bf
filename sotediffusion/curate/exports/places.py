"""The place an export goes to, a folder or an object store: claimed by a manifest, whole files only, known from run to run."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sotediffusion.curate.engine.store import Store
from sotediffusion.pictures.files import beside
from sotediffusion.types import UserError

MANIFEST = "export.json"


@dataclass
class Place:
    """An export's place. `files` tells what each file of it was made from, so that a second run makes only what changed."""

    store: Store
    form: str
    files: dict[str, str] = field(default_factory=dict)

    def has(self, name: str, fingerprint: str) -> bool:
        return self.files.get(name) == fingerprint and self.store.exists(name)

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A file of this machine to write to; it is in its place when all went well. UserError where the place refuses."""
        try:
            if not self.store.remote:
                with beside(Path(self.store.path(name))) as part:
                    yield part
                return
            with tempfile.TemporaryDirectory(prefix="sote-export-") as folder:
                yield Path(folder) / "part"
                self.store.files[0].put_file(str(Path(folder) / "part"), self.store.path(name))
        except OSError as error:
            raise UserError("out", f"{self.store.path(name)} cannot be written ({error.strerror or error}); free space or choose "
                                   "another place") from None  # fmt: skip

    def put(self, name: str, fingerprint: str) -> None:
        """Note that a file is finished."""
        self.files[name] = fingerprint
        self.save()

    def save(self) -> None:
        self.store.write(MANIFEST, json.dumps({"form": self.form, "files": self.files}, indent=1).encode())

    def forget_others(self, names: set[str]) -> None:
        """Delete files that an earlier run put here and this one did not: they are this export's own and no one's source."""
        for name in [name for name in self.files if name not in names]:
            self.store.remove(name)
            del self.files[name]
        self.save()


def claim(out: str | Path, form: str) -> Place:
    """The place for an export of this form: new, empty, or one that such an export made. UserError for any other."""
    store = Store(out)
    try:
        if not store.remote and Path(store.root).is_file():
            raise NotADirectoryError(0, "it is a file")
        taken = bool(store.names(""))
        held = _held(store) if taken else None
        if taken and held is None:
            raise UserError("out", f"{out} is not empty and no export made it; name a new folder")
        if held and held.get("form") != form:
            raise UserError("out", f"{out} holds an export as {held.get('form')}; name another folder for {form}")
        place = Place(store, form, dict(held["files"]) if held else {})
        place.save()
        return place
    except UserError:
        raise
    except Exception as error:  # every store has errors of its own for a refused key or a bucket that is not there
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {str(error)[:120]}"
        raise UserError("out", f"{out} cannot be used ({reason}); name a folder, or a URL such as s3://bucket/folder") from None


def _held(store: Store) -> dict[str, Any] | None:
    try:
        held = json.loads(store.read(MANIFEST))
        return held if isinstance(held, dict) and isinstance(held.get("files"), dict) else None
    except (FileNotFoundError, ValueError):
        return None
