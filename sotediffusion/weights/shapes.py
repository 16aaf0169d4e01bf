"""What the tensors themselves say about a network: its config from shapes, and whether they are exactly its tensors."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..models.cascade import NETWORKS, SIZES
from ..models.effnet import EffNetConfig
from ..models.image_encoder import ImageConfig
from ..models.previewer import PreviewerConfig
from ..models.stage_a import StageAConfig
from ..models.text import TextConfig, TowerConfig
from ..models.unet import UNetConfig
from ..types import UserError
from .tensors import Stored

HEADS = {2048: 32, 1536: 24, 1280: 20, 1152: 18, 1024: 16, 768: 12, 576: 9}  # by width, as published; shapes do not tell them

ADVICE = "take the file from where the model was published"

Shapes = Mapping[str, tuple[int, ...]]


def build(part: str, config: Any) -> nn.Module:
    """The network of a part without memory for its weights."""
    with torch.device("meta"):
        return NETWORKS[part](config).eval()


def check(part: str, tensors: Mapping[str, Stored], config: Any, source: str) -> None:
    """UserError unless the tensors are exactly those of the network: none missing, none extra, none of another shape."""
    try:
        wanted = {name: tuple(tensor.shape) for name, tensor in build(part, config).state_dict().items()}
    except Exception as error:  # a config from a file may say anything
        raise UserError(source, f"the config of {part} describes no network ({error}); {ADVICE}") from error
    for width, heads in _attention(config):
        if heads < 1 or width % heads:
            trouble = f"{part} has {heads} attention heads for a width of {width}, which they must divide"
            raise UserError(source, f"{trouble}; {ADVICE}")
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    bent = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    if missing:
        raise UserError(source, f"{part} lacks {_some(missing)}; {ADVICE}")
    if extra:
        raise UserError(source, f"{part} has unknown {_some(extra)}; {ADVICE}")
    if bent:
        name = bent[0]
        raise UserError(source, f"{part} has {name} of shape {tensors[name].shape} where its config asks for {wanted[name]}"
                                f"{_more(bent)}; take weights and config from the same model")


def _attention(config: Any) -> list[tuple[int, int]]:
    """Width and heads wherever a network attends."""
    if isinstance(config, TowerConfig):
        return [(config.width, config.heads)]
    if isinstance(config, UNetConfig):
        levels = zip(config.widths, config.heads, config.levels, strict=False)
        return [(width, heads) for width, heads, level in levels if "A" in level]
    return []


def _some(names: list[str]) -> str:
    return f"tensor {names[0]}{_more(names)}"


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def infer(part: str, tensors: Mapping[str, Stored], source: str) -> Any:
    """The config of a part from the shapes of its tensors. UserError where shapes do not tell it and no known size fits."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        return _READERS[part](shapes)
    except KeyError as missing:
        raise UserError(source, f"{part} lacks tensor {missing.args[0]}; {ADVICE}") from None
    except _Unclear as unclear:
        return _known_size(part, shapes, f"{source}: {unclear}")


def _known_size(part: str, shapes: Shapes, trouble: str) -> Any:
    for config in (getattr(size, part) for size in SIZES.values() if getattr(size, part) is not None):
        if shapes == {name: tuple(tensor.shape) for name, tensor in build(part, config).state_dict().items()}:
            return config
    raise UserError(part, f"{trouble}; put its config.json beside the file or give a model folder")


class _Unclear(Exception):
    pass


def _numbers(shapes: Iterable[str], pattern: str) -> list[int]:
    """The different numbers that stand where `pattern` has its group, in order."""
    return sorted({int(found[1]) for name in shapes if (found := re.match(pattern, name))})


def _unet(shapes: Shapes) -> UNetConfig:
    levels = len(_numbers(shapes, r"down_blocks\.(\d+)\."))
    widths = tuple(shapes[f"down_blocks.{i}.0.depthwise.weight"][0] for i in range(levels))
    kinds = tuple(_layer(shapes, i) for i in range(levels))
    is_c = "clip_txt_mapper.weight" in shapes
    c_cond = shapes["clip_txt_mapper.weight"][0] if is_c else _c_cond(shapes, widths)
    pooled = shapes["clip_txt_pooled_mapper.weight" if is_c else "clip_mapper.weight"]
    stem = shapes["embedding.1.weight"][1]
    patch = 1 if is_c else 2
    return UNetConfig(
        c_latent=stem // patch**2, patch=patch, c_r=shapes["down_blocks.0.1.mapper.weight"][1], c_cond=c_cond, widths=widths,
        heads=tuple(_heads(width) if "A" in kind else HEADS.get(width, -1) for width, kind in zip(widths, kinds, strict=True)),
        down=_layers(shapes, "down", kinds), up=_layers(shapes, "up", kinds[::-1]),
        down_repeats=_repeats(shapes, "down", levels), up_repeats=_repeats(shapes, "up", levels), levels=kinds,
        switch_level=(False,) * (levels - 1) if "down_downscalers.1.1.blocks.0.weight" in shapes else None,
        dropout=tuple(0.1 if "A" in kind else 0.0 for kind in kinds), kernel=shapes["down_blocks.0.0.depthwise.weight"][-1],
        conds=tuple(c for c in ("sca", "crp") if f"down_blocks.0.1.mapper_{c}.weight" in shapes),
        c_text=shapes["clip_txt_mapper.weight"][1] if is_c else 0, c_pooled=pooled[1],
        c_image=shapes["clip_img_mapper.weight"][1] if is_c else 0, c_seq=pooled[0] // c_cond,
        c_effnet=0 if is_c else shapes["effnet_mapper.0.weight"][1], c_pixels=0 if is_c else shapes["pixels_mapper.0.weight"][1],
    )  # fmt: skip


