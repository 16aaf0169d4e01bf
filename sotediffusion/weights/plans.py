"""Which tensors go into which file: one plan a format, as data that `writing` carries out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import to_toml
from ..models.cascade import SIZES
from . import configs, formats, licences
from .bundle import TOKENIZER_FILES, Bundle, in_order
from .reading import COMBINED, DECODER, EXTRAS, INDEX_FILE, MODEL_FILE, PRIOR, SPARE, TEXT_SIBLINGS
from .tensors import Stored

SHARD_BYTES = 10_000_000_000  # files of diffusers' layout are cut at this size, as it does itself
SUFFIX = {torch.bfloat16: "_bf16", torch.float16: "_fp16"}  # in Stability's file names; none is float32
UNET, VQGAN = ("diffusers", "StableCascadeUNet"), ("wuerstchen", "PaellaVQModel")
SCHEDULER = ("diffusers", "DDPMWuerstchenScheduler")
TEXT, TOKENIZER = ("transformers", "CLIPTextModelWithProjection"), ("transformers", "CLIPTokenizerFast")
IMAGE, EXTRACTOR = ("transformers", "CLIPVisionModelWithProjection"), ("transformers", "CLIPImageProcessor")
NONE = (None, None)


@dataclass(frozen=True)
class Weights:
    """A safetensors file to be written: tensors under the format's names, and which parts they are."""

    tensors: Mapping[str, Stored]
    parts: tuple[str, ...]


Plan = dict[str, Weights | bytes]  # path relative to the target's parent folder -> content


def size(content: Weights | bytes) -> int:
    """Bytes that a file will take, without its header."""
    if isinstance(content, bytes):
        return len(content)
    return sum(tensor.bytes for tensor in content.tensors.values())


def _folder(bundle: Bundle, path: Path) -> Plan:
    """Our model folder: model.toml, one file a part under original names, the tokenizer."""
    table: dict[str, Any] = {"name": bundle.name, "license": bundle.license, "base": bundle.base}
    plan: Plan = {}
    for name in in_order(bundle.parts):
        part = bundle.parts[name]
        plan[f"{path.name}/{name}.safetensors"] = Weights(part.tensors, (name,))
        table[name] = {"file": f"{name}.safetensors", "hash": part.hash, "config": part.config}
    table["conventions"] = bundle.conventions
    plan[f"{path.name}/{MODEL_FILE}"] = to_toml(table).encode()
    return plan | _tokenizer(bundle, path.name) | _terms(bundle, path.name)


def _tokenizer(bundle: Bundle, folder: str) -> Plan:
    if bundle.tokenizer is None:
        return {}
    files = [bundle.tokenizer / name for name in TOKENIZER_FILES]
    return {f"{folder}/{file.name}": file.read_bytes() for file in files if file.is_file()}


def _terms(bundle: Bundle, folder: str) -> Plan:
    """The licence texts that came with the weights, and the notice that their terms ask for."""
    plan: Plan = {f"{folder}/{path.name}": path.read_bytes() for path in bundle.licence_files}
    notice = licences.notice(bundle.license, bundle.name)
    return {f"{folder}/NOTICE": notice.encode(), **plan} if notice else plan


def _beside(bundle: Bundle, folder: str) -> Plan:
    """What lies beside the weights in a folder of loose files."""
    return _tokenizer(bundle, f"{folder}/tokenizer") | _terms(bundle, folder)


def _transformers_tokenizer(bundle: Bundle, folder: str) -> Plan:
    """The tokenizer with the settings that transformers needs to cut texts at the tower's length."""
    plan, settings = _tokenizer(bundle, folder), f"{folder}/tokenizer_config.json"
    if plan and settings not in plan and "text" in bundle.parts:
        plan[settings] = _json(configs.tokenizer_json(bundle.parts["text"].config))
    return plan


