"""Where a server keeps what it must not forget."""

import os
from pathlib import Path


def data_folder(data: Path | None) -> Path:
    """The folder given, or the user's own for data of this program."""
    if data is not None:
        return data
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sotediffusion" / "serve"


def jobs_place(data: Path | None) -> str:
    """The PostgreSQL URL in SOTE_JOBS, which may hold a password and so is no option; or else a file in the folder."""
    return os.environ.get("SOTE_JOBS") or str(data_folder(data) / "jobs.sqlite")


def pictures_place(data: Path | None) -> str:
    """The folder or URL of an object store in SOTE_PICTURES, or else a folder in the server's own."""
    return os.environ.get("SOTE_PICTURES") or str(data_folder(data) / "pictures")
