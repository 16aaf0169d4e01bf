"""kohya's metadata files: JSON that maps pictures to captions and tags."""

import json
import os
from pathlib import Path
from typing import Any

from sotediffusion.types import UserError


def read_metadata(path: str, folder: str) -> dict[str, str]:
    """Picture -> caption; pictures are paths under `folder`, with or without suffix, as the keys are.

    Caption and tags are joined by a comma. Raises UserError for a file that is no such JSON.
    """
    return {_inside(key, folder): caption_of(value) for key, value in _told(path).items()}


def pictures_of(path: str) -> str:
    """The folder that a metadata file speaks of: the one that holds all its full paths where these are there, or else its own."""
    full = [os.path.dirname(key) for key in _told(path) if os.path.isabs(key)]
    folder = os.path.commonpath(full) if full else ""
    return folder if os.path.isdir(folder) else os.path.dirname(os.path.abspath(path))


def _told(path: str) -> dict[str, dict[str, Any]]:
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("data", f"{path} is no readable JSON ({str(error)[:100]}); give kohya's metadata file") from None
    if not told or not isinstance(told, dict) or not all(isinstance(value, dict) for value in told.values()):
        raise UserError("data", f"{path} maps no pictures to captions; give kohya's metadata file")
    return told


def _inside(key: str, folder: str) -> str:
    """A key as a path under the folder: keys may be absolute, and of another machine."""
    plain = key.replace("\\", "/")
    if plain.startswith(folder.rstrip("/") + "/"):
        return os.path.normpath(plain[len(folder.rstrip("/")) + 1 :])
    return os.path.basename(plain) if os.path.isabs(plain) or ":" in plain else os.path.normpath(plain)


def caption_of(value: dict[str, Any]) -> str:
    """One line of what is told of a picture."""
    parts = [value.get("caption"), value.get("tags")]
    return ", ".join(part for part in parts if isinstance(part, str) and part)
