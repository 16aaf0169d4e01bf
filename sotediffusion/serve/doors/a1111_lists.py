"""What AUTOMATIC1111's and SD.Next's clients ask about a server: its models, samplers, options, and lists that are empty here."""

import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

from sotediffusion.pictures.decode import FORMATS
from sotediffusion.pictures.infotext import SAMPLERS, SCHEDULES, parse_infotext
from sotediffusion.pictures.marks import INFOTEXT, read_marks
from sotediffusion.serve.doors.a1111_orders import short_hash, title_of
from sotediffusion.serve.menu import Menu
from sotediffusion.types import UserError

_NO_UPSCALER = {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError)

# Every question that is answered the same on each server of ours: the path below /sdapi/v1 and the answer.
CONSTANT: dict[str, Any] = {
    "sd-vae": [],
    "sd-modules": [],
    "upscalers": [_NO_UPSCALER],
    "latent-upscale-modes": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "extensions": [],
    "cmd-flags": {"api": True, "nowebui": False},
}


def sd_models(menu: Menu) -> list[dict[str, Any]]:
    """The models. Their places on the disk are not for callers."""
    return [
        {"title": title_of(name, menu), "model_name": name, "hash": short_hash(offer.hashes) or None,
         "sha256": offer.hashes.get("stage_c"), "filename": name, "config": None}
        for name, offer in menu.models.items()
    ]  # fmt: skip


def samplers(menu: Menu) -> list[dict[str, Any]]:
    """The samplers, under A1111's names."""
    return [{"name": SAMPLERS.get(name, name), "aliases": [name], "options": {}} for name in menu.samplers]


def schedulers(menu: Menu) -> list[dict[str, Any]]:
    """The noise schedules, under A1111's names."""
    more = {"default_rho": -1, "need_inner_model": False}
    return [{"name": _scheduler(name), "label": SCHEDULES.get(name, name), "aliases": [name], **more} for name in menu.schedules]


def loras(menu: Menu) -> list[dict[str, Any]]:
    """The LoRAs, to be asked for as <lora:name:weight>."""
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in menu.loras]


def prompt_styles(styles: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Texts by name that are put around a prompt."""
    return [{"name": style["name"], "prompt": style["prompt"], "negative_prompt": style["negative"]} for style in styles]


def options(menu: Menu, model: str) -> dict[str, Any]:
    """The settings that exist here."""
    return {
        "sd_model_checkpoint": title_of(model, menu),
        "sd_checkpoint_hash": menu.models[model].hashes.get("stage_c", ""),
        "sd_vae": "Automatic",
        "samples_format": "png",
        "CLIP_stop_at_last_layers": 1,
    }


def memory() -> dict[str, Any]:
    """This machine's, in bytes. The process that answers has no GPU; the worker's is in /metrics."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    ram = {"free": free, "used": total - free, "total": total}
    return {"ram": ram, "cuda": {"error": "not seen from here; look at /metrics"}}


def png_info(content: bytes) -> dict[str, Any]:
    """The settings that a picture carries: whole, chunk by chunk, and pair by pair. UserError: no picture. Untrusted text."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            text, _ = read_marks(image)
            items = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGED):
        raise UserError("image", "it is no PNG, JPEG or WebP picture that can be read; send another file") from None
    if not text:
        return {"info": "", "items": items, "parameters": {}}
    read = parse_infotext(text)
    return {
        "info": text,
        "items": {INFOTEXT: text} | items,
        "parameters": {"Prompt": read.prompt, "Negative prompt": read.negative} | read.pairs,
    }


def answers(menu: Menu) -> dict[str, Callable[[], Any]]:
    """The questions whose answer depends on the server."""
    return {
        "sd-models": lambda: sd_models(menu),
        "samplers": lambda: samplers(menu),
        "schedulers": lambda: schedulers(menu),
        "loras": lambda: loras(menu),
        "memory": memory,
    }


def _scheduler(name: str) -> str:
    return "automatic" if name == "default" else name
