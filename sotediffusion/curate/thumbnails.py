"""Small pictures inside the page."""

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

SIDE = 220  # px, a thumbnail's longer side

See = Callable[[str], "np.ndarray[Any, Any]"]  # path in the catalogue -> RGB uint8 (H, W, 3)
Vouch = Callable[[str, "np.ndarray[Any, Any]"], bool]  # of a picture that was not tagged: path, pixels -> may it be shown


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
