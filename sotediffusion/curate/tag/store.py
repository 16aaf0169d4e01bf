"""What a tagger found, kept by the hash of each picture's content, so that other thresholds need no model.

Of a picture the policy refuses only the hash is kept, and that it was refused.
"""

import sqlite3
from pathlib import Path
from threading import Lock

import numpy as np

from sotediffusion.curate.inference.views import Array
from sotediffusion.types import UserError

_TABLE = "CREATE TABLE IF NOT EXISTS seen (picture BLOB PRIMARY KEY, ids BLOB, probabilities BLOB) WITHOUT ROWID"


class TagStore:
    """One tagger's probabilities at or above `floor`, in an SQLite file; threads may share it."""

    def __init__(self, path: Path, tags: int, floor: float):
        """`tags`: how many the tagger knows. UserError where the file cannot be opened."""
        self.path, self.tags, self.floor = path, tags, np.float32(floor)
        self._lock = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from None

    def refused(self, picture: bytes) -> bool:
        """Whether the policy refused the picture with this hash."""
        found = self._find(picture)
        return found is not None and found[0] is None

    def probabilities(self, picture: bytes) -> Array | None:
        """Of every tag, float32, 0 below the floor; None where the picture is unknown or refused."""
        found = self._find(picture)
        if found is None or found[0] is None:
            return None
        probabilities = np.zeros(self.tags, np.float32)
        probabilities[np.frombuffer(found[0], np.uint16)] = np.frombuffer(found[1], np.float32)
        return probabilities

    def keep(self, picture: bytes, probabilities: Array) -> None:
        """Remember a picture's tags; the four ratings always."""
        kept = probabilities >= self.floor
        kept[:4] = True
        ids = np.nonzero(kept)[0].astype(np.uint16)
        self._put(picture, ids.tobytes(), probabilities[ids].astype(np.float32).tobytes())

    def refuse(self, picture: bytes) -> None:
        """Forget all but the hash."""
        self._put(picture, None, None)

    def save(self) -> None:
        """Make what was kept so far outlive the process."""
        with self._lock:
            try:
                self._file.commit()
            except sqlite3.Error as error:
                raise self._broken(error) from None

    def close(self) -> None:
        """Save and close."""
        self.save()
        self._file.close()

    def _find(self, picture: bytes) -> tuple[bytes | None, bytes] | None:
        with self._lock:
            try:
                row = self._file.execute("SELECT ids, probabilities FROM seen WHERE picture = ?", (picture,)).fetchone()
            except sqlite3.Error as error:
                raise self._broken(error) from None
        return row  # type: ignore[no-any-return]

    def _put(self, picture: bytes, ids: bytes | None, probabilities: bytes | None) -> None:
        with self._lock:
            try:
                self._file.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (picture, ids, probabilities))
            except sqlite3.Error as error:
                raise self._broken(error) from None

    def _broken(self, error: Exception) -> UserError:
        return UserError("cache", f"{self.path} cannot be used ({error}); make room, remove it, or give another --cache")
