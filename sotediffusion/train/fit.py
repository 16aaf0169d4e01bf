"""A picture file as the pixels of its bucket: opened under limits, upright, scaled, cut, perhaps mirrored.

A fit is a row of `buckets.fit_all`: bucket, scaled size and cut, in px that EffNet sees.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotediffusion.buckets import CELL, Fits
from sotediffusion.names import unknown
from sotediffusion.pictures.headers import DAMAGED, Header, Limits, Undecodable, damaged, read_header
from sotediffusion.pictures.pixels import Pixels, decode_as, decoded_jxl, eight_bits, on_white
from sotediffusion.train.data import Key
from sotediffusion.train.loss import CROP_STREAM, generator
from sotediffusion.types import UserError

VERSION = 1  # of what is done to pixels; latents made by another one are refused
ALPHA, CROPS = ("white", "drop"), ("centre", "random")
_SEEN_BEFORE = Limits(max_pixels=178_000_000, max_bytes=2**30)  # the reader of the data has let it through


@dataclass(frozen=True)
class FitSettings:
    """What is done to pixels, beside putting them into their bucket."""

    alpha: str = "white"  # one of ALPHA; kohya's trainer drops transparency
    crop: str = "centre"  # one of CROPS; random ones need encoding without a cache
    flip: bool = False  # half of the readings are mirrored


def check(settings: FitSettings) -> None:
    """Raise UserError for unknown settings."""
    for name, value, known in (("alpha", settings.alpha, ALPHA), ("crop", settings.crop, CROPS)):
        if value not in known:
            raise unknown(f"data.{name}", value, known)


def varied(fits: Fits, keys: list[Key], settings: FitSettings) -> tuple[Fits, NDArray[np.bool_]]:
    """The fits (B, 6) of one reading of samples with these keys, and which of them are mirrored (B,)."""
    fits, mirrored = fits.copy(), np.zeros(len(fits), bool)
    if settings.crop == "random" or settings.flip:
        for row, key in enumerate(keys):
            rng = generator(*key, CROP_STREAM)
            mirrored[row] = settings.flip and rng.random() < 0.5
            if settings.crop == "random":
                fits[row, 4:] = rng.integers(0, fits[row, 2:4] - fits[row, :2], endpoint=True)
    return fits, mirrored


def fitted(data: bytes, fit: "NDArray[np.int32]", mirrored: bool = False, alpha: str = "white",
           size: tuple[int, int] | None = None) -> Pixels:  # fmt: skip
    """The picture in these bytes as pixels (H, W, 3) uint8 of its bucket.

    Raises Undecodable with the reason where there is none, or none of upright `size`.
    """
    header = read_header(data, _SEEN_BEFORE)
    if size is not None and header.upright != size:
        raise Undecodable(f"changed: it is {header.upright[0]}x{header.upright[1]}, not {size[0]}x{size[1]}")
    least = int(min(fit[2:4]))  # a JPEG comes as small as it may, which saves most of the decoding
    pixels = decode_as(data, header, least) if alpha == "white" else _opaque(data, header)
    return _cut(pixels, fit, mirrored)


def fitted_mask(data: bytes, fit: "NDArray[np.int32]", mirrored: bool = False) -> "NDArray[np.float32]":
    """A mask picture as shares (1, h, w) of latent cells, from black for 0 to white for 1, cut as its picture is."""
    pixels = decode_as(data, read_header(data, _SEEN_BEFORE))
    return _shares(_cut(pixels, fit, mirrored)[:, :, 1])


def fitted_alpha(data: bytes, fit: "NDArray[np.int32]", mirrored: bool = False) -> "NDArray[np.float32]":
    """How opaque a picture is as shares (1, h, w) of latent cells, cut as it is; 1 where it knows no transparency."""
    return _shares(_cut(opacity(data, read_header(data, _SEEN_BEFORE)), fit, mirrored))


def opacity(data: bytes, header: Header) -> "NDArray[np.uint8]":
    """The alpha of a picture (H, W), upright, 255 where it has none. Raises Undecodable for a damaged one."""
    from PIL import Image, ImageOps

    try:
        if header.format == "jxl":
            return _opacity_of(decoded_jxl(data, header))
        with Image.open(BytesIO(data), formats=[header.format.upper()]) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))
    except (Image.DecompressionBombError, *DAMAGED) as error:
        raise damaged(data, header.format, error) from None


def _colour_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """All channels but the last of two or four."""
    return pixels[:, :, :-1] if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def _opacity_of(pixels: NDArray[Any]) -> "NDArray[np.uint8]":
    """The last of two or four channels."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return eight_bits(pixels[:, :, -1])
    return np.full(pixels.shape[:2], 255, np.uint8)


def _shares(cut: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """A cut of 0 to 255 as means of latent cells from 0 to 1."""
    height, width = (side // CELL for side in cut.shape)
    cells = cut.astype(np.float32) / 255
    return cells.reshape(height, CELL, width, CELL).mean((1, 3), dtype=np.float32)[None]


def output_fit(fits: Fits, scale: float, grid: int = 64) -> Fits:
    """The same cuts at the size that is drawn, for the stages that work on pixels: sides are multiples of `grid` px."""
    bucket = np.maximum((fits[:, :2] / scale / grid + 0.5).astype(np.int32), 1) * grid
    enlarged = np.max(bucket / fits[:, :2], axis=1, keepdims=True)
    resized = np.maximum((fits[:, 2:4] * enlarged + 0.5).astype(np.int32), bucket)
    corner = np.minimum((fits[:, 4:] * enlarged + 0.5).astype(np.int32), resized - bucket)
    return np.concatenate([bucket, resized, corner], 1)


def _cut(pixels: Pixels, fit: "NDArray[np.int32]", mirrored: bool) -> Pixels:
    import cv2

    width, height, across, down, left, top = fit.tolist()
    if pixels.shape[:2] != (down, across):
        pixels = np.asarray(cv2.resize(pixels, (across, down), interpolation=cv2.INTER_AREA), np.uint8)
    cut = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)


def _opaque(data: bytes, header: Header) -> Pixels:
    """Transparency dropped, not laid on white, and colours as they are stored."""
    from PIL import Image, ImageOps

    try:
        if header.format == "jxl":
            return on_white(_colour_of(decoded_jxl(data, header)))
        with Image.open(BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("RGB"))
    except (Image.DecompressionBombError, *DAMAGED) as error:
        raise damaged(data, header.format, error) from None


class Faults:
    """Pictures that could not be read: named, counted, and when there are more than `limit`, the end of the run."""

    def __init__(self, limit: int, what: str = "pictures cannot be read", found: dict[str, str] | None = None):
        self.limit, self.what, self.found = limit, what, found or {}

    def add(self, path: str, reason: str) -> None:
        """Note a picture; UserError naming the first ones when there are too many."""
        self.found[path] = reason
        if len(self.found) > self.limit:
            raise UserError("data.skip", f"{self.sentence()}; {self.limit} may be skipped: mend them, or allow more")

    def sentence(self) -> str:
        """How many and which."""
        first = [f"{path} ({reason})" for path, reason in list(self.found.items())[:3]]
        more = f" and {len(self.found) - len(first)} more" if len(self.found) > len(first) else ""
        return f"{len(self.found)} {self.what}: {', '.join(first)}{more}"
