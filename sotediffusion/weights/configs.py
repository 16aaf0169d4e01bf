"""Configs of networks by part, and the way to and from the `config.json` of diffusers and transformers."""

import json
from collections.abc import Mapping
from typing import Any

from ..models.cascade import PARTS
from ..models.effnet import EffNetConfig
from ..models.previewer import PreviewerConfig
from ..models.stage_a import StageAConfig
from ..models.text import TextConfig
from ..models.unet import UNetConfig
from ..types import UserError

CONFIGS = {
    "stage_c": UNetConfig, "stage_b": UNetConfig, "stage_a": StageAConfig,
    "text": TextConfig, "effnet": EffNetConfig, "previewer": PreviewerConfig,
}  # fmt: skip
assert set(CONFIGS) == set(PARTS)

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

TEXT_KEYS = {
    "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "hidden": "intermediate_size",
    "projection": "projection_dim", "vocabulary": "vocab_size", "positions": "max_position_embeddings", "act": "hidden_act",
}  # fmt: skip

OTHER_PROGRAMS_VERSION = "0.37.1"  # the last diffusers that loads what it saves of this family
LEGACY_EOS = 2  # what CLIP's published configs say while the tokenizer's end of text is the last id


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def from_config_json(part: str, text: bytes, source: str) -> Any:
    """Our config from the `config.json` beside a part's weights. UserError: unreadable, or another kind of network."""
    try:
        table = json.loads(text)
        return {"stage_c": _unet, "stage_b": _unet, "stage_a": _stage_a, "text": _text}[part](table)
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


def config_json(part: str, config: Any) -> dict[str, Any]:
    """The `config.json` that diffusers (stages) or transformers (text) expects beside a part's weights."""
    if part == "text":
        return _text_json(config)
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


def tokenizer_json(config: TextConfig) -> dict[str, Any]:
    """A `tokenizer_config.json` for a CLIP-like tokenizer that pads with its end of text."""
    return {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": config.positions,
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip


SCHEDULER_JSON = {
    "_class_name": "DDPMWuerstchenScheduler", "_diffusers_version": OTHER_PROGRAMS_VERSION, "s": 0.008, "scaler": 1.0,
}  # fmt: skip


def model_index(parts: Mapping[str, tuple[str | None, str | None]], pipeline: str) -> dict[str, Any]:
    """A `model_index.json`: component -> (library, class)."""
    return {"_class_name": pipeline, "_diffusers_version": OTHER_PROGRAMS_VERSION, **{name: list(v) for name, v in parts.items()}}