def _component(bundle: Bundle, name: str, folder: str) -> Plan:
    """A component's folder in diffusers' way; large ones in shards with an index."""
    part = bundle.parts[name]
    stem = "model" if name in ("text", "image") else "diffusion_pytorch_model"
    tensors = formats.to_diffusers(name, part.tensors)
    shards = _shards(tensors)
    config = json.dumps(configs.config_json(name, part.config), indent=2).encode()
    if len(shards) == 1:
        return {f"{folder}/config.json": config, f"{folder}/{stem}.safetensors": Weights(tensors, (name,))}
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    places = {tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": size(Weights(tensors, (name,)))}, "weight_map": places}
    files: Plan = {f"{folder}/{file}": Weights(shard, (name,)) for file, shard in zip(names, shards, strict=True)}
    return {f"{folder}/config.json": config, f"{folder}/{stem}.safetensors.index.json": json.dumps(index).encode(), **files}


def _shards(tensors: Mapping[str, Stored]) -> list[dict[str, Stored]]:
    shards: list[dict[str, Stored]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if shards[-1] and tensor.bytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.bytes
    return shards


def _components(bundle: Bundle, places: Mapping[str, str], folder: str) -> Plan:
    plan: Plan = {}
    for name, place in places.items():
        if name in bundle.parts:
            plan |= _component(bundle, name, f"{folder}/{place}")
    return plan


def _extras(bundle: Bundle, folder: str) -> Plan:
    there = {name: file for name, file in EXTRAS.items() if name in bundle.parts}
    return {f"{folder}/{file}": Weights(bundle.parts[name].tensors, (name,)) for name, file in there.items()}


def _extractor(bundle: Bundle, folder: str) -> Plan:
    """How pictures are prepared for the image tower."""
    if "image" not in bundle.parts:
        return {}
    return {f"{folder}/preprocessor_config.json": _json(configs.extractor_json(bundle.parts["image"].config))}


def _json(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, indent=2).encode()


def _diffusers(bundle: Bundle, path: Path) -> Plan:
    """The one combined folder. Its format wants the text encoder and tokenizer twice, though only the prior's are used."""
    folder = path.name
    index = {
        "decoder": UNET, "scheduler": SCHEDULER, "text_encoder": TEXT, "tokenizer": TOKENIZER, "vqgan": VQGAN,
        "prior_prior": UNET, "prior_scheduler": SCHEDULER, "prior_text_encoder": TEXT, "prior_tokenizer": TOKENIZER,
        "prior_feature_extractor": EXTRACTOR if "image" in bundle.parts else NONE,
        "prior_image_encoder": IMAGE if "image" in bundle.parts else NONE,
    }  # fmt: skip
    return {
        f"{folder}/{INDEX_FILE}": _json(configs.model_index(index, "StableCascadeCombinedPipeline")),
        f"{folder}/scheduler/scheduler_config.json": _json(configs.SCHEDULER_JSON),
        f"{folder}/prior_scheduler/scheduler_config.json": _json(configs.SCHEDULER_JSON),
        **_components(bundle, COMBINED, folder), **_components(bundle, SPARE, folder),
        **_transformers_tokenizer(bundle, f"{folder}/tokenizer"),
        **_transformers_tokenizer(bundle, f"{folder}/prior_tokenizer"), **_extras(bundle, folder), **_terms(bundle, folder),
        **_extractor(bundle, f"{folder}/prior_feature_extractor"),
    }  # fmt: skip


def _connected(bundle: Bundle, path: Path) -> Plan:
    """Two repositories side by side, the decoder's under the given name; each README names the other."""
    decoder, prior = path.name, f"{path.name}-prior"
    both = {"scheduler": SCHEDULER, "text_encoder": TEXT, "tokenizer": TOKENIZER}
    seen = (IMAGE, EXTRACTOR) if "image" in bundle.parts else (NONE, NONE)
    prior_index = {"prior": UNET, **both, "image_encoder": seen[0], "feature_extractor": seen[1]}
    decoder_index = {"decoder": UNET, "vqgan": VQGAN, **both}
    plan: Plan = {
        f"{decoder}/{INDEX_FILE}": _json(configs.model_index(decoder_index, "StableCascadeDecoderPipeline")),
        f"{prior}/{INDEX_FILE}": _json(configs.model_index(prior_index, "StableCascadePriorPipeline")),
        f"{decoder}/README.md": _readme(bundle, f"prior:\n- {prior}\n"),
        f"{prior}/README.md": _readme(bundle, f"decoder:\n- {decoder}\n"),
        **_components(bundle, PRIOR, prior), **_extractor(bundle, f"{prior}/feature_extractor"),
        **_components(bundle, DECODER | SPARE, decoder),
    }  # fmt: skip
    for folder in (decoder, prior):
        plan[f"{folder}/scheduler/scheduler_config.json"] = _json(configs.SCHEDULER_JSON)
        plan |= _transformers_tokenizer(bundle, f"{folder}/tokenizer") | _terms(bundle, folder)
    return plan | _extras(bundle, prior)


def _readme(bundle: Bundle, connection: str) -> bytes:
    licence = f"license: other\nlicense_name: {bundle.license or 'unknown'}\n"
    base = f"base_model: {bundle.base}\n" if bundle.base else ""
    return f"---\npipeline_tag: text-to-image\n{licence}{base}{connection}---\n\n# {bundle.name or 'Stable Cascade'}\n".encode()


def _stability(bundle: Bundle, path: Path) -> Plan:
    """Stability's original files, the towers as folders."""
    plan: Plan = {}
    towers = {"text": "text_encoder", "image": "image_encoder"}
    for name in in_order(bundle.parts):
        if name not in towers:
            plan[f"{path.name}/{_stability_name(bundle, name)}.safetensors"] = Weights(bundle.parts[name].tensors, (name,))
    return plan | _components(bundle, towers, path.name) | _beside(bundle, path.name)


def _stability_name(bundle: Bundle, name: str) -> str:
    if name not in ("stage_b", "stage_c"):
        return {"effnet": "effnet_encoder"}.get(name, name)
    part = bundle.parts[name]
    lite = "_lite" if part.config == getattr(SIZES["lite"], name) else ""
    return f"{name}{lite}{SUFFIX.get(part.dtypes[0], '')}"


def _comfyui(bundle: Bundle, path: Path) -> Plan:
    """ComfyUI's two checkpoints: Stage C with its towers, EffNet and previewer; Stage B with Stage A."""
    files = {"stage_c": ("stage_c", "text", "effnet", "previewer", "image"), "stage_b": ("stage_b", "stage_a")}
    plan: Plan = {}
    for file, names in files.items():
        there = tuple(name for name in names if name in bundle.parts)
        if file in bundle.parts:
            tensors = formats.to_comfyui({name: bundle.parts[name].tensors for name in there})
            plan[f"{path.name}/{file}.safetensors"] = Weights(tensors, there)
    return plan | _beside(bundle, path.name)


def _comfyui_split(bundle: Bundle, path: Path) -> Plan:
    """ComfyUI's single-part files, in the folders that its loaders look into."""
    files = {
        "diffusion_models/stage_c": ("stage_c",), "diffusion_models/stage_b": ("stage_b",),
        "text_encoders/text_encoder": ("text",), "vae/stage_a": ("stage_a",), "vae/stage_c_coder": ("effnet", "previewer"),
        "clip_vision/image_encoder": ("image",),
    }  # fmt: skip
    return _bare(bundle, path, files)


def _loose(bundle: Bundle, path: Path) -> Plan:
    """Four loose files, as the card's successor is published for ComfyUI."""
    return _bare(bundle, path, {"unet": ("stage_c",), "clip": ("text",), "stage_b": ("stage_b",), "stage_a": ("stage_a",)})


def _bare(bundle: Bundle, path: Path, files: Mapping[str, tuple[str, ...]]) -> Plan:
    plan: Plan = {}
    for file, names in files.items():
        there = tuple(name for name in names if name in bundle.parts)
        if there:
            tensors = formats.to_comfyui({name: bundle.parts[name].tensors for name in there}, prefixed=False)
            plan[f"{path.name}/{file}.safetensors"] = Weights(tensors, there)
    return plan | _beside(bundle, path.name)


def _pair(layout: str) -> Callable[[Bundle, Path], Plan]:
    def plan(bundle: Bundle, path: Path) -> Plan:
        stem = path.name.removesuffix(".safetensors")
        files = {stem: "stage_c", f"{stem}{TEXT_SIBLINGS[layout]}": "text"}
        there = {file: name for file, name in files.items() if name in bundle.parts}
        return {f"{file}.safetensors": Weights(bundle.parts[name].tensors, (name,)) for file, name in there.items()}

    return plan


FORMATS: dict[str, Callable[[Bundle, Path], Plan]] = {
    "folder": _folder,
    "diffusers": _diffusers,
    "diffusers-connected": _connected,
    "stability": _stability,
    "comfyui": _comfyui,
    "comfyui-split": _comfyui_split,
    "kohya": _pair("kohya"),
    "onetrainer": _pair("onetrainer"),
    "loose": _loose,
}
