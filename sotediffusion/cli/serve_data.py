"""Where a server keeps what it must not forget."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sotediffusion.types import UserError

_PASSWORD = re.compile(r"//[^/@]*:[^@]*@|password=")


def folder_asked(data: Path | None, table: Mapping[str, Any]) -> Path | None:
    """The folder given as an option, or else in the file of settings."""
    return data or (Path(table["data"]) if "data" in table else None)


def data_folder(data: Path | None) -> Path:
    """The folder given, or the user's own for data of this program."""
    if data is not None:
        return data
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sotediffusion" / "serve"


def jobs_place(data: Path | None, table: Mapping[str, Any]) -> str:
    """The database in the file of settings or in SOTE_JOBS, whose URL may hold a password and so is no option; or a file."""
    return table.get("jobs") or os.environ.get("SOTE_JOBS") or str(data_folder(data) / "jobs.sqlite")


def pictures_place(data: Path | None) -> str:
    """The folder or URL of an object store in SOTE_PICTURES, or else a folder in the server's own."""
    return os.environ.get("SOTE_PICTURES") or str(data_folder(data) / "pictures")


def check_no_password(sets: Iterable[str]) -> None:
    """UserError: a single setting gives a place with its password."""
    for key, variable in (("jobs", "SOTE_JOBS"), ("shelf", "SOTE_PICTURES")):
        if any(word.partition("=")[0].strip() == key and _PASSWORD.search(word) for word in sets):
            raise UserError(key, "a password in a command is seen by all users of this machine; give the place in the "
                                 f"environment as {variable}, or in the file of --config")  # fmt: skip
