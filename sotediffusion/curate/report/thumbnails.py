"""What the HTML pages have in common: small pictures inside, and the hashes by which a page allows its own style and script."""

import base64
import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

SIDE = 220  # px, a thumbnail's longer side

See = Callable[[str], "np.ndarray[Any, Any]"]  # path in the catalogue -> RGB uint8 (H, W, 3)
Vouch = Callable[[str, "np.ndarray[Any, Any]"], bool]  # of a picture that was not tagged: path, pixels -> may it be shown


def csp_hash(text: str) -> str:
    """The SHA-256 of an inline style or script as a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class Thumbnails:
    """Small WebP pictures as data URLs, each made once; None where a picture cannot be opened or may not be shown."""

    def __init__(self, see: See, vouch: Vouch | None = None):
        self.see, self.vouch = see, vouch
        self.made: dict[str, str | None] = {}

    def __call__(self, path: str, vouched: bool = True) -> str | None:
        if path not in self.made:
            self.made[path] = self._make(path, vouched)
        return self.made[path]

    def _make(self, path: str, vouched: bool) -> str | None:
        if not vouched and self.vouch is None:
            return None
        try:
            pixels = np.asarray(self.see(path))
        except (OSError, ValueError):
            return None
        if not vouched and self.vouch and not self.vouch(path, pixels):
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = BytesIO()
        image.convert("RGB").save(file, "WEBP", quality=62, method=4)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
