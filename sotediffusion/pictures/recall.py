"""Settings out of a picture that somebody brings, ours or another program's, as fields of a Request; none can be trusted."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

from sotediffusion.limits import validate
from sotediffusion.pictures.comfyui import read_comfyui
from sotediffusion.pictures.decode import FORMATS
from sotediffusion.pictures.foreign import Found, read_fooocus, read_invokeai, read_swarmui
from sotediffusion.pictures.headers import DAMAGED
from sotediffusion.pictures.infotext import LEAST_PAIRS, SAMPLERS, SCHEDULES, Infotext, parse_infotext, settings_of
from sotediffusion.pictures.marks import read_marks
from sotediffusion.safety.provenance import SOFTWARE
from sotediffusion.types import Request, UserError

MAX_JSON = 8 << 20  # characters
MAX_NAME = 200  # characters of a model's or a LoRA's name
MAX_LORAS = 32
TAKEN = {field.name for field in fields(Request)} - {"init", "count", "loras"}
WHOLE = {"width", "height", "steps", "decoder_steps", "seed"}

_LORA = re.compile(r"<lora:([^:<>]{1,200})(?::(-?\d{1,3}(?:\.\d{1,6})?))?(?::[^<>]{0,100})?>\s*,?\s*")
_MAKE, _MODEL, _MAKER_NOTE = 0x010F, 0x0110, 0x927C  # Exif tags
_FROM_PICTURE = "It was drawn from another picture; choose that one to start from."
_CASCADE = "StableCascade"


@dataclass(frozen=True)
class Recalled:
    """What a picture says of how it was drawn; `settings` are Request's fields in their ranges, `model` and `loras`."""

    origin: str | None  # sote, a1111, sdnext, comfyui, invokeai, fooocus, swarmui; None where it says nothing
    text: str  # as it stands in the file
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()  # sentences on what was not taken


def recall(content: bytes, field: str = "picture") -> Recalled:
    """The settings inside the bytes of a PNG, JPEG or WebP; no pixel is decoded.

    A picture without settings is no error, its origin is None. Raises UserError, under the name `field`, for a file that is no
    picture or a damaged one.
    """
    chunks, text, ours = _carried(content, field)
    if ours is not None:
        return _settled("sote", text, Found(dict(ours), model=str(ours.get("model", "")), loras=_pairs(ours.get("loras"))))
    for origin, read, source in _readers(chunks, text):
        found = read(source)
        if found is not None:
            return _settled(origin, text or json.dumps(source, ensure_ascii=False), found)
    info = parse_infotext(text)
    if len(info.pairs) < LEAST_PAIRS:
        return Recalled(None, _clean(text), {})
    origin = _writer(info)
    return _settled(origin, text, _from_infotext(info, origin))


