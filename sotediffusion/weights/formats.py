"""Names that other programs give to our tensors: recognising the parts in a file, and the way to and from the original names.

Original: Stability's files, fused attention projections. Diffusers: split projections, two renamed layers. ComfyUI: prefixes.
"""

import re
from collections.abc import Mapping

import torch

from ..models.effnet import MEAN, STD
from ..types import UserError
from .tensors import Stored, in_memory, rows, stacked, transposed

Tensors = dict[str, Stored]

SIGNATURES = {  # a tensor that only one part has, by part
    "clip_txt_mapper.weight": "stage_c",
    "effnet_mapper.0.weight": "stage_b",
    "vquantizer.codebook.weight": "stage_a",
    "vquantizer.embedding.weight": "stage_a",
    "text_model.embeddings.token_embedding.weight": "text",
    "backbone.0.0.weight": "effnet",
    "blocks.2.running_mean": "previewer",
    "vision_model.embeddings.patch_embedding.weight": "image",
}

PREFIXES = {  # ComfyUI's, longest first; what follows is named as in `SIGNATURES`
    "text_encoder.clip_g.transformer.": "text",
    "text_encoder.clip_g.": "text",
    "model.diffusion_model.": "unet",
    "clip_g.transformer.": "text",
    "clip_l_vision.": "image",
    "vae.previewer.": "previewer",
    "vae.encoder.": "effnet",
    "previewer.": "previewer",
    "encoder.": "effnet",
    "clip_g.": "text",
    "vae.": "vae",
}

HARMLESS = {  # tensors that some writers add and no network needs
    "text": ("logit_scale", "text_model.embeddings.position_ids"),
    "effnet": ("mean", "std"),
    "image": ("logit_scale", "vision_model.embeddings.position_ids"),
}

COMFYUI_PREFIX = {
    "stage_c": "model.diffusion_model.", "stage_b": "model.diffusion_model.", "stage_a": "vae.",
    "text": "text_encoder.clip_g.transformer.", "effnet": "vae.encoder.", "previewer": "vae.previewer.",
    "image": "clip_l_vision.",
}  # fmt: skip

_FUSED = re.compile(r"(.*\.attention\.)attn\.in_proj_(weight|bias)")
_SPLIT = re.compile(r"(.*\.attention\.)to_([qkv])\.(weight|bias)")


def parts_in(tensors: Mapping[str, Stored], source: str) -> dict[str, Tensors]:
    """The parts that one file holds, under their original names. UserError: a group of tensors that is none of them."""
    parts: dict[str, Tensors] = {}
    for group in _groups(tensors).values():
        part = next((SIGNATURES[name] for name in SIGNATURES if name in group), None)
        if part is None:
            raise UserError(source, f"is not a part of a Stable Cascade: its tensors are named like {min(group)}; "
                                    f"known parts are {', '.join(sorted(set(SIGNATURES.values())))}")
        if part in parts:
            raise UserError(source, f"holds {part} twice; give a file that holds it once")
        parts[part] = to_original(part, group)
    return parts


def style_of(tensors: Mapping[str, Stored]) -> str:
    """Whose names a file uses: "comfyui", "diffusers" or "original"."""
    if any(name.startswith(("model.diffusion_model.", "text_encoder.clip_g.")) for name in tensors):
        return "comfyui"
    if any(_SPLIT.fullmatch(name) for name in tensors) or "vquantizer.embedding.weight" in tensors:
        return "diffusers"
    return "original"


def _groups(tensors: Mapping[str, Stored]) -> dict[str, Tensors]:
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
        groups.setdefault(PREFIXES.get(prefix, ""), {})[name[len(prefix) :]] = tensor
    return groups


def to_original(part: str, tensors: Mapping[str, Stored]) -> Tensors:
    """Tensors of one part under their original names, known harmless extras left out."""
    out = {_renamed(part, name): tensor for name, tensor in tensors.items() if name not in HARMLESS.get(part, ())}
    for name in [name for name in out if name.endswith(".attention.to_q.weight") or name.endswith(".attention.to_q.bias")]:
        stem, kind = name.rsplit(".to_q.", 1)
        trio = [f"{stem}.to_{letter}.{kind}" for letter in "qkv"]
        if all(piece in out for piece in trio):
            out[f"{stem}.attn.in_proj_{kind}"] = stacked([out.pop(piece) for piece in trio])
    if part == "text" and "text_projection" in out:  # OpenCLIP's matrix, applied from the other side
        out["text_projection.weight"] = transposed(out.pop("text_projection"))
    return out


def _renamed(part: str, name: str) -> str:
    if part == "stage_b":
        name = re.sub(r"^clip_txt_pooled_mapper\.", "clip_mapper.", name)
    if part == "stage_a":
        name = re.sub(r"^vquantizer\.embedding\.", "vquantizer.codebook.", name)
    return name.replace(".attention.to_out.0.", ".attention.attn.out_proj.")


def to_diffusers(part: str, tensors: Mapping[str, Stored]) -> Tensors:
    """Tensors of one part under diffusers' names (transformers' for the towers, which are the original ones)."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if part == "stage_b":
            name = re.sub(r"^clip_mapper\.", "clip_txt_pooled_mapper.", name)
        if part == "stage_a":
            name = re.sub(r"^vquantizer\.codebook\.", "vquantizer.embedding.", name)
        fused = _FUSED.fullmatch(name)
        if fused:
            third = tensor.shape[0] // 3
            for i, letter in enumerate("qkv"):
                out[f"{fused[1]}to_{letter}.{fused[2]}"] = rows(tensor, i * third, (i + 1) * third)
        else:
            out[name.replace(".attention.attn.out_proj.", ".attention.to_out.0.")] = tensor
    return out


def to_comfyui(parts: Mapping[str, Mapping[str, Stored]], prefixed: bool = True) -> Tensors:
    """Tensors of the parts that share one ComfyUI file; without `prefixed`, as its single-part loaders want them."""
    out: Tensors = {}
    for part, tensors in parts.items():
        prefix = COMFYUI_PREFIX[part]
        if not prefixed:
            prefix = prefix.removeprefix("vae.") if part in ("effnet", "previewer") else ""
        out.update({prefix + name: tensor for name, tensor in tensors.items()})
        if part == "effnet":  # constants that its encoder keeps as buffers
            kind = tensors["mapper.0.weight"].dtype
            out[prefix + "mean"] = in_memory(torch.tensor(MEAN).to(kind))
            out[prefix + "std"] = in_memory(torch.tensor(STD).to(kind))
    return out
