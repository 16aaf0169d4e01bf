"""Names that LoRA files give to the modules they change: from any program's to ours, and from ours to four forms.

Ours: `stage_c.` or `text.` and the module's original name, packed attention as to_q, to_k and to_v. kohya and ComfyUI: a prefix
and the same with underscores. PEFT: a component's name and diffusers' module names.
"""

import re

from ..names import unknown
from ..types import UserError

PARTS = ("stage_c", "text")
FORMS = ("sote", "kohya", "comfyui", "peft")

PREFIXES = {  # by form: what stands before a module's name
    "sote": {"stage_c": "stage_c.", "text": "text."},
    "kohya": {"stage_c": "lora_unet_", "text": "lora_te_"},
    "comfyui": {"stage_c": "lora_prior_unet_", "text": "lora_prior_te_"},
    "peft": {"stage_c": "prior.", "text": "text_encoder."},
}
FLAT = ("kohya", "comfyui")  # dots are underscores there

_READ = {  # longest first where one begins another
    "lora_prior_unet_": "stage_c", "lora_unet_": "stage_c", "lora_prior_te_": "text", "lora_te_": "text", "stage_c.": "stage_c",
    "text.": "text", "diffusion_model.": "stage_c", "text_encoders.clip_g.transformer.": "text", "clip_g.transformer.": "text",
    "prior.": "stage_c", "prior_prior.": "stage_c", "unet.": "stage_c", "text_encoder.": "text", "prior_text_encoder.": "text",
    "base_model.model.": "",
}  # fmt: skip
_WORDS = (  # of module names that have an underscore of their own
    "clip_txt_pooled_mapper", "clip_txt_mapper", "clip_img_mapper", "down_repeat_mappers", "up_repeat_mappers",
    "down_downscalers", "up_upscalers", "down_blocks", "up_blocks", "kv_mapper", "mapper_sca", "mapper_crp", "in_proj",
    "out_proj", "to_q", "to_k", "to_v", "to_out", "text_model", "text_projection", "self_attn", "q_proj", "k_proj", "v_proj",
    "embedding", "clf", "blocks", "depthwise", "channelwise", "attention", "attn", "mapper", "encoder", "layers", "mlp", "fc1",
    "fc2",
)  # fmt: skip
_WORD = rf"(?:{'|'.join(_WORDS)}|\d+)"
_FLAT = re.compile(rf"{_WORD}(?:_{_WORD})*")


def parse(name: str, source: str) -> list[str]:
    """Our names of the module that a file calls `name`: one, or three where it means packed attention as a whole.

    UserError: no name of a module of a cascade.
    """
    prefix = next((prefix for prefix in _READ if name.startswith(prefix)), "")
    part, rest = _READ.get(prefix, ""), name[len(prefix) :]
    dotted = _unflattened(rest) if prefix.endswith("_") else rest
    if dotted is None or (not prefix and "." not in name):
        raise UserError(source, f"has {name[:120]!r}, which is no module of a Stable Cascade; take a LoRA made for one")
    part = part or ("text" if dotted.startswith("text_") else "stage_c")
    return [f"{part}.{module}" for module in _original(dotted)]


def _unflattened(name: str) -> str | None:
    return ".".join(re.findall(_WORD, name)) if _FLAT.fullmatch(name) else None


def _original(name: str) -> list[str]:
    """A module's original names from diffusers' or its own; of packed attention all three."""
    name = re.sub(r"\.attention\.to_out\.0$", ".attention.attn.out_proj", name)
    name = re.sub(r"\.attention\.to_([qkv])$", r".attention.attn.to_\1", name)
    stem = re.sub(r"\.attn\.in_proj(_weight)?$", ".attn.", name)
    return [name] if stem == name else [f"{stem}to_{letter}" for letter in "qkv"]


def written(name: str, form: str) -> str:
    """What a form calls our `name`. UserError: no such form."""
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    part, _, module = name.partition(".")
    if form == "peft":
        module = module.replace(".attention.attn.out_proj", ".attention.to_out.0").replace(".attention.attn.", ".attention.")
    if form in FLAT:
        module = module.replace(".", "_")
    return PREFIXES[form][part] + module
