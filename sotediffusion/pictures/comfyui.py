"""ComfyUI's graphs: the samplers that drew a picture, and what flowed into them, in our words.

A graph is `{id: {"class_type": name, "inputs": {input: value or [id, output]}}}` (the chunk `prompt`), or what its editor keeps
(`workflow`: nodes with lists of values, and links), of which only the texts and plain samplers can be read.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from sotediffusion.pictures.foreign import Found, listed, named_samplers, number, text_of

MAX_NODES = 5000
_TEXTS = ("text", "text_g", "text_l", "string", "value", "prompt", "wildcard_text", "populated_text")
_ASIDE = ("clip", "model", "vae", "clip_vision", "image", "pixels", "mask", "control_net", "stage_c", "latent_image", "samples",
          "negative")  # fmt: skip # no words of a prompt come from there
_EDITOR_VALUES = {  # the values of a node's widgets in the editor's order
    "KSampler": ("seed", "control", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "CLIPTextEncode": ("text",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "StableCascade_EmptyLatentImage": ("width", "height", "compression", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "ModelSamplingStableCascade": ("shift",),
}


def read_comfyui(data: Mapping[str, Any]) -> Found | None:
    """Settings from a graph of either kind; None where it has no sampler."""
    nodes = _from_editor(data) if isinstance(data.get("nodes"), list) else _plain(data)
    samplers = [id for id in nodes if _is_sampler(nodes[id])]
    if not samplers or len(nodes) > MAX_NODES:
        return None
    decoders = [id for id in samplers if _above(nodes, nodes[id]["inputs"].get("positive"), "StableCascade_StageB")]
    first = next((id for id in samplers if id not in decoders), samplers[0])
    settings, left = _sampled(nodes, nodes[first], "")
    settings |= _words(nodes, nodes[first]) | _size(nodes, nodes[first])
    if decoders:
        drawn, more = _sampled(nodes, nodes[decoders[0]], "decoder_")
        settings |= {name: value for name, value in drawn.items() if name != "seed"}
        left += more
    left += ["more samplers"] if len(samplers) > 1 + bool(decoders) else []
    return Found(settings, *_model(nodes, nodes[first]), left)


def _plain(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    good = {str(id): node for id, node in data.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}
    return {id: {"type": text_of(node.get("class_type")), "inputs": node["inputs"]} for id, node in good.items()}


def _from_editor(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The editor's nodes as if they had been sent to be drawn."""
    sources = {link[0]: [str(link[1]), link[2]] for link in listed(data.get("links"))
               if isinstance(link, list) and len(link) > 2 and isinstance(link[0], int)}  # fmt: skip
    nodes = {}
    for node in listed(data.get("nodes"))[: MAX_NODES + 1]:
        if not isinstance(node, dict) or node.get("mode") in (2, 4):  # muted, bypassed
            continue
        kind = text_of(node.get("type"))
        inputs: dict[str, Any] = dict(zip(_EDITOR_VALUES.get(kind, ()), listed(node.get("widgets_values")), strict=False))
        for entry in listed(node.get("inputs")):
            link = entry.get("link") if isinstance(entry, dict) else None
            if isinstance(link, int) and link in sources:
                inputs[text_of(entry.get("name"))] = sources[link]
        nodes[str(node.get("id"))] = {"type": kind, "inputs": inputs}
    return nodes


def _is_sampler(node: Mapping[str, Any]) -> bool:
    inputs = node["inputs"]
    plain = {"positive", "negative", "latent_image"} <= set(inputs) and ("steps" in inputs or "sigmas" in inputs)
    return plain or {"guider", "sampler", "sigmas"} <= set(inputs)


