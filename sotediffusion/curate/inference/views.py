"""Pictures as the models of curation want them, each equal to what the model's own preprocessor gives.

All views are uint8, so that they travel cheaply; `batch` makes a model's float input of them. A view starts from one decoded
picture: RGB uint8 (H, W, 3), upright, alpha on white.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sotediffusion.curate.inference.averaging import on_square, shrunk_square
from sotediffusion.curate.inference.resampling import resized
from sotediffusion.curate.step import View

cv2.setNumThreads(1)  # pictures are prepared side by side, not each by several threads

Array = np.ndarray[Any, Any]

TAGGER = 448  # px, the side of WD v3 taggers
FILTERS = tuple(int(filter) for filter in Image.Resampling)  # Pillow's numbers, which preprocessors name


def square_view(size: int = TAGGER) -> View:
    """The view of taggers in the WD contract."""
    return View(f"square_{size}", (size, size, 3), "uint8", partial(square, size=size))


def squashed_view(size: int, resample: int = 2) -> View:
    """The view of classifiers that ignore the aspect ratio, like aesthetic-shadow."""
    return View(f"squashed_{size}_{resample}", (size, size, 3), "uint8", partial(squashed, size=size, resample=resample))


def centre_view(size: int, resample: int = 3) -> View:
    """The view of CLIP."""
    return View(f"centre_{size}_{resample}", (size, size, 3), "uint8", partial(centre, size=size, resample=resample))


def square(picture: Array, size: int = TAGGER) -> Array:
    """Padded to a centred square with white, resized, BGR; the odd pixel goes right and below.

    Larger squares shrink by area, the rest grow by Lanczos, as kohya's tagger does at cae5aa0a.
    """
    if max(picture.shape[:2]) > size:
        return shrunk_square(picture, size)
    return np.ascontiguousarray(cv2.resize(on_square(picture), (size, size), interpolation=cv2.INTER_LANCZOS4)[:, :, ::-1])


def squashed(picture: Array, size: int, resample: int = 2) -> Array:
    """Resized to size x size whatever the aspect, RGB, with Pillow's filter number `resample` (2: bilinear)."""
    return resized(picture, size, size, resample)


def centre(picture: Array, size: int, resample: int = 3) -> Array:
    """The shorter side resized to `size` (3: bicubic), then the middle size x size cut out, RGB."""
    height, width = picture.shape[:2]
    short, long = sorted((height, width))
    longer = int(size * long / short)
    width, height = (size, longer) if width <= height else (longer, size)
    left, top = (width - size) // 2, (height - size) // 2
    return resized(picture, height, width, resample, (top, left, size, size))


def batch(views: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """A batch for a torch vision model: uint8 (N, H, W, 3) -> float32 (N, 3, H, W), scaled to 0..1 and standardised."""
    made = np.empty((len(views), 3, *views.shape[1:3]), np.float32)
    for colour, (scale, shift) in enumerate(zip(*standards(mean, std), strict=True)):
        np.multiply(views[..., colour], scale, out=made[:, colour])
        made[:, colour] -= shift
    return made


def standards(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Array, Array]:
    """What each colour of 0..255 is multiplied with, and what is then taken away."""
    return np.float32(1 / 255) / np.array(std, np.float32), np.array(mean, np.float32) / np.array(std, np.float32)
