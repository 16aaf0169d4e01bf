"""Words that only this server could have written: addresses of pictures that expire, and the cookies of the page."""

import hashlib
import hmac
import time
from collections.abc import Callable

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.vault import shared_secret


class Seal:
    """HMAC-SHA-256 with a secret that all gateways of a database share; words signed for one `purpose` serve no other."""

    def __init__(self, database: Database, purpose: str, clock: Callable[[], float] = time.time):
        self._secret, self._purpose, self._clock = shared_secret(database, "seals"), purpose, clock

    def sign(self, word: str, life_s: float, grain_s: float = 1.0) -> tuple[int, str]:
        """When it expires, in seconds since 1970 and rounded up to `grain_s`, and the signature over both.

        A coarse grain lets the same word have the same signature for a while, so that browsers may keep what it leads to.
        """
        expires = int(-(-(self._clock() + life_s) // grain_s) * grain_s)
        return expires, self._mark(word, expires)

    def holds(self, word: str, expires: int, signature: str) -> bool:
        """Whether this was signed here and has not expired."""
        right = hmac.compare_digest(self._mark(word, expires).encode(), signature.encode(errors="replace"))
        return right and expires >= self._clock()

    def _mark(self, word: str, expires: int) -> str:
        text = f"{self._purpose}\n{expires}\n{word}".encode(errors="replace")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:40]
