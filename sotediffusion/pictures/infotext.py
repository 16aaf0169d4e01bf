"""The line of settings that AUTOMATIC1111's web UI writes under a prompt, and the way from our settings to it and back.

    prompt
    Negative prompt: what to avoid
    Steps: 30, Sampler: Default, CFG scale: 7, Seed: 42, Size: 1024x1536, ...

The format is a fact that other programs read: key order, quoting and the parser's rules are theirs, the code is ours.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NEGATIVE = "Negative prompt:"
MAX_LINE = 1 << 15  # characters; a longer last line is no line of settings
LEAST_PAIRS = 3  # a last line with fewer `key: value` pairs belongs to the prompt

_PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

SAMPLERS = {
    "ddpm": "Default",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "lcm": "LCM",
}
SCHEDULES = {"default": "Automatic", "sgm_uniform": "SGM Uniform", "karras": "Karras", "exponential": "Exponential"}
_OTHER_NAMES = {"ddpm": "ddpm", "ddpm wuerstchen": "ddpm", "sgmuniform": "sgm_uniform"}

# Where our settings go: (their key, our key), in the order they are written.
_FIRST = (("Steps", "steps"), ("Sampler", "sampler"), ("Schedule type", "schedule"), ("CFG scale", "guidance"), ("Seed", "seed"))
_MODEL = (("Model hash", "model_hash"), ("Model", "model"))
_REST = (
    ("Denoising strength", "strength"),
    ("Refiner steps", "decoder_steps"),
    ("Decoder CFG scale", "decoder_guidance"),
    ("Decoder sampler", "decoder_sampler"),
    ("Decoder schedule type", "decoder_schedule"),
    ("Shift", "shift"),
    ("Decoder shift", "decoder_shift"),
    ("CFG rescale", "rescale"),
    ("Compression", "compression"),
    ("Pipeline", "pipeline"),
    ("Version", "version"),
)
# Left out while they have this value, to keep the line one that people read.
_USUAL = {"schedule": "default", "decoder_sampler": "ddpm", "decoder_schedule": "default",
          "shift": 1.0, "decoder_shift": 1.0, "rescale": 0.0}  # fmt: skip
LORA = re.compile(r"\s*<lora:([^<>:]{1,200}):(-?\d{1,3}(?:\.\d{1,9})?)(?::[^<>]{0,40})?>")
LORA_HASHES, WORD_HASHES, HASH_DIGITS = "Lora hashes", "TI hashes", 12
_NAMES = {"sampler": SAMPLERS, "decoder_sampler": SAMPLERS, "schedule": SCHEDULES, "decoder_schedule": SCHEDULES}
_WHOLE = {"steps", "seed", "decoder_steps"}
_REAL = {"guidance", "decoder_guidance", "shift", "decoder_shift", "rescale", "compression", "strength"}


@dataclass(frozen=True)
class Infotext:
    """A prompt, its negative and the pairs of the last line, all as text."""

    prompt: str
    negative: str = ""
    pairs: dict[str, str] = field(default_factory=dict)


def write_infotext(info: Infotext) -> str:
    """The text for the `parameters` chunk; a pair whose value equals its key is written as the key alone, as A1111 does."""
    line = ", ".join(key if key == value else f"{key}: {_quote(value)}" for key, value in info.pairs.items())
    negative = f"{NEGATIVE} {info.negative}" if info.negative else ""
    return "\n".join(part for part in (info.prompt, negative, line) if part).strip()


def parse_infotext(text: str) -> Infotext:
    """Read what `write_infotext` or another program wrote; anything else is all prompt."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last) if len(last) <= MAX_LINE else []
    if len(pairs) < LEAST_PAIRS:
        lines, pairs = [*lines, last], []
    lines = [line.strip() for line in lines]
    start = next((place for place, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(NEGATIVE).strip()
    return Infotext("\n".join(lines[:start]).strip(), negative, {key: _unquote(value) for key, value in pairs})


def infotext_of(settings: Mapping[str, Any]) -> str:
    """The infotext of a picture's settings (Request's fields, the picture's own seed, and the marks of provenance)."""
    pairs = dict(_pairs(settings, _FIRST))
    if settings.get("width") and settings.get("height"):
        pairs["Size"] = f"{settings['width']}x{settings['height']}"
    pairs |= dict(_pairs({"model_hash": _short_hash(settings), **settings}, _MODEL))
    pairs |= dict(_pairs(settings, _REST))
    if settings.get("software") and settings.get("version"):
        pairs["Version"] = f"{settings['software']} {settings['version']}"
    loras = loras_in(settings)
    if loras:
        pairs[LORA_HASHES] = ", ".join(f"{lora['name']}: {lora['hash'][:HASH_DIGITS]}" for lora in loras)
    words = words_in(settings)
    if words:
        pairs[WORD_HASHES] = ", ".join(f"{word['name']}: {word['hash'][:HASH_DIGITS]}" for word in words)
    prompt = str(settings.get("prompt", "")) + "".join(f" <lora:{lora['name']}:{_text('', lora['weight'])}>" for lora in loras)
    return write_infotext(Infotext(prompt, str(settings.get("negative", "")), pairs))


def settings_of(info: Infotext) -> dict[str, Any]:
    """Our settings from an infotext; what has no place in ours, or no value we know, is kept as text under `other`."""
    settings: dict[str, Any] = {"prompt": info.prompt, "negative": info.negative}
    other = dict(info.pairs)
    _take_loras(settings, other)
    for theirs, ours in (*_FIRST, *_MODEL, *_REST):
        if theirs in other:
            value = _value(ours, other[theirs])
            if value is not None:
                settings[ours] = value
                del other[theirs]
    _split_sampler(settings, other)
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", other.get("Size", ""))
    if size:
        del other["Size"]
        settings |= {"width": int(size[1]), "height": int(size[2])}
    return {**settings, "other": other} if other else settings


def _pairs(settings: Mapping[str, Any], keys: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Their key and the value as they write it, for each of ours that is set and not as usual."""
    given = ((theirs, ours, settings.get(ours)) for theirs, ours in keys)
    return [(theirs, _text(ours, value)) for theirs, ours, value in given
            if value is not None and value != "" and _USUAL.get(ours) != value]  # fmt: skip


def _text(ours: str, value: Any) -> str:
    if ours in _NAMES:
        return _NAMES[ours].get(value, str(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _value(ours: str, text: str) -> Any:
    """A value of ours from their text, or None where it is none that we know."""
    if ours in _NAMES:
        wanted = text.casefold()
        known = {name.casefold(): key for key, name in _NAMES[ours].items()}
        found = known.get(wanted) or _OTHER_NAMES.get(wanted)
        return found or (wanted if wanted in _NAMES[ours] else None)
    if ours in _WHOLE:
        return int(text) if re.fullmatch(r"\d{1,19}", text, re.ASCII) else None
    if ours in _REAL:
        return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,20})?", text, re.ASCII) else None
    return text


def loras_in(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The LoRA that settings tell of, as name, weight and hash, names as they go into a tag; what makes no sense is left out."""
    given = settings.get("loras")
    kept = [lora for lora in given if isinstance(lora, Mapping)] if isinstance(given, list | tuple) else []
    return [{"name": re.sub(r"[<>:,]", "_", str(lora.get("name", ""))), "weight": float(lora["weight"]),
             "hash": str(lora.get("hash", ""))} for lora in kept if _is_weight(lora.get("weight"))]  # fmt: skip


def words_in(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The embeddings that settings tell of, as name and hash."""
    given = settings.get("embeddings")
    kept = [word for word in given if isinstance(word, Mapping)] if isinstance(given, list | tuple) else []
    return [{"name": re.sub(r"[^\w.-]", "_", str(word.get("name", ""))), "hash": str(word.get("hash", ""))} for word in kept]


def _hashes(text: str) -> dict[str, str]:
    """`name: hash, name: hash`, as A1111 writes it of files."""
    pairs = (pair.strip().split(": ", 1) for pair in text.split(",") if ": " in pair)
    return {name: hash for name, hash in pairs}


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1000


def _take_loras(settings: dict[str, Any], other: dict[str, str]) -> None:
    """LoRA stand in the prompt as <lora:name:weight>, their hashes in the last line."""
    words = _hashes(other.pop(WORD_HASHES, ""))
    if words:
        settings["embeddings"] = [{"name": name, "hash": hash} for name, hash in words.items()]
    found = LORA.findall(settings["prompt"])
    if not found:
        return
    hashes = _hashes(other.get(LORA_HASHES, ""))
    settings["prompt"] = LORA.sub("", settings["prompt"]).strip()
    settings["loras"] = [{"name": name, "weight": float(weight), "hash": hashes.get(name, "")} for name, weight in found]
    other.pop(LORA_HASHES, None)


def _split_sampler(settings: dict[str, Any], other: dict[str, str]) -> None:
    """Older files name sampler and schedule in one, "DPM++ 2M Karras"."""
    for ours, name in SCHEDULES.items():
        bare = other.get("Sampler", "").removesuffix(f" {name}")
        sampler = _value("sampler", bare) if bare != other.get("Sampler", "") else None
        if sampler:
            settings |= {"sampler": sampler, "schedule": ours}
            del other["Sampler"]


def _short_hash(settings: Mapping[str, Any]) -> str | None:
    """The first ten digits of Stage C's hash, which stands for the model as the one checkpoint does elsewhere."""
    hashes = settings.get("hashes") or {}
    return str(hashes["stage_c"])[:10] if "stage_c" in hashes else None


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(character in value for character in ',\n:') else value


def _unquote(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value
