"""What the HTML pages have in common: small pictures inside, and how a page allows its own style and script and nothing else."""

import base64
import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

SIDE = 220  # px, a thumbnail's longer side

See = Callable[[str], "np.ndarray[Any, Any]"]  # path in the catalogue -> RGB uint8 (H, W, 3)
Vouch = Callable[[str, "np.ndarray[Any, Any]"], bool]  # of a picture that was not tagged: path, pixels -> may it be shown


def sealed(folder: Path, name: str, facts: Any, **known: Any) -> str:
    """The page of the template NAME.html with the style of NAME.css in it: text escaped, nothing fetched, no script run.

    The template is given `facts`, what else is `known`, and `style` and its `digest` for the content security policy.
    """
    style = (folder / f"{name}.css").read_text(encoding="utf-8")
    page = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    page.globals |= known
    text: str = page.get_template(f"{name}.html").render(facts=facts, style=Markup(style), digest=csp_hash(style))
    return text


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