def _carried(content: bytes, field: str) -> tuple[dict[str, str], str, dict[str, Any] | None]:
    """The text chunks of a picture (of WebP those that ComfyUI keeps in Exif), its infotext, and our own settings."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            chunks = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
            return _exif_chunks(image) | chunks, *read_marks(image)
    except UnidentifiedImageError:
        raise UserError(field, "it is not a PNG, JPEG or WebP picture; give one of these") from None
    except (Image.DecompressionBombError, *DAMAGED) as error:
        raise UserError(field, f"it cannot be read ({str(error)[:120]}); give a whole picture file") from None


def _exif_chunks(image: Image.Image) -> dict[str, str]:
    exif = image.getexif()
    values = [value for tag in (_MAKE, _MODEL) if isinstance(value := exif.get(tag), str)]
    parts = (value.partition(":") for value in values)
    return {name.lower(): rest for name, _, rest in parts if name.lower() in ("prompt", "workflow")}


Reader = Callable[[Any], Found | None]


def _readers(chunks: Mapping[str, str], text: str) -> list[tuple[str, Reader, Any]]:
    """Whose JSON the picture carries, in the order of how much each of them says."""
    named: list[tuple[str, Reader, str | None]] = [
        ("swarmui", read_swarmui, text),
        ("fooocus", read_fooocus, text),
        ("invokeai", read_invokeai, chunks.get("invokeai_metadata") or chunks.get("sd-metadata")),
    ]
    if len(parse_infotext(text).pairs) < LEAST_PAIRS:
        named += [("comfyui", read_comfyui, chunks.get(name)) for name in ("prompt", "workflow")]
    decoded = [(origin, read, _json(source or "")) for origin, read, source in named]
    return [entry for entry in decoded if entry[2] is not None]


def _json(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{") or len(text) > MAX_JSON:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _writer(info: Infotext) -> str:
    """Which program wrote an infotext; all who do not say are taken for the first one."""
    version, app = info.pairs.get("Version", ""), info.pairs.get("App", "")
    if version.startswith(SOFTWARE):
        return "sote"
    if "SD.Next" in (app, version) or app.casefold().startswith("sd.next") or "Operations" in info.pairs:
        return "sdnext"
    return "fooocus" if version.startswith("Fooocus") else "a1111"


def _from_infotext(info: Infotext, origin: str) -> Found:
    settings = settings_of(info)
    other: dict[str, str] = settings.pop("other", {})
    if origin == "sdnext" and _CASCADE in str(settings.get("pipeline", "")):
        secondary = next((other.pop(key) for key in ("Image CFG scale", "Secondary CFG scale") if key in other), None)
        settings.setdefault("decoder_guidance", _number(secondary))
    loras = _pairs(settings.pop("loras", None))
    for field in ("prompt", "negative"):  # those that say no weight
        loras += [(name, _number(weight, 1.0)) for name, weight in _LORA.findall(settings[field])]
        settings[field] = _LORA.sub("", settings[field]).strip()
    left = [key for key in other if key not in ("App", "Operations", "Lora hashes", "Parser", "Hashes")]
    model = str(settings.pop("model", ""))
    return Found(settings, model, loras, left)


def _settled(origin: str, text: str, found: Found) -> Recalled:
    """Only what a Request takes, each field within its range; the rest is told of."""
    notes: list[str] = []
    settings: dict[str, Any] = {}
    for name, value in found.settings.items():
        if name in TAKEN and value is not None and name != "strength":
            value = int(value) if name in WHOLE and isinstance(value, float) and value.is_integer() else value
            problem = _problem(name, value)
            settings |= {} if problem else {name: value}
            notes += [problem] if problem else []
    strength = found.settings.get("strength")
    if found.settings.get("init") or (origin != "sote" and isinstance(strength, float | int) and strength < 1):
        notes.append(_FROM_PICTURE)
        if not _problem("strength", strength):
            settings["strength"] = strength
    if found.left:
        notes.append(f"Not taken over: {', '.join(_short(name) for name in found.left[:12])}.")
    if found.model:
        settings["model"] = _clean(found.model)[:MAX_NAME]
    loras = [{"name": _clean(name)[:MAX_NAME], "weight": weight} for name, weight in found.loras if -100 <= weight <= 100]
    if loras:
        settings["loras"] = loras[:MAX_LORAS]
    return Recalled(origin, _clean(text), settings, tuple(map(_clean, notes)))


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with one field, in a sentence."""
    fields: dict[str, Any] = {"prompt": "any"} if name == "prompt" and value == "" else {"prompt": "any", name: value}
    try:
        validate(Request(**fields), SAMPLERS, SCHEDULES)
    except UserError as error:
        return f"{name.capitalize().replace('_', ' ')} is not taken: {error.message}."
    return None


def _pairs(loras: Any) -> list[tuple[str, float]]:
    """LoRA and weight, from pairs or from objects with a name."""
    if not isinstance(loras, list):
        return []
    pairs = [(one.get("name"), one.get("weight", 1.0)) if isinstance(one, dict) else one for one in loras]
    good = [pair for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)]
    return [(name, weight) for name, weight in good if isinstance(weight, int | float) and not isinstance(weight, bool)]


def _number(text: str | None, otherwise: float | None = None) -> Any:
    return float(text) if text and re.fullmatch(r"-?\d{1,9}(\.\d{1,20})?", text, re.ASCII) else otherwise


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which cannot be sent on."""
    return text.encode("utf-8", errors="replace").decode()


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."
