"""Jobs and the server itself as the own API's JSON."""

from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from sotediffusion import __version__
from sotediffusion.limits import RANGES
from sotediffusion.serve.gateway import Gateway
from sotediffusion.serve.house import House
from sotediffusion.serve.menu import Offer
from sotediffusion.serve.storage.jobs import Job, StoredPicture
from sotediffusion.serve.walls.callers import Caller
from sotediffusion.types import Request

_FILES = ("init", "loras", "embeddings")  # places on this server's disk, which are nobody else's to name or to see
FIELDS = tuple(field.name for field in fields(Request) if field.name not in _FILES)  # that a caller sends as they are


def job_view(gateway: Gateway, job: Job, position: int | None) -> dict[str, Any]:
    """A job for its owner. What only the server needs (fence, worker, lease) stays here."""
    request = {name: value for name, value in job.request.items() if name not in _FILES}
    told = ("id", "state", "model", "origin", "priority", "created", "started", "finished", "deadline", "version")
    return {
        **{name: getattr(job, name) for name in told},
        "loras": list(job.loras),
        "request": request | {"init": bool(job.request.get("init"))},
        "position": position,
        "progress": _progress(gateway, job),
        "error": None if job.error is None else asdict(job.error),
        "pictures": None if job.pictures is None else [_picture(gateway, picture) for picture in job.pictures],
        "notes": gateway.notes(job),
    }


def _progress(gateway: Gateway, job: Job) -> dict[str, Any] | None:
    if job.progress is None:
        return None
    shown = job.progress.preview
    preview = None if shown is None else f"{gateway.url(shown)}&step={job.progress.step}"  # the name stays, the picture changes
    return asdict(job.progress) | {"preview": preview}


def _picture(gateway: Gateway, picture: StoredPicture) -> dict[str, Any]:
    told = ("name", "width", "height", "seed", "type", "favourite")
    return {name: getattr(picture, name) for name in told} | {"url": gateway.url(picture.name), "settings": picture.info}


def about_view(house: House, caller: Caller | None) -> dict[str, Any]:
    """What a page must know of the server before it asks for anything."""
    gateway, menu, bounds = house.gateway, house.gateway.menu, house.gateway.bounds
    ranges = {name: list(bound) for name, bound in RANGES.items()}
    kept = house.retention_s if caller is None else caller.allowance.keep_s or house.retention_s
    own = {"steps": bounds.steps, "decoder_steps": bounds.steps, "count": bounds.count}
    limits: dict[str, Any] = ranges | {name: [ranges[name][0], min(ranges[name][1], most)] for name, most in own.items()}
    limits |= {"pixels": bounds.pixels, "prompt": bounds.prompt, "init_pixels": bounds.init_pixels}
    return {
        "name": "SoteDiffusion",
        "version": __version__,
        "models": [_model(house, offer) for offer in menu.models.values()],
        "samplers": list(menu.samplers),
        "schedules": list(menu.schedules),
        "presets": house.presets,
        "limits": limits,
        "defaults": {field.name: field.default for field in fields(Request) if field.name in FIELDS and field.name != "prompt"},
        "prompts": house.page,
        "retention_s": kept if isfinite(kept) else None,  # favourites are kept for good
        "rating": gateway.rates,
        "webhooks": gateway.receivers is not None,
        "key": house.doorkeeper.asks,
        "scopes": [] if caller is None else list(caller.scopes),
        "source": "/source",
        "licence": "/license",
    }


def _model(house: House, offer: Offer) -> dict[str, Any]:
    licence, url = house.duties.licence_of(offer)
    told = ("name", "base", "width", "height", "compression", "init", "previews")
    more = {"licence": licence, "licence_url": url, "source": house.duties.source_of(offer)}
    own = {"max_pixels": house.gateway.bounds.pixels, "loras": list(house.gateway.menu.loras)}
    return {name: getattr(offer, name) for name in told} | more | own
