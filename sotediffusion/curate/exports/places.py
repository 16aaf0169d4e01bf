"""The folder an export goes into: claimed by a manifest, whole files only, and what an earlier export left there is known."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError

MANIFEST = "export.json"


@dataclass
class Place:
    """An export's folder. `files` tells what each file of it was made from, so that a second run makes only what changed."""

    root: Path
    form: str
    files: dict[str, str] = field(default_factory=dict)

    def has(self, name: str, fingerprint: str) -> bool:
        return self.files.get(name) == fingerprint and (self.root / name).is_file()

    def put(self, name: str, fingerprint: str) -> None:
        """Note that a file is finished."""
        self.files[name] = fingerprint
        self.save()

    def save(self) -> None:
        write_whole(self.root / MANIFEST, json.dumps({"form": self.form, "files": self.files}, indent=1).encode())

    def forget_others(self, names: set[str]) -> None:
        """Delete files that an earlier run put here and this one did not: they are this export's own and no one's source."""
        for name in [name for name in self.files if name not in names]:
            (self.root / name).unlink(missing_ok=True)
            del self.files[name]
        self.save()


def claim(root: Path, form: str) -> Place:
    """The folder for an export of this form: new, empty, or one that such an export made. UserError for any other."""
    try:
        taken = any(root.iterdir()) if root.exists() else False
        held = _held(root) if taken else None
    except OSError as error:
        raise UserError("out", f"{root} cannot be used ({error.strerror}); name a folder") from None
    if taken and held is None:
        raise UserError("out", f"{root} is not empty and no export made it; name a new folder")
    if held and held.get("form") != form:
        raise UserError("out", f"{root} holds an export as {held.get('form')}; name another folder for {form}")
    place = Place(root, form, dict(held["files"]) if held else {})
    place.save()
    return place


def _held(root: Path) -> dict[str, Any] | None:
    try:
        held = json.loads((root / MANIFEST).read_text())
        return held if isinstance(held, dict) and isinstance(held.get("files"), dict) else None
    except (FileNotFoundError, ValueError):
        return None
