"""Configs of networks by part, and the way to and from the `config.json` of diffusers and transformers."""

import json
from collections.abc import Mapping
from typing import Any

from ..models.cascade import NETWORKS
from ..models.effnet import EffNetConfig
from ..models.image_encoder import ImageConfig
from ..models.previewer import PreviewerConfig
from ..models.stage_a import StageAConfig
from ..models.text import TextConfig
from ..models.unet import UNetConfig
from ..types import UserError

CONFIGS = {
    "stage_c": UNetConfig, "stage_b": UNetConfig, "stage_a": StageAConfig,
    "text": TextConfig, "effnet": EffNetConfig, "previewer": PreviewerConfig, "image": ImageConfig,
}  # fmt: skip
assert set(CONFIGS) == set(NETWORKS)

BLOCKS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}

UNET_KEYS = {  # ours: diffusers'
    "c_r": "timestep_ratio_embedding_dim", "patch": "patch_size", "c_cond": "conditioning_dim", "widths": "block_out_channels",
    "heads": "num_attention_heads", "down": "down_num_layers_per_block", "up": "up_num_layers_per_block",
    "down_repeats": "down_blocks_repeat_mappers", "up_repeats": "up_blocks_repeat_mappers", "switch_level": "switch_level",
    "dropout": "dropout", "kernel": "kernel_size", "conds": "timestep_conditioning_type", "c_text": "clip_text_in_channels",
    "c_pooled": "clip_text_pooled_in_channels", "c_image": "clip_image_in_channels", "c_seq": "clip_seq",
    "c_effnet": "effnet_in_channels", "c_pixels": "pixel_mapper_in_channels", "c_latent": "in_channels",
}  # fmt: skip

STAGE_A_KEYS = {
    "width": "embed_dim", "bottleneck": "bottleneck_blocks", "c_latent": "latent_channels", "codebook": "num_vq_embeddings",
    "scale": "scale_factor",
}  # fmt: skip

TOWER_KEYS = {
    "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "hidden": "intermediate_size",
    "projection": "projection_dim", "act": "hidden_act",
}  # fmt: skip
TEXT_KEYS = {**TOWER_KEYS, "vocabulary": "vocab_size", "positions": "max_position_embeddings"}
IMAGE_KEYS = {**TOWER_KEYS, "size": "image_size", "patch": "patch_size"}

