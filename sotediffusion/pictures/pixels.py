"""Bytes of a picture file to RGB pixels, fast and under limits: upright, in sRGB, transparency on white."""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageCms

from sotediffusion.pictures.headers import DAMAGED, Header, Limits, Undecodable, damaged, is_cut_short, read_header

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB

# libjpeg's warnings about files that every viewer shows whole; all others mean lost picture.
_HARMLESS = ("extraneous bytes before marker", "Invalid SOS parameters", "Unknown Adobe color transform", "unknown JFIF revision")
_EXACT_MODES = {"RGB", "L", "RGBA", "LA", "RGB;16"}  # that the fast PNG decoder gives as they are


def decode(data: bytes, limits: Limits = Limits()) -> Pixels:
    """The picture in full, (H, W, 3) RGB uint8; of a moving one the first frame.

    Raises Undecodable with the reason where there is none, or more of it than `limits` allow.
    """
    return decode_as(data, read_header(data, limits))


def decode_as(data: bytes, header: Header, least: int = 0) -> Pixels:
    """`decode` for a header already read; with `least` a JPEG may come smaller, no side below `least` px.

    The smaller JPEG is made in the DCT domain, where 8x8 coefficients give 4x4, 2x2 or 1 pixel: most of the decoding saved.
    """
    try:
        pixels = _DECODERS[header.format](data, header, least)
    except (ImageCms.PyCMSError, Image.DecompressionBombError, *DAMAGED) as error:
        if isinstance(error, Undecodable):
            raise
        raise damaged(data, header.format, error) from None
    return np.ascontiguousarray(_turned(pixels, header.orientation))


def _jpeg(data: bytes, header: Header, least: int) -> NDArray[Any]:
    if header.mode not in ("RGB", "L"):
        return _pillow(data, header, least)
    import simplejpeg

    wanted = {"min_height": least, "min_width": least, "min_factor": 2.0} if least else {}
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", **wanted)
    except ValueError as error:
        if any(words in str(error) for words in _HARMLESS):
            return _pillow(data, header, least)
        raise
    return to_srgb(pixels, header.icc)


def _png(data: bytes, header: Header, least: int) -> NDArray[Any]:
    if header.mode not in _EXACT_MODES or header.transparent:
        return _pillow(data, header, least)
    import imagecodecs

    if is_cut_short(data, "png"):
        raise Undecodable("truncated: the end of the png file is missing")
    return to_srgb(on_white(imagecodecs.png_decode(data)), header.icc)


def _webp(data: bytes, header: Header, least: int) -> NDArray[Any]:
    if header.frames > 1:
        return _pillow(data, header, least)
    import imagecodecs

    return to_srgb(on_white(imagecodecs.webp_decode(data)), header.icc)


def _avif(data: bytes, header: Header, least: int) -> NDArray[Any]:
    """Through Pillow: other bindings abort the process on some animations. Workers are processes, so no threads."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    return _pillow(data, header, least)


def _jxl(data: bytes, header: Header, least: int) -> NDArray[Any]:
    """The decoder keeps a profile to itself; a JPEG packed into the file can be had back whole, and its profile with it."""
    packed = _packed_jpeg(data)
    if packed is not None:
        return decode_as(packed, read_header(packed, Limits(header.width * header.height, len(packed))), least)
    return on_white(decoded_jxl(data, header))


def decoded_jxl(data: bytes, header: Header) -> NDArray[Any]:
    """What lies in a JPEG XL, upright, with all its channels and bits; of a moving one the first frame."""
    import imagecodecs

    return np.asarray(imagecodecs.jpegxl_decode(data, index=0 if header.frames > 1 else None, numthreads=1))


def _packed_jpeg(data: bytes) -> bytes | None:
    """The JPEG that a JPEG XL was made of without loss, if it was."""
    import imagecodecs

    if b"jbrd" not in data:  # the box of what the pixels do not tell of it
        return None
    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except DAMAGED:
        return None


def _pillow(data: bytes, header: Header, least: int) -> NDArray[Any]:
    """Every mode there is, at Pillow's pace."""
    with Image.open(BytesIO(data), formats=[header.format.upper()]) as image:
        image.load()
        if image.mode.startswith("I") or image.mode == "F":  # 16 bit grey, which convert() would clip
            return on_white(np.asarray(image).clip(0, 65535).astype(np.uint16))
        if image.mode == "CMYK":
            return _from_cmyk(image, header.icc)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            return to_srgb(on_white(np.asarray(image.convert("RGBA"))), header.icc)
        return to_srgb(np.asarray(image.convert("RGB")), header.icc)


def _from_cmyk(image: Image.Image, icc: bytes | None) -> NDArray[Any]:
    if icc:
        transform = _transform(icc, "CMYK")
        if transform is not None:
            return np.asarray(ImageCms.applyTransform(image, transform))
    return np.asarray(image.convert("RGB"))


_DECODERS: dict[str, Callable[[bytes, Header, int], NDArray[Any]]] = {
    "jpeg": _jpeg, "png": _png, "webp": _webp, "avif": _avif, "jxl": _jxl, "bmp": _pillow, "gif": _pillow,
}  # fmt: skip


def on_white(pixels: NDArray[Any]) -> Pixels:
    """Grey, grey with alpha, RGB or RGBA of 8 or 16 bits or floats from 0 to 1, as RGB uint8 with white behind it."""
    pixels = eight_bits(pixels)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"pixels of shape {pixels.shape}")
    colours = pixels.shape[2] - 1 + pixels.shape[2] % 2
    colour, alpha = pixels[:, :, :colours], pixels[:, :, colours:]
    if alpha.size and int(alpha.min()) < 255:
        share = alpha.astype(np.uint16)
        mixed = colour * share + 255 * (255 - share)
        colour = ((mixed + 127) // 255).astype(np.uint8)
    return colour if colours == 3 else np.repeat(colour, 3, axis=2)


def eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of 8 or 16 bits, or floats from 0 to 1, as 8 bits. ValueError for others."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype.kind == "f":
        return (np.nan_to_num(pixels).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    raise ValueError(f"pixels of type {pixels.dtype}")


def to_srgb(pixels: Pixels, icc: bytes | None) -> Pixels:
    """RGB pixels from the colours of an ICC profile into sRGB; a profile that is broken or not for RGB is left alone."""
    transform = _transform(icc, "RGB") if icc else None
    if transform is None:
        return pixels
    return np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform))


@lru_cache(maxsize=64)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Into sRGB by relative colorimetric intent; None for sRGB itself and for profiles that cannot be used."""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space != mode or "srgb" in (profile.profile.profile_description or "").lower():
            return None
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB",
                                       ImageCms.Intent.RELATIVE_COLORIMETRIC)  # fmt: skip
    except (ImageCms.PyCMSError, *DAMAGED):
        return None


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Exif orientation 1 to 8: above 4 the axes are swapped first, then rows or columns run backwards."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
