"""What InvokeAI, Fooocus and SwarmUI write as JSON into their pictures, in our words. All of it is a stranger's."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SAMPLERS = {
    "ddpm": "ddpm", "ddim": "ddim", "euler": "euler", "euler_a": "euler_ancestral", "euler_ancestral": "euler_ancestral",
    "k_euler": "euler", "k_euler_a": "euler_ancestral", "dpmpp_2m": "dpmpp_2m", "k_dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "lcm": "lcm",
}  # fmt: skip
SCHEDULES = {"karras": "karras", "exponential": "exponential", "sgm_uniform": "sgm_uniform"}

_COMPEL = re.compile(r"\(([^()]{1,2000})\)(\d{1,3}(?:\.\d{1,6})?)(?![\d.])")  # (words)1.2
_RESOLUTION = re.compile(r"\(?\s*(\d{1,5})\s*[,x]\s*(\d{1,5})\s*\)?")


@dataclass
class Found:
    """Settings as another program had them; nothing is checked yet."""

    settings: dict[str, Any]  # by our names
    model: str = ""
    loras: list[tuple[str, float]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # what has no place in ours, by their names


def read_swarmui(data: Mapping[str, Any]) -> Found | None:
    """The `sui_image_params` of SwarmUI, which stand in A1111's place."""
    given = data.get("sui_image_params")
    if not isinstance(given, dict):
        return None
    settings = _renamed(given, {"prompt": "prompt", "negativeprompt": "negative", "width": "width", "height": "height",
                                "steps": "steps", "cfgscale": "guidance", "seed": "seed",
                                "initimagecreativity": "strength"})  # fmt: skip
    settings["init"] = "initimage" in given or "initimagecreativity" in given
    left = named_samplers(settings, given.get("sampler"), given.get("scheduler"))
    names, weights = words_of(given.get("loras")), [number(one) for one in listed(given.get("loraweights"))]
    loras = _weighted(zip(names, weights + [None] * len(names), strict=False))
    return Found(settings, text_of(given.get("model")), loras, left)


def read_fooocus(data: Mapping[str, Any]) -> Found | None:
    """The JSON scheme of Fooocus, which stands in A1111's place too."""
    if not {"metadata_scheme", "prompt_expansion", "performance", "full_prompt"} & set(data) or "prompt" not in data:
        return None
    settings = _renamed(data, {"prompt": "prompt", "negative_prompt": "negative", "steps": "steps", "guidance_scale": "guidance",
                               "seed": "seed"})  # fmt: skip
    size = _RESOLUTION.fullmatch(text_of(data.get("resolution")))
    if size:
        settings |= {"width": int(size[1]), "height": int(size[2])}
    left = named_samplers(settings, data.get("sampler"), data.get("scheduler"))
    left += [name for name in ("styles", "prompt_expansion", "sharpness") if data.get(name)]
    loras = [(one[0], number(one[1])) for one in listed(data.get("loras")) if isinstance(one, list) and len(one) > 1]
    return Found(settings, text_of(data.get("base_model")), _weighted(loras), left)


def read_invokeai(data: Mapping[str, Any]) -> Found | None:
    """InvokeAI's `invokeai_metadata`, or the `sd-metadata` of its second version."""
    if isinstance(data.get("image"), dict):
        return _invokeai_two(data, data["image"])
    if not {"positive_prompt", "generation_mode"} & set(data):
        return None
    settings = _renamed(data, {"positive_prompt": "prompt", "negative_prompt": "negative", "width": "width", "height": "height",
                               "steps": "steps", "cfg_scale": "guidance", "seed": "seed", "cfg_rescale_multiplier": "rescale",
                               "strength": "strength"})  # fmt: skip
    settings["init"] = "img2img" in text_of(data.get("generation_mode"))
    left = _invokeai_prompts(settings) + named_samplers(settings, data.get("scheduler"), None)
    loras = [(_name(one.get("model") or one.get("lora")), number(one.get("weight")))
             for one in listed(data.get("loras")) if isinstance(one, dict)]  # fmt: skip
    return Found(settings, _name(data.get("model")), _weighted(loras), left)


def _invokeai_two(data: Mapping[str, Any], image: Mapping[str, Any]) -> Found:
    prompt = image.get("prompt")
    parts = [one.get("prompt") for one in prompt if isinstance(one, dict)] if isinstance(prompt, list) else [prompt]
    settings = _renamed(image, {"width": "width", "height": "height", "steps": "steps", "cfg_scale": "guidance", "seed": "seed"})
    whole = ", ".join(part for part in parts if isinstance(part, str))
    negative = re.findall(r"\[([^\[\]]*)\]", whole)  # in that version the negative stood in brackets
    settings |= {"prompt": re.sub(r"\s*\[[^\[\]]*\]", "", whole).strip(), "negative": ", ".join(negative)}
    left = _invokeai_prompts(settings) + named_samplers(settings, image.get("sampler"), None)
    return Found(settings, text_of(data.get("model_weights")), [], left)


def _invokeai_prompts(settings: dict[str, Any]) -> list[str]:
    """Its weights, `(words)1.2`, as ours; what is weighted by plus and minus signs stays as it is and is told of."""
    told = []
    for name in ("prompt", "negative"):
        if isinstance(settings.get(name), str):
            settings[name] = _COMPEL.sub(r"(\1:\2)", settings[name])
            told += ["weights by + signs"] if re.search(r"[\w)]\++(?=[\s,.)]|$)", settings[name]) else []
    return told[:1]


def named_samplers(settings: dict[str, Any], sampler: Any, schedule: Any, prefix: str = "") -> list[str]:
    """Put their sampler and schedule into `settings` where ours has them; what it has not comes back by name."""
    sampler, schedule, left = text_of(sampler).lower(), text_of(schedule).lower(), []
    if sampler.endswith("_k") and sampler[:-2] in SAMPLERS:
        sampler, schedule = sampler[:-2], "karras"
    if sampler in SAMPLERS:
        settings[f"{prefix}sampler"] = SAMPLERS[sampler]
    elif sampler:
        left.append(f"sampler {sampler}")
    if schedule in SCHEDULES:
        settings[f"{prefix}schedule"] = SCHEDULES[schedule]
    elif schedule:
        left.append(f"schedule {schedule}")
    return left


def number(value: Any) -> Any:
    """A number as it is or from text; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,20}(\.\d{1,20})?\s*", value, re.ASCII):
        return float(value) if "." in value else int(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def text_of(value: Any) -> str:
    """The text, or nothing where it is none."""
    return value if isinstance(value, str) else ""


def listed(value: Any) -> list[Any]:
    """The list, or an empty one where it is none."""
    return value if isinstance(value, list) else []


def words_of(value: Any) -> list[str]:
    """The texts of a list."""
    return [one for one in listed(value) if isinstance(one, str)]


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Values by our names; numbers are read out of text, prompts stay text."""
    found = {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    texts = {name: text_of(found[name]) for name in ("prompt", "negative") if name in found}
    return {name: number(value) for name, value in found.items() if name not in texts} | texts


def _weighted(loras: Iterable[tuple[Any, Any]]) -> list[tuple[str, float]]:
    named = [(name, weight) for name, weight in loras if isinstance(name, str) and name not in ("", "None")]
    return [(name, 1.0 if weight is None else weight) for name, weight in named]


def _name(model: Any) -> str:
    """A model's name; older versions wrote `model_name`."""
    if isinstance(model, dict):
        return text_of(model.get("name")) or text_of(model.get("model_name"))
    return text_of(model)
