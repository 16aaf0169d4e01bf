"""What a picture file says of itself before a pixel is decoded: format, size, frames, orientation, whether its end is missing."""

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, OverflowError, MemoryError,
           ArithmeticError, RuntimeError, AttributeError, AssertionError)  # fmt: skip # what decoders raise on broken bytes
FORMATS = ("jpeg", "png", "webp", "avif", "jxl", "bmp", "gif")
_ORIENTATION = 0x0112  # Exif tag
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, ISO/IEC 18181-1 table of SizeHeader
_STILL_BRANDS = {
    b"avif": "avif", b"avis": "avif", b"heic": "heif", b"heix": "heif", b"hevc": "heif", b"heim": "heif", b"mif1": "heif",
    b"msf1": "heif",
}  # fmt: skip


class Undecodable(ValueError):
    """These bytes give no picture. The message is the reason: `truncated: ...`, `unreadable: ...` or `bomb: ...`."""


@dataclass(frozen=True)
class Limits:
    """What a picture may cost before it is opened."""

    max_pixels: int = 80_000_000  # width x height
    max_bytes: int = 256 * 2**20  # of the file


@dataclass(frozen=True)
class Header:
    """A picture file as announced; width and height in px as stored, before `orientation` (Exif, 1 to 8) is applied."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's word: RGB, L, RGBA, P, CMYK, I;16
    frames: int = 1
    orientation: int = 1
    transparent: bool = False  # a palette or colour key marks transparent pixels
    icc: bytes | None = None

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as it is looked at."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


def sniff(data: bytes) -> str:
    """What the first bytes are of: one of FORMATS, or heif, tiff, psd, svg, page, zip, video, flash, empty, unknown."""
    if not data:
        return "empty"
    for kind, start in _STARTS:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "video"}.get(data[8:12], "unknown")
    if data[4:8] == b"ftyp":
        return _brand(data)
    text = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "svg"
    return "page" if text.startswith((b"<!doctype", b"<html", b"<head", b"{", b"<")) else "unknown"


_STARTS = (
    ("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n"), ("gif", b"GIF87a"), ("gif", b"GIF89a"), ("jxl", b"\xff\x0a"),
    ("jxl", _JXL_BOX), ("bmp", b"BM"), ("tiff", b"II*\0"), ("tiff", b"MM\0*"), ("psd", b"8BPS"), ("zip", b"PK\x03\x04"),
    ("zip", b"PK\x05\x06"), ("video", b"\x1aE\xdf\xa3"), ("video", b"FLV\x01"), ("video", b"OggS"), ("video", b"\0\0\x01\xba"),
    ("video", b"\0\0\x01\xb3"), ("video", b"0&\xb2u\x8ef\xcf\x11"), ("flash", b"FWS"), ("flash", b"CWS"), ("flash", b"ZWS"),
)  # fmt: skip


def _brand(data: bytes) -> str:
    """An ISO media file is a still picture or a video by its brands."""
    size = int.from_bytes(data[:4], "big")
    content = data[8 : min(max(size, 16), 256)]
    brands = [content[:4], *(content[at : at + 4] for at in range(8, len(content) - 3, 4))]
    if brands[0] in (b"mif1", b"msf1") and {b"avif", b"avis"} & set(brands):
        return "avif"
    return _STILL_BRANDS.get(brands[0], "video")


def read_header(data: bytes, limits: Limits = Limits()) -> Header:
    """The header of a picture of one of FORMATS; no pixel is decoded.

    Raises Undecodable for other content, a damaged header, and for more pixels or bytes than `limits` allow.
    """
    kind = sniff(data)
    if kind not in FORMATS:
        raise Undecodable("truncated: the file is empty" if kind == "empty" else f"unreadable: {_NOT_TAKEN.get(kind, kind)}")
    if len(data) > limits.max_bytes:
        raise Undecodable(f"bomb: {len(data) / 2**20:.0f} MiB, at most {limits.max_bytes / 2**20:.0f} are opened")
    try:
        header = _jxl_header(data) if kind == "jxl" else _pillow_header(data, kind)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Undecodable("bomb: more pixels than any picture has") from None
    except DAMAGED as error:
        raise damaged(data, kind, error) from None
    if header.width * header.height > limits.max_pixels:
        raise Undecodable(f"bomb: {header.width}x{header.height}, at most {limits.max_pixels / 1e6:g} million pixels are opened")
    if min(header.width, header.height) < 1:
        raise Undecodable("unreadable: it has no pixels")
    return header


_NOT_TAKEN = {
    "heif": "HEIF is not taken", "tiff": "TIFF is not taken", "psd": "PSD is not taken", "svg": "SVG is not taken",
    "page": "a web page or text, no picture", "zip": "a zip archive, no picture", "video": "a video", "flash": "a Flash film",
    "unknown": "no known picture format",
}  # fmt: skip


def damaged(data: bytes, kind: str, error: BaseException) -> Undecodable:
    """The reason for bytes that a decoder refused: truncated where the end of the file is missing, else unreadable."""
    if isinstance(error, MemoryError):
        return Undecodable("bomb: it takes more memory than there is for one picture")
    if is_cut_short(data, kind):
        return Undecodable(f"truncated: the end of the {kind} file is missing")
    words = " ".join(str(error).split())[:100]
    return Undecodable(f"unreadable: damaged {kind} file ({words or type(error).__name__})")


def is_cut_short(data: bytes, kind: str) -> bool:
    """Whether a file of this format lacks its end by the format's own bookkeeping."""
    if kind == "jpeg":
        return b"\xff\xd9" not in data[-4096:]
    if kind == "png":
        return b"IEND" not in data[-4096:]
    if kind == "gif":
        return b";" not in data[-64:]
    if kind == "webp":
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "bmp":
        return len(data) < 26 or int.from_bytes(data[2:6], "little") > len(data)
    if kind == "jxl" and data.startswith(b"\xff\x0a"):
        return True  # a bare codestream has no bookkeeping: what its decoder refuses has, nearly always, lost its end
    return _boxes_cut_short(data)


