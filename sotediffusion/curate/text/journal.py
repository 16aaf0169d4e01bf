"""Answers that cost time or money, kept one by one as they come, so that a killed process loses none that it had received.

A folder holds one file of JSON lines per process; every process reads them all, its own and those of processes long dead.
"""

import json
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError


class Journal:
    """Answers by key (a content hash). Opened in the process that uses it; several may share the folder at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.answers: dict[str, dict[str, Any]] = {}
        self._read: dict[Path, int] = {}  # bytes of each file that have been taken in
        self._file: BinaryIO | None = None

    def refresh(self) -> None:
        """Take in what any process has written since the last time. A last line that is not whole yet is left for later.

        A line that a full disk has torn says nothing; its answer is asked for again.
        """
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for entry in map(_entry, whole.splitlines()):
                if entry:
                    self.answers[entry.pop("key")] = entry

    def add(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer: on the disk when this returns. Raises UserError where the disk refuses."""
        line = json.dumps({"key": key, **answer}, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = open(self.folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl", "ab", buffering=0)
            _append(self._file, line)
            os.fsync(self._file.fileno())
        except OSError as error:
            reason = error.strerror
            raise UserError("journal", f"{self.folder} cannot be written ({reason}); free space and run again") from None
        self.answers[key] = answer

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _append(file: BinaryIO, line: bytes) -> None:
    """Write all of a line or nothing: a disk that is nearly full takes a part of it and refuses the rest only."""
    start = file.seek(0, os.SEEK_END)
    try:
        while line:
            line = line[file.write(line) :]
    except OSError:
        file.truncate(start)
        raise


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None for one that is torn, with another after it or without."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def forget(folder: Path, keys: Collection[str]) -> None:
    """Take every answer about some pictures out of all journals in a folder; only where nobody writes to them.

    A line that is not whole goes too: it may be about any picture.
    """
    for path in sorted(folder.glob("*/*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and (entry := _entry(line)) and entry["key"] not in keys]
        if kept != lines:
            write_whole(path, b"".join(kept), "journal")