OTHER_PROGRAMS_VERSION = "0.37.1"  # the last diffusers that loads what it saves of this family
LEGACY_EOS = 2  # what CLIP's published configs say while the tokenizer's end of text is the last id


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def from_config_json(part: str, text: bytes, source: str) -> Any:
    """Our config from the `config.json` beside a part's weights. UserError: unreadable, or another kind of network."""
    try:
        table = json.loads(text)
        return {"stage_c": _unet, "stage_b": _unet, "stage_a": _stage_a, "text": _text, "image": _image}[part](table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(source, f"is not the config of {part} ({error}); download it again") from None


def _unet(table: dict[str, Any]) -> UNetConfig:
    missing = [theirs for theirs in UNET_KEYS.values() if theirs not in table and theirs not in _UNET_OPTIONAL]
    if missing:
        raise KeyError(missing[0])
    values = {ours: _frozen(table[theirs]) for ours, theirs in UNET_KEYS.items() if theirs in table}
    for name in ("c_text", "c_image", "c_effnet", "c_pixels"):
        values[name] = values.get(name) or 0
    letters = {theirs: letter for letter, theirs in BLOCKS.items()}
    values["levels"] = tuple("".join(letters[kind] for kind in level) for level in table["block_types_per_layer"])
    values["self_attn"] = _one(table.get("self_attn", True))
    if not isinstance(values["dropout"], tuple):
        values["dropout"] = (values["dropout"],) * len(values["widths"])
    return UNetConfig(**values)


_UNET_OPTIONAL = (
    "switch_level", "clip_text_in_channels", "clip_image_in_channels", "effnet_in_channels", "pixel_mapper_in_channels",
)  # fmt: skip


def _one(value: Any) -> Any:
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise ValueError("self_attn differs between levels")
        return value[0]
    return value


def _stage_a(table: dict[str, Any]) -> StageAConfig:
    if table.get("levels", 2) != 2 or table.get("up_down_scale_factor", 2) != 2:
        raise ValueError("only two levels and a scale factor of 2 a level are known")
    return StageAConfig(**{ours: table[theirs] for ours, theirs in STAGE_A_KEYS.items()})


def _text(table: dict[str, Any]) -> TextConfig:
    table = {**_TEXT_DEFAULTS, **table}
    eos = table.get("eos_token_id", LEGACY_EOS)
    eos = table["vocab_size"] - 1 if eos == LEGACY_EOS else eos
    return TextConfig(eos=eos, **{ours: table[theirs] for ours, theirs in TEXT_KEYS.items()})


_TEXT_DEFAULTS = {  # transformers leaves out what equals its own defaults in some versions
    "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048, "projection_dim": 512,
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip


def _image(table: dict[str, Any]) -> ImageConfig:
    table = {**_IMAGE_DEFAULTS, **table}
    return ImageConfig(**{ours: table[theirs] for ours, theirs in IMAGE_KEYS.items()})


_IMAGE_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "projection_dim": 512,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
}  # fmt: skip


def config_json(part: str, config: Any) -> dict[str, Any]:
    """The `config.json` that diffusers (stages) or transformers (towers) expects beside a part's weights."""
    if part in ("text", "image"):
        return _text_json(config) if part == "text" else _image_json(config)
    if part == "stage_a":
        table = {theirs: getattr(config, ours) for ours, theirs in STAGE_A_KEYS.items()}
        shape = {"in_channels": 3, "out_channels": 3, "up_down_scale_factor": 2, "levels": 2}
        return {"_class_name": "PaellaVQModel", "_diffusers_version": OTHER_PROGRAMS_VERSION, **shape, **table}
    table = {theirs: getattr(config, ours) for ours, theirs in UNET_KEYS.items()}
    for name in _UNET_OPTIONAL[1:]:
        table[name] = table[name] or None
    table["out_channels"] = config.c_latent
    table["self_attn"] = config.self_attn
    table["block_types_per_layer"] = [[BLOCKS[letter] for letter in level] for level in config.levels]
    return {"_class_name": "StableCascadeUNet", "_diffusers_version": OTHER_PROGRAMS_VERSION, **table}


def _text_json(config: TextConfig) -> dict[str, Any]:
    table = {theirs: getattr(config, ours) for ours, theirs in TEXT_KEYS.items()}
    return {
        "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", **table, "eos_token_id": config.eos,
        "layer_norm_eps": 1e-5, "attention_dropout": 0.0,
    }  # fmt: skip


def _image_json(config: ImageConfig) -> dict[str, Any]:
    table = {theirs: getattr(config, ours) for ours, theirs in IMAGE_KEYS.items()}
    kind = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"}
    return {**kind, **table, "num_channels": 3, "layer_norm_eps": 1e-5, "attention_dropout": 0.0}


def extractor_json(config: ImageConfig) -> dict[str, Any]:
    """A `preprocessor_config.json` by which transformers prepares pictures as `pipelines.image_prompt` does."""
    side = {"height": config.size, "width": config.size}
    return {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": config.size}, "resample": 3,
        "do_center_crop": True, "crop_size": side, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD, "do_convert_rgb": True,
    }  # fmt: skip


def tokenizer_json(config: TextConfig) -> dict[str, Any]:
    """A `tokenizer_config.json` for a CLIP-like tokenizer that pads with its end of text."""
    return {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": config.positions,
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip


IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]  # CLIP's, of red, green and blue
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]

SCHEDULER_JSON = {
    "_class_name": "DDPMWuerstchenScheduler", "_diffusers_version": OTHER_PROGRAMS_VERSION, "s": 0.008, "scaler": 1.0,
}  # fmt: skip


def model_index(parts: Mapping[str, tuple[str | None, str | None]], pipeline: str) -> dict[str, Any]:
    """A `model_index.json`: component -> (library, class)."""
    return {"_class_name": pipeline, "_diffusers_version": OTHER_PROGRAMS_VERSION, **{name: list(v) for name, v in parts.items()}}