def _source(nodes: Mapping[str, Any], value: Any) -> dict[str, Any] | None:
    """The node that an input is linked to."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
        found = nodes.get(str(value[0]))
        return found if isinstance(found, dict) else None
    return None


def _upstream(nodes: Mapping[str, Any], value: Any, aside: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """All nodes from which something flows into an input, the nearest first, each once."""
    waiting, seen = deque([value]), set()
    while waiting:
        node = _source(nodes, waiting.popleft())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting.extend(value for name, value in node["inputs"].items() if name not in aside)


def _above(nodes: Mapping[str, Any], value: Any, kind: str) -> bool:
    return any(node["type"].startswith(kind) for node in _upstream(nodes, value, _ASIDE))


def _value(nodes: Mapping[str, Any], value: Any) -> Any:
    """A number or text that is given, or comes from a node that holds just that."""
    if not isinstance(value, list):
        return value
    for node in _upstream(nodes, value):
        plain = [one for one in node["inputs"].values() if isinstance(one, int | float | str) and not isinstance(one, bool)]
        if plain:
            return plain[0]
    return None


def _sampled(nodes: Mapping[str, Any], sampler: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Steps, guidance, seed, sampler and schedule; of the newer samplers they stand in nodes of their own."""
    inputs = dict(sampler["inputs"])
    for part in ("noise", "guider", "sampler", "sigmas"):
        node = _source(nodes, inputs.get(part))
        inputs |= {name: value for name, value in (node or {"inputs": {}})["inputs"].items() if name not in inputs}
    seed = inputs.get("seed", inputs.get("noise_seed"))
    found = {"steps": inputs.get("steps"), "guidance": inputs.get("cfg"), "seed": seed, "strength": inputs.get("denoise")}
    settings = {f"{prefix}{name}" if name not in ("seed", "strength") else name: number(_value(nodes, value))
                for name, value in found.items() if value is not None}  # fmt: skip
    if prefix:
        settings.pop("strength", None)
    for node in _upstream(nodes, inputs.get("model")):
        if node["type"] == "ModelSamplingStableCascade":
            settings[f"{prefix}shift"] = number(_value(nodes, node["inputs"].get("shift")))
    sampler_name, schedule = (_value(nodes, inputs.get(name)) for name in ("sampler_name", "scheduler"))
    return settings, named_samplers(settings, sampler_name, schedule, prefix)


def _words(nodes: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict[str, str]:
    inputs = dict(sampler["inputs"])
    guider = _source(nodes, inputs.get("guider"))
    inputs |= guider["inputs"] if guider else {}
    links = {"prompt": inputs.get("positive", inputs.get("conditioning")), "negative": inputs.get("negative")}
    return {name: _text(nodes, link) for name, link in links.items()}


def _text(nodes: Mapping[str, Any], link: Any) -> str:
    """The nearest words that flow into a conditioning. There square brackets are letters, with us they weigh."""
    for node in _upstream(nodes, link, _ASIDE):
        if node["type"] == "ConditioningZeroOut":
            return ""
        texts = [_value(nodes, node["inputs"][name]) for name in _TEXTS if name in node["inputs"]]
        words = list(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip()))
        if words:
            return ", ".join(words).replace("[", "\\[").replace("]", "\\]")
    return ""


def _size(nodes: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict[str, Any]:
    for node in _upstream(nodes, sampler["inputs"].get("latent_image")):
        if {"width", "height"} <= set(node["inputs"]):
            names = ("width", "height", "compression") if "StableCascade" in node["type"] else ("width", "height")
            found = {name: number(_value(nodes, node["inputs"].get(name))) for name in names}
            return {name: value for name, value in found.items() if value is not None}
    return {}


def _model(nodes: Mapping[str, Any], sampler: Mapping[str, Any]) -> tuple[str, list[tuple[str, float]]]:
    """The name of the checkpoint, and the LoRAs on the way from it."""
    model, loras = "", []
    guider = _source(nodes, sampler["inputs"].get("guider"))
    for node in _upstream(nodes, sampler["inputs"].get("model") or (guider or {"inputs": {}})["inputs"].get("model")):
        inputs = node["inputs"]
        model = model or text_of(inputs.get("ckpt_name")) or text_of(inputs.get("unet_name"))
        weight = number(inputs.get("strength_model", inputs.get("strength")))
        if text_of(inputs.get("lora_name")):
            loras.append((inputs["lora_name"], 1.0 if weight is None else weight))
    return model, loras
