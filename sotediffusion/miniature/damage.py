"""Spoils a finished picture the way the web does: upscaling, blur, noise and JPEG damage, from none to severe."""

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from sotediffusion.miniature.vocabulary import QUALITY_CUTS

NONE_AREA, WORST_AREA = 320**2, 150**2  # px that really carry the picture, just damaged and worst
FIRST_STEP = 0.15  # the least damage, so that it can be told from none


def severity_of(quality: float) -> float:
    """How bad a quality score looks, in even steps from tag to tag: 0 above the best cut, then up to 1."""
    bounds = [max(0.0, bound) for bound, _ in QUALITY_CUTS]
    if quality > bounds[0]:
        return 0.0
    for step, (high, low) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if quality > low or low == 0:
            return (step + (high - quality) / (high - low)) / (len(bounds) - 1)
    return 1.0


def shown_size(quality: float, width: int, height: int) -> tuple[int, int]:
    """The size at which a picture of `width` x `height` px is drawn: smaller than it where the quality means it is blown up."""
    severity = _severity(quality)
    area = math.exp(math.log(NONE_AREA) + (math.log(WORST_AREA) - math.log(NONE_AREA)) * severity)
    scale = min(1.0, math.sqrt(area / (width * height))) if severity else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def spoil(image: Image.Image, quality: float, seed: int) -> Image.Image:
    """Blurs, grains and recompresses an RGB picture of `shown_size`; the same seed gives the same damage."""
    severity = _severity(quality)
    if severity == 0:
        return image
    rng = np.random.default_rng(seed)
    kinds = rng.uniform(0.8, 1.1, size=3).tolist()
    image = image.filter(ImageFilter.BoxBlur(0.5 + 1.4 * severity * kinds[0]))
    image = _noisy(image, (2 + 12 * severity**1.3) * kinds[1], rng)
    return _jpeg(image, round(82 - 68 * min(1.0, severity**0.8 * kinds[2])))


def _severity(quality: float) -> float:
    level = severity_of(quality)
    return FIRST_STEP + (1 - FIRST_STEP) * level if level else 0.0


def _noisy(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    grain = rng.standard_normal(pixels.shape[:2] + (1,), dtype=np.float32)
    return Image.fromarray(np.clip(pixels + sigma * grain, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