def _c_cond(shapes: Shapes, widths: tuple[int, ...]) -> int:
    for name, shape in shapes.items():
        if name.endswith("kv_mapper.1.weight"):
            return shape[1]
    return widths[-1]


def _layer(shapes: Shapes, level: int) -> str:
    """What one layer of a level is made of, as "CT" or "CTA"."""
    kinds = [_block(shapes, f"down_blocks.{level}.{j}.") for j in _numbers(shapes, rf"down_blocks\.{level}\.(\d+)\.")]
    text = "".join(kinds)
    return text[: text.find("C", 1)] if text.find("C", 1) > 0 else text


def _block(shapes: Shapes, prefix: str) -> str:
    if f"{prefix}attention.attn.in_proj_weight" in shapes:
        return "A"
    return "T" if f"{prefix}mapper.weight" in shapes else "C"


def _layers(shapes: Shapes, side: str, kinds: tuple[str, ...]) -> tuple[int, ...]:
    counts = (len(_numbers(shapes, rf"{side}_blocks\.{i}\.(\d+)\.")) for i in range(len(kinds)))
    return tuple(count // len(kind) for count, kind in zip(counts, kinds, strict=True))


def _repeats(shapes: Shapes, side: str, levels: int) -> tuple[int, ...]:
    return tuple(1 + len(_numbers(shapes, rf"{side}_repeat_mappers\.{i}\.(\d+)\.")) for i in range(levels))


def _heads(width: int) -> int:
    if width not in HEADS:
        raise _Unclear(f"shapes do not tell the number of attention heads of width {width}")
    return HEADS[width]


def _stage_a(shapes: Shapes) -> StageAConfig:
    codebook, c_latent = shapes["vquantizer.codebook.weight"]
    width = shapes["down_blocks.1.weight"][0]
    return StageAConfig(width, len(_numbers(shapes, r"up_blocks\.(\d+)\.gammas")) - 1, c_latent, codebook)


def _text(shapes: Shapes) -> TextConfig:
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return TextConfig(
        width=width, layers=len(_numbers(shapes, r"text_model\.encoder\.layers\.(\d+)\.")), heads=_heads(width),
        hidden=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0], projection=shapes["text_projection.weight"][0],
        vocabulary=vocabulary, positions=shapes["text_model.embeddings.position_embedding.weight"][0],
        eos=vocabulary - 1, act="quick_gelu" if width == 768 else "gelu",  # OpenAI's ViT-L/14 alone has it
    )  # fmt: skip


def _image(shapes: Shapes) -> ImageConfig:
    width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
    places, _ = shapes["vision_model.embeddings.position_embedding.weight"]
    return ImageConfig(
        width=width, layers=len(_numbers(shapes, r"vision_model\.encoder\.layers\.(\d+)\.")), heads=_heads(width),
        hidden=shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0], projection=shapes["visual_projection.weight"][0],
        size=math.isqrt(places - 1) * patch, patch=patch,
    )  # fmt: skip


def _effnet(shapes: Shapes) -> EffNetConfig:
    stages = range(1, max(_numbers(shapes, r"backbone\.(\d+)\.")))
    first = {i: shapes[f"backbone.{i}.0.block.0.0.weight"] for i in stages}
    last = {i: max(_numbers(shapes, rf"backbone\.{i}\.0\.block\.(\d+)\.")) for i in stages}
    return EffNetConfig(
        stem=shapes["backbone.0.0.weight"][0],
        widths=tuple(shapes[f"backbone.{i}.0.block.{last[i]}.0.weight"][0] for i in stages),
        layers=tuple(len(_numbers(shapes, rf"backbone\.{i}\.(\d+)\.")) for i in stages),
        expand=tuple(1 if last[i] == 0 else first[i][0] // first[i][1] for i in stages),
        fused=sum(first[i][-1] == 3 for i in stages), head=shapes[f"backbone.{stages[-1] + 1}.0.weight"][0],
        c_latent=shapes["mapper.0.weight"][0],
    )  # fmt: skip


def _previewer(shapes: Shapes) -> PreviewerConfig:
    return PreviewerConfig(*shapes["blocks.0.weight"][:2])


_READERS: dict[str, Callable[[Shapes], Any]] = {
    "stage_c": _unet, "stage_b": _unet, "stage_a": _stage_a, "text": _text, "effnet": _effnet, "previewer": _previewer,
    "image": _image,
}  # fmt: skip
