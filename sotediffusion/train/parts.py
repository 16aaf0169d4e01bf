"""Builds the recipe of each part of a cascade in its run folder, with what it needs of parts trained before it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sotediffusion.models.cascade import SIZES, CascadeConfig
from sotediffusion.models.effnet import EffNetEncoder
from sotediffusion.models.stage_a import StageA
from sotediffusion.models.text import TextTower
from sotediffusion.text.tokenizer import FolderTokenizer
from sotediffusion.train.captions import Captioning, Captions, make_tokenizer
from sotediffusion.train.data import Folder
from sotediffusion.train.encode import encode
from sotediffusion.train.loop import Options
from sotediffusion.train.recipes import effnet, judge, stage_a, stage_b, stage_c, text
from sotediffusion.train.recipes.base import Recipe, read_part
from sotediffusion.types import UserError

INIT_SEED = 20240219  # the weights a run starts from
Progress = Callable[[str, int, int], None]  # what is being prepared, how much is done, of how much


@dataclass(frozen=True)
class Place:
    """Where a cascade is being trained: its data folder, the folder of its parts' runs, its size and device."""

    data: Path
    out: Path
    size: str = "miniature"
    device: str = "cpu"


def recipe_of(part: str, place: Place, progress: Progress) -> tuple[Recipe, Options]:
    """The recipe of `part`, a key of BUILDERS, and its default options; `progress` is told of long preparations."""
    if part not in BUILDERS:
        raise UserError("part", f"{part!r} is unknown; choose from {', '.join(BUILDERS)}")
    if place.size not in SIZES:
        raise UserError("size", f"{place.size!r} is unknown; choose from {', '.join(SIZES)}")
    if place.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device", "'cuda' needs an NVIDIA GPU and torch sees none; use cpu")
    torch.manual_seed(INIT_SEED)
    return BUILDERS[part](place, progress)


def with_tokenizer(config: CascadeConfig, tokenizer: FolderTokenizer) -> CascadeConfig:
    """The config with the text tower's end of text and vocabulary as `tokenizer` has them."""
    vocabulary = max(tokenizer.bos, tokenizer.eos, tokenizer.pad) + 1
    return replace(config, text=replace(config.text, vocabulary=vocabulary, eos=tokenizer.eos))


def trained_tokenizer(place: Place) -> FolderTokenizer:
    """The tokenizer of this cascade, learnt from the data folder's captions when first asked for."""
    return make_tokenizer(Folder(place.data, {}), SIZES[place.size].text.vocabulary, place.out / "tokenizer")


def _effnet(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    folder = Folder(place.data, {"pictures": "pictures"})
    return effnet.EffNetRecipe(SIZES[place.size], folder), effnet.DEFAULTS


def _stage_a(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    folder = Folder(place.data, {"pictures": "pictures"})
    return stage_a.StageARecipe(SIZES[place.size], folder), stage_a.DEFAULTS


def _text(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    tokenizer = trained_tokenizer(place)
    source = Folder(place.data, {})
    config = with_tokenizer(SIZES[place.size], tokenizer)
    tags = sorted({tag for entry in source.entries for some in entry.tags.values() for tag in some})
    return text.TextRecipe(config, source, Captions(tokenizer, config.text.positions, Captioning(dropout=0)), tags), text.DEFAULTS


def _stage_c(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    tokenizer = trained_tokenizer(place)
    config, tower = _tower(place, tokenizer)
    source = Folder(place.data, {"effnet": _effnet_latents(place, progress)})
    return stage_c.StageCRecipe(config, source, Captions(tokenizer, config.text.positions), tower), stage_c.DEFAULTS


def _stage_b(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    tokenizer = trained_tokenizer(place)
    config, tower = _tower(place, tokenizer)
    source = Folder(place.data, {"effnet": _effnet_latents(place, progress), "stage_a": _stage_a_latents(place, progress)})
    recipe = stage_b.StageBRecipe(config, source, Captions(tokenizer, config.text.positions), tower)
    return recipe, stage_b.DEFAULTS


def _tower(place: Place, tokenizer: FolderTokenizer) -> tuple[CascadeConfig, TextTower]:
    config = with_tokenizer(SIZES[place.size], tokenizer)
    tower = TextTower(config.text)
    read_part(place.out / "text", "text", tower)
    return config, tower.to(place.device)


def _judge(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    return judge.JudgeRecipe(Folder(place.data, {"pictures": "pictures"})), judge.JUDGE_DEFAULTS


def _probe(place: Place, progress: Progress) -> tuple[Recipe, Options]:
    source = Folder(place.data, {"effnet": _effnet_latents(place, progress)})
    return judge.ProbeRecipe(source), judge.PROBE_DEFAULTS


def _effnet_latents(place: Place, progress: Progress) -> str:
    network = EffNetEncoder(SIZES[place.size].effnet)
    read_part(place.out / "effnet", "effnet", network)
    return encode(place.data, "effnet", _ready(network, place), network, lambda *done: progress("EffNet latents", *done))


def _stage_a_latents(place: Place, progress: Progress) -> str:
    network = StageA(SIZES[place.size].stage_a)
    read_part(place.out / "stage-a", "stage_a", network)
    forward = lambda pixels: network.encode(pixels, quantize=False)  # noqa: E731
    return encode(place.data, "stage_a", _ready(network, place), forward, lambda *done: progress("Stage A latents", *done))


def _ready(network: nn.Module, place: Place) -> nn.Module:
    return network.to(place.device, memory_format=torch.channels_last)


BUILDERS = {
    "effnet": _effnet, "stage-a": _stage_a, "text": _text, "stage-c": _stage_c, "stage-b": _stage_b,
    "judge": _judge, "probe": _probe,  # no parts of a cascade: they measure it
}
