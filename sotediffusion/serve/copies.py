"""Copies of finished pictures with their marks inside: in another format, or small ones for a gallery."""

from contextlib import suppress
from io import BytesIO

from PIL import Image

from sotediffusion.pictures.marks import mark
from sotediffusion.serve.storage.jobs import StoredPicture
from sotediffusion.serve.storage.shelf import WIDTHS, Shelf, thumbnail_name
from sotediffusion.types import UserError

QUALITY = 95  # of pictures in another format than they were drawn in
SMALL = "image/webp"
_SMALL_QUALITY = 80


def in_format(content: bytes, stored: StoredPicture, format: str, quality: int | None = None) -> bytes:
    """A PNG of the shelf as a JPEG or WebP."""
    return _copy(content, stored, format, QUALITY if quality is None else quality, stored.width)


def thumbnail(shelf: Shelf, stored: StoredPicture, least: int) -> tuple[bytes, str]:
    """The picture at least `least` px wide and not much wider, and its type: made once in each of WIDTHS and kept beside it.

    One that is hardly wider itself comes as it was drawn. Raises FileNotFoundError when it is not on the shelf.
    """
    width = next((width for width in WIDTHS if width >= least), stored.width)
    if width >= stored.width:
        return shelf.read(stored.name), stored.type
    with suppress(FileNotFoundError):
        return shelf.read(thumbnail_name(stored.name, width)), SMALL
    content = _copy(shelf.read(stored.name), stored, "webp", _SMALL_QUALITY, width)
    with suppress(UserError):  # a full disk: it is made again the next time
        shelf.put_thumbnail(stored.name, width, content)
    return content, SMALL


def _copy(content: bytes, stored: StoredPicture, format: str, quality: int, width: int) -> bytes:
    file = BytesIO()
    with Image.open(BytesIO(content), formats=("PNG",)) as image:
        image.load()
        if width < image.width:
            image.thumbnail((width, image.height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        mark(image.convert("RGB"), stored.info).save(file, format, quality=quality)
    return file.getvalue()
