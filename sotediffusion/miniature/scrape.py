"""The mess of a scrape beside the drawn pictures: near-duplicates, undersized and corrupt files, entries without a date."""

import io
import random
from pathlib import Path
from typing import Any

from PIL import Image

from sotediffusion.miniature.caption import caption, tags_of
from sotediffusion.miniature.scene import Scene
from sotediffusion.pictures.files import write_whole

MESSY = Path("img") / "1_scrape"
KINDS = ("resized", "recompressed", "cropped", "undersized", "corrupt", "undated")
EVERY = 3  # pictures from one that drags a messy copy along to the next
SMALLEST_AREA = 768_000  # px, the card's smallest picture


def encoded(image: Image.Image, suffix: str, quality: int = 95) -> bytes:
    """The picture as the bytes of a .png, .jpg or .webp file; `quality` is JPEG's and WebP's."""
    buffer = io.BytesIO()
    if suffix == ".png":
        image.save(buffer, "PNG", compress_level=3)
    elif suffix == ".jpg":
        image.save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def kind_of(index: int) -> str | None:
    """Which messy copy picture number `index` has: every third one has one, each kind in turn."""
    return KINDS[index // EVERY % len(KINDS)] if index % EVERY == 0 else None


def mess(out: Path, index: int, scene: Scene, name: Path) -> list[dict[str, Any]]:
    """Write the messy copy of the picture `out / name`, if it has one, and return its row of the truth table."""
    kind = kind_of(index)
    if kind is None:
        return []
    rng = random.Random(f"mess {kind} {scene.seed}")
    suffix = {"recompressed": ".jpg", "undated": name.suffix}.get(kind, rng.choice((".jpg", ".png")))
    copy = MESSY / f"{index:07d}_{kind}{suffix}"
    if not (out / copy).with_suffix(".txt").is_file():
        with Image.open(out / name) as image:
            write_whole(out / copy, _content(kind, image.convert("RGB"), suffix, rng))
        write_whole((out / copy).with_suffix(".txt"), _told(kind, scene).encode())
    return [{"index": index, "file": copy.as_posix(), "kind": kind, "of": name.as_posix(), "caption": _told(kind, scene)}]


def _told(kind: str, scene: Scene) -> str:
    """The caption found beside the copy; an undated one has lost its date."""
    if kind != "undated":
        return caption(scene)
    return ", ".join(tag for group, tags in tags_of(scene).items() if group != "date" for tag in tags)


def _content(kind: str, image: Image.Image, suffix: str, rng: random.Random) -> bytes:
    width, height = image.size
    if kind == "resized":
        low = max(0.55, (SMALLEST_AREA * 1.02 / (width * height)) ** 0.5)
        return encoded(_scaled(image, rng.uniform(min(low, 1.15), 1.3)), suffix)
    if kind == "undersized":
        return encoded(_scaled(image, (rng.uniform(0.15, 0.8) * SMALLEST_AREA / (width * height)) ** 0.5), suffix)
    if kind == "recompressed":
        return encoded(image, suffix, quality=rng.randint(40, 72))
    if kind == "cropped":
        left, top, right, bottom = (rng.uniform(0.01, 0.05) for _ in range(4))
        return encoded(image.crop((round(left * width), round(top * height), round((1 - right) * width),
                                   round((1 - bottom) * height))), suffix)
    whole = encoded(image, suffix)
    return whole[: round(len(whole) * rng.uniform(0.2, 0.8))] if kind == "corrupt" else whole


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
