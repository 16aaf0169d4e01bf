"""Small models that stand in for the published ones where the drawn world is curated: trained here, written in their contracts.

A folder per model, as curation looks for it: `miniature-tagger` (model.onnx, selected_tags.csv), `miniature-aesthetic` and
`miniature-quality` (config.json, preprocessor_config.json, model.safetensors, and the latter's mlp.safetensors).
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModelWithProjection, ViTForImageClassification

from sotediffusion.train import checkpoint
from sotediffusion.train.data import Folder
from sotediffusion.train.loop import Options
from sotediffusion.train.parts import INIT_SEED
from sotediffusion.train.recipes import scorers, tagger
from sotediffusion.train.recipes.base import Recipe, read_part
from sotediffusion.types import UserError

FOLDERS = {name: f"miniature-{name}" for name in ("tagger", "aesthetic", "quality")}
ABOUT = "about.json"  # beside a run's weights: what shape they have
FULL_SIDE = 1024  # px, what aesthetic-shadow-v2 looks at
HALF_FROM = 1024  # numbers: smaller tensors of a tagger stay float32
OPSET = 17


@dataclass(frozen=True)
class World:
    """A data folder and the series of scenes that its pictures show."""

    folder: Folder
    seed: int


def open_world(data: Path) -> World:
    """Raises UserError for a folder that `sote train render` has not made."""
    folder = Folder(data, {"pictures": "pictures"})
    return World(folder, int(json.loads((data / "drawing.json").read_text())["seed"]))


def recipe_of(name: str, data: Path, run: Path, **shape: Any) -> tuple[Recipe, Options]:
    """The recipe of `name`, a key of WRITERS, and its default options; what an export must know is written into `run`.

    `shape` are keywords of the network's, left out where its defaults are meant. Raises UserError where `run` holds another.
    """
    world = open_world(data)
    torch.manual_seed(INIT_SEED)
    about: dict[str, Any] = {"shape": shape}
    recipe: Recipe
    if name == "tagger":
        recipe = tagger.TaggerRecipe(world.folder, **shape)
        about["tags"] = [[tag.name, tag.category, tag.count] for tag in recipe.tags]
    elif name == "aesthetic":
        recipe = scorers.AestheticRecipe(world.folder, world.seed, **shape)
    else:
        recipe = scorers.QualityRecipe(world.folder, world.seed, **shape)
    about = json.loads(json.dumps(about))
    run.mkdir(parents=True, exist_ok=True)
    path = run / ABOUT
    if path.is_file() and json.loads(path.read_text()) != about:
        raise UserError("out", f"{run} holds a {name} of another shape or of other tags; choose another folder")
    checkpoint.save_json(path, about)
    return recipe, tagger.DEFAULTS if name == "tagger" else scorers.DEFAULTS


def export(runs: Path, models: Path) -> list[Path]:
    """Write all stand-ins trained in `runs` as folders in `models`; returns their files. UserError where one is missing."""
    files = []
    for name, write in WRITERS.items():
        about = runs / name / ABOUT
        if not about.is_file() or not (runs / name / "weights.safetensors").is_file():
            raise UserError("runs", f"{runs / name} holds no trained {name}; train it first with: sote train standins {name}")
        target = models / FOLDERS[name]
        target.mkdir(parents=True, exist_ok=True)
        write(runs / name, json.loads(about.read_text()), target)
        files += sorted(path for path in target.iterdir() if path.is_file())
    return files


def write_tagger(run: Path, about: dict[str, Any], target: Path) -> None:
    """model.onnx and selected_tags.csv of a trained tagger."""
    tags = [tagger.Tag(*tag) for tag in about["tags"]]
    network = tagger.Tagger(len(tags), **about["shape"])
    read_part(run, "tagger", network)
    save_onnx(tagger.Contract(network), target / "model.onnx")
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(("tag_id", "name", "category", "count"))
    lines.writerows((number, tag.name, tag.category, tag.count) for number, tag in enumerate(tags))
    checkpoint.replace_file(target / "selected_tags.csv", lambda temporary: temporary.write_text(table.getvalue()))


def save_onnx(contract: nn.Module, path: Path) -> None:
    """A module of the WD contract as ONNX with any number of pictures, its large tensors kept as float16."""
    import onnx

    example = torch.zeros(2, tagger.SIDE, tagger.SIDE, 3)
    axes = {"input": {0: "pictures"}, "output": {0: "pictures"}}
    plain = contract.eval().to(memory_format=torch.contiguous_format)

    def write(temporary: Path) -> None:
        torch.onnx.export(plain, (example,), str(temporary), dynamo=False, input_names=["input"], output_names=["output"],
                          dynamic_axes=axes, opset_version=OPSET)  # fmt: skip
        temporary.write_bytes(halved(onnx.load_from_string(temporary.read_bytes())).SerializeToString())

    checkpoint.replace_file(path, write)


def halved(model: Any) -> Any:
    """The model with its large tensors as float16, each widened by a node of its own that is folded when it is opened."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= HALF_FROM:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def write_aesthetic(run: Path, about: dict[str, Any], target: Path) -> None:
    """A ViT of 1024 px in the contract of aesthetic-shadow-v2."""
    network = ViTForImageClassification(scorers.vit_config(**about["shape"]))
    read_part(run, "aesthetic", network)
    _save(enlarged(network, FULL_SIDE // scorers.SQUASHED, about["shape"]), target)
    size = {"height": FULL_SIDE, "width": FULL_SIDE}
    kind = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 2}
    _save_preprocessor(target, kind, scorers.SHADOW_MEAN, scorers.SHADOW_STD)


def enlarged(network: ViTForImageClassification, factor: int, shape: dict[str, Any]) -> ViTForImageClassification:
    """The same network for pictures `factor` times as large: each patch weight is spread over the pixels that were one before."""
    config = scorers.vit_config(**shape, side=scorers.SQUASHED * factor, patch=scorers.PATCH * factor)
    key = "vit.embeddings.patch_embeddings.projection.weight"
    weights = dict(network.state_dict())
    weights[key] = weights[key].repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2
    large = ViTForImageClassification(config)
    large.load_state_dict(weights)
    return large


def write_quality(run: Path, about: dict[str, Any], target: Path) -> None:
    """A vision tower with CLIP's contract, and the MLP with aes-B32-v0's keys."""
    network = CLIPVisionModelWithProjection(scorers.clip_config(**about["shape"]))
    mlp = scorers.Aes()
    read_part(run, "quality", network)
    read_part(run, "mlp", mlp)
    _save(network, target)
    checkpoint.save_tensors(target / "mlp.safetensors", {key: value.half() for key, value in mlp.state_dict().items()})
    crop = {"height": scorers.CROP, "width": scorers.CROP}
    kind = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": scorers.CROP}, "resample": 3,
            "do_center_crop": True, "crop_size": crop}  # fmt: skip
    _save_preprocessor(target, kind, scorers.CLIP_MEAN, scorers.CLIP_STD)


def _save(network: Any, target: Path) -> None:
    network.to(torch.float16).eval().save_pretrained(target, safe_serialization=True)


def _save_preprocessor(target: Path, kind: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    scaling = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    value = kind | scaling | {"image_mean": list(mean), "image_std": list(std)}
    checkpoint.save_json(target / "preprocessor_config.json", value)


WRITERS: dict[str, Callable[[Path, dict[str, Any], Path], None]] = {
    "tagger": write_tagger, "aesthetic": write_aesthetic, "quality": write_quality,
}  # fmt: skip