def _boxes_cut_short(data: bytes) -> bool:
    """ISO boxes: each tells its size; 0 means up to the end of the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:
            return False
        if size < 8:
            return False
        at += size
    return at != len(data)


def _pillow_header(data: bytes, kind: str) -> Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked by the caller
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(BytesIO(data), formats=[kind.upper()]) as image:
            frames = 1 if kind == "jpeg" else int(getattr(image, "n_frames", 1))  # an MPO's other pictures are no animation
            mode = "RGB;16" if kind == "png" and data[24:26] == b"\x10\x02" else image.mode
            icc = image.info.get("icc_profile")
            return Header(kind, image.width, image.height, mode, frames, _orientation(image, data), "transparency" in image.info,
                          icc if isinstance(icc, bytes) and icc else None)  # fmt: skip


def _orientation(image: Any, data: bytes) -> int:
    """1 to 8; a damaged Exif block does not make a good picture unreadable.

    Pillow decodes a whole PNG to see whether Exif stands behind the pixels, so it is asked only where there is some.
    """
    if image.format == "PNG" and b"eXIf" not in data and not {"exif", "Raw profile type exif", "xmp"} & set(image.info):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGED:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


class _Bits:
    """Little-endian bits, as JPEG XL's headers have them."""

    def __init__(self, data: bytes):
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise EOFError("the header is cut short")
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return taken


def _jxl_header(data: bytes) -> Header:
    """ISO/IEC 18181-1: SizeHeader, then of ImageMetadata as much as tells orientation and animation.

    The decoder turns the picture itself, so the header is of the upright one.
    """
    bits = _Bits(_jxl_codestream(data)[2:66])
    width, height = _jxl_size(bits)
    orientation, animated = 1, False
    if not bits.take(1) and bits.take(1):  # not all_default, extra_fields
        orientation = bits.take(3) + 1
        if bits.take(1):
            _jxl_size(bits)  # intrinsic size
        animated = not bits.take(1) and bool(bits.take(1))  # a preview's header is not read past
    if orientation > 4:
        width, height = height, width
    return Header("jxl", width, height, "RGB", 2 if animated else 1)


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = _jxl_side(bits, small)
    ratio = bits.take(3)
    if ratio:
        over, under = _JXL_RATIOS[ratio - 1]
        return height * over // under, height
    return _jxl_side(bits, small), height


def _jxl_side(bits: _Bits, small: int) -> int:
    return (bits.take(5) + 1) * 8 if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


def _jxl_codestream(data: bytes) -> bytes:
    if data.startswith(b"\xff\x0a"):
        return data
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = at + (16 if size == 1 else 8)
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind == b"jxlc":
            return data[body : body + 80]
        if kind == b"jxlp":
            return data[body + 4 : body + 84]
        if size < 8:
            break
        at += size
    raise EOFError("no codestream box")
