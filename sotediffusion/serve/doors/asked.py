"""Orders in the words of the own API: the fields of a request by their names, and what stands around them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sotediffusion.config import build
from sotediffusion.limits import RANGES, SIDE_STEP
from sotediffusion.names import unknown
from sotediffusion.serve.doors.forms import picture_in
from sotediffusion.serve.doors.views import FIELDS
from sotediffusion.serve.gateway import Ask, Bounds, Lora
from sotediffusion.serve.menu import Menu
from sotediffusion.serve.walls.admission import PRIORITIES
from sotediffusion.types import Request, UserError

OTHERS = ("model", "loras", "preset", "priority", "deadline_s", "init")  # beside the fields of a request
_LORAS = "one of /api/v1/about, which may become more while the server runs"
_PRIORITY = "higher goes first; above 0 needs the scope admin"
_WHOLE = ("steps", "decoder_steps", "count", "seed", "width", "height")


@dataclass(frozen=True)
class Around:
    """What an order says beside its request."""

    model: str | None = None
    loras: list[Lora] | None = None
    preset: str | None = None
    priority: int = 0
    deadline_s: float | None = None
    init: str | None = None


def read_order(body: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], key: str | None = None) -> Ask:
    """An order from JSON; fields that are null count as left out. UserError: one is unknown, missing or cannot be read."""
    known = (*FIELDS, *OTHERS)
    for name in body:
        if name not in known:
            raise unknown("body", name, known)
    given = {name: value for name, value in body.items() if value is not None}
    around = build(Around, {name: given.pop(name) for name in OTHERS if name in given})
    if around.preset is not None and around.preset not in presets:
        raise unknown("preset", around.preset, presets)
    settings: dict[str, Any] = {**(presets[around.preset] if around.preset else {}), **given}
    if "prompt" not in settings:
        raise UserError("prompt", "it is missing; write what should be drawn, for example '1girl, solo, cat ears'")
    if around.init is not None:
        settings["init"] = picture_in(around.init, "init")
    loras = tuple(around.loras or ())
    return Ask(Request(**settings), around.model, loras, "own", around.priority, around.deadline_s, idempotency=key)


def order_schema(menu: Menu, bounds: Bounds, presets: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenAPI is told of an order."""
    fields = {name: _field(name, Request.__dataclass_fields__[name].default) for name in FIELDS}
    fields["prompt"] = {"type": "string", "maxLength": bounds.prompt, "examples": ["1girl, solo, cat ears, smile"]}
    fields["negative"]["maxLength"] = bounds.prompt
    for name in ("steps", "decoder_steps", "count"):
        fields[name]["maximum"] = getattr(bounds, name.removeprefix("decoder_"))
    for name, choices in (("sampler", menu.samplers), ("schedule", menu.schedules)):
        for field in (name, f"decoder_{name}"):
            fields[field]["enum"] = list(choices)
    named = {"name": {"type": "string", "description": _LORAS}, "weight": {"type": "number"}}
    lora = {"type": "object", "required": ["name"], "properties": named}
    low, high = PRIORITIES
    fields |= {
        "model": _enum(menu.models),
        "preset": _enum(presets),
        "loras": {"type": "array", "items": lora},
        "priority": {"type": "integer", "default": 0, "minimum": low, "maximum": high, "description": _PRIORITY},
        "deadline_s": {"type": "number", "maximum": bounds.deadline_s},
        "init": {"type": "string", "description": "a picture to start from, as base64 or as a data: URL"},
    }
    schema = {"type": "object", "required": ["prompt"], "additionalProperties": False, "properties": fields}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _field(name: str, default: Any) -> dict[str, Any]:
    if name not in RANGES:
        return {"type": "string", "default": default}
    low, high = RANGES[name]
    kind: dict[str, Any] = {"type": "integer" if name in _WHOLE else "number", "minimum": low, "maximum": high}
    if name in ("width", "height"):
        kind["multipleOf"] = SIDE_STEP
    return kind if default is None else kind | {"default": default}


def _enum(names: Any) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)} if names else {"type": "string"}
