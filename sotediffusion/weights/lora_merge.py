"""Putting LoRA into weights: which tensor a pair changes, whether it fits, and the sum, in float32 and rounded once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..types import UserError
from . import shapes
from .bundle import Bundle, Part
from .lora import Lora
from .lora_keys import PARTS
from .lora_kinds import Kind
from .tensors import Stored

Weighted = Sequence[tuple[Lora, float]]


@dataclass(frozen=True)
class Place:
    """Where a module's weight lies: rows of a tensor."""

    tensor: str
    first: int
    last: int
    columns: int


@dataclass(frozen=True)
class Change:
    """A change of rows of a tensor, and how much of it."""

    place: Place
    pair: Kind
    weight: float


def places(part: str, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """By our names of modules, everything in a part that a pair may change; packed attention as q, k and v."""
    found: dict[str, Place] = {}
    for tensor, size in sizes.items():
        columns = prod(size[1:])
        if tensor.endswith(".in_proj_weight"):
            stem, third = tensor.removesuffix("in_proj_weight"), size[0] // 3
            for i, letter in enumerate("qkv"):
                found[f"{part}.{stem}to_{letter}"] = Place(tensor, i * third, (i + 1) * third, columns)
        elif tensor.endswith(".weight") and len(size) in (2, 4) and not tensor.endswith("_embedding.weight"):
            found[f"{part}.{tensor.removesuffix('.weight')}"] = Place(tensor, 0, size[0], columns)
    return found


def changes(part: str, sizes: Mapping[str, tuple[int, ...]], loras: Weighted) -> dict[str, list[Change]]:
    """What is to be done to each tensor of a part. UserError: a module that is not there, or has another shape."""
    known = places(part, sizes)
    found: dict[str, list[Change]] = {}
    for lora, weight in loras:
        for name, pair in lora.pairs.items():
            if name.startswith(f"{part}."):
                place = known.get(name)
                if place is None:
                    raise UserError("lora", f"{lora.name} changes {name}, which this model has not; it was made for another size")
                _check(lora, name, pair, place)
                found.setdefault(place.tensor, []).append(Change(place, pair, weight))
    return found


def _check(lora: Lora, name: str, pair: Kind, place: Place) -> None:
    theirs = pair.shape
    ours = (place.last - place.first, place.columns)
    if theirs != ours:
        raise UserError("lora", f"{lora.name} changes {name} as {theirs[0]}x{theirs[1]} where this model has "
                                f"{ours[0]}x{ours[1]}; it was made for another size")


def merged(weight: Tensor, made: Sequence[Change]) -> Tensor:
    """A weight with its changes, of its kind, on its device and laid out in memory as it is."""
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    flat, own = wide.flatten(1), weight.detach().flatten(1)
    for change in made:
        rows = slice(change.place.first, change.place.last)
        flat[rows] += change.pair.change(change.weight, own[rows]).to(flat.dtype)
    return torch.empty_like(weight).copy_(flat.reshape(weight.shape))


@torch.inference_mode(False)
@torch.no_grad()
def network_with(part: str, network: Any, loras: Weighted) -> nn.Module | None:
    """A second network with the changes, which shares all other tensors with the first; None where nothing is changed."""
    weights = dict(network.named_parameters())
    made = changes(part, {name: tuple(weight.shape) for name, weight in weights.items()}, loras)
    if not made:
        return None
    second = sharing(part, network)
    for tensor, own in made.items():
        owner, _, leaf = tensor.rpartition(".")
        second.get_submodule(owner)._parameters[leaf] = nn.Parameter(merged(weights[tensor], own), requires_grad=False)
    return second


def sharing(part: str, network: Any) -> nn.Module:
    """A second network on the very tensors of the first, in the state for drawing."""
    second = shapes.build(part, network.config)
    sources = dict(network.named_modules())
    for name, module in second.named_modules():
        module._parameters.update(sources[name]._parameters)
        module._buffers.update(sources[name]._buffers)
    return second


def merge(bundle: Bundle, loras: Weighted) -> Bundle:
    """Weights on disk with the changes, made as they are read. UserError: a part that a LoRA changes is not there."""
    loras = sorted(loras, key=lambda own: own[0].identity)  # as drawing adds them, to the bit
    for lora, _ in loras:
        for part in PARTS:
            if part not in bundle.parts and any(name.startswith(f"{part}.") for name in lora.pairs):
                raise UserError("lora", f"{lora.name} changes {part}, which is not among these weights; add it")
    for name in PARTS:
        if name in bundle.parts:
            bundle.parts[name] = _merged_part(bundle.parts[name], loras)
    return bundle


def _merged_part(part: Part, loras: Weighted) -> Part:
    made = changes(part.name, {name: tensor.shape for name, tensor in part.tensors.items()}, loras)
    if not made:
        return part
    tensors = {name: _lazily(tensor, made[name]) if name in made else tensor for name, tensor in part.tensors.items()}
    return Part(part.name, tensors, part.source, part.config)


def _lazily(source: Stored, made: Sequence[Change]) -> Stored:
    return Stored(source.dtype, source.shape, lambda: merged(source.load(), made))
