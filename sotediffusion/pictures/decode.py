"""Open a picture that a stranger sent: few formats, the size checked in the header, always RGB the right way up."""

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from sotediffusion.types import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 32_000_000
MAX_BYTES = 128 * 2**20

_ORIENTATION = 0x0112  # Exif tag
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, OverflowError)


def open_picture(source: bytes | str | Path, max_pixels: int = MAX_PIXELS, field: str = "picture") -> Image.Image:
    """Decode PNG, JPEG or WebP (of a moving one the first frame) into RGB; transparency is laid on white.

    The header's size is checked before a pixel is decoded. Raises UserError, under the name `field`, for a file that is
    missing, of another format, larger than `max_pixels`, truncated or damaged.
    """
    if isinstance(source, bytes):
        return _open(BytesIO(source), f"{len(source)} bytes", max_pixels, field)
    try:
        with open(source, "rb") as file:
            if Path(source).stat().st_size > MAX_BYTES:
                raise UserError(field, f"{source} is larger than {MAX_BYTES // 2**20} MiB; give a smaller file")
            return _open(file, str(source), max_pixels, field)
    except FileNotFoundError:
        raise UserError(field, f"{source} does not exist; give the path of a PNG, JPEG or WebP file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(field, f"{str(source)[:200]!r} cannot be read ({reason}); give the path of a picture file") from None


def _open(file: BinaryIO, name: str, max_pixels: int, field: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image, name, max_pixels, field)
                return _upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(field, f"{name} has more than {max_pixels / 1e6:g} million pixels; give a smaller picture") from None
    except UnidentifiedImageError:
        raise UserError(field, f"{name} is not a PNG, JPEG or WebP picture; convert it to one of them") from None
    except _DAMAGED as error:
        raise UserError(field, f"{name} is damaged or cut short ({str(error)[:120]}); give a whole file") from None


def _check_size(image: Image.Image, name: str, max_pixels: int, field: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(field, f"{name} is {width}x{height}; at most {max_pixels / 1e6:g} million pixels are taken, shrink it")


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turned = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16 bit grey, which convert() would clip
        turned = turned.point(lambda value: value / 257).convert("L")
    if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        turned = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned).convert("RGB")
    return turned.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """1 to 8; a damaged Exif block does not make a good picture unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return value if value in range(1, 9) else 1
