"""Sets of LoRA that pictures are drawn with: found by name, opened, put into networks once for all pictures of a set."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..models.cascade import Cascade
from ..types import UserError
from .lora import Lora, read, warn_of_mask
from .lora_keys import PARTS
from .lora_merge import network_with

KEPT = 2  # sets whose weights stay when nothing is drawn with them
SUFFIX = ".safetensors"

Key = tuple[tuple[str, float], ...]  # (identity, weight) of each, in their order


@dataclass(frozen=True)
class LoraSet:
    """LoRA with their weights, and the networks that have them."""

    key: Key = ()  # sets with equal keys draw equal pictures
    about: tuple[dict[str, Any], ...] = ()  # name, weight and hash of each, as it was asked for
    networks: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)  # by part; others are the model's own
    words: str = ""  # what the names and trigger words of those with a weight above 0 say
    avoided: str = ""  # and of those below 0
    bytes: int = 0  # of weights that the networks do not share with the model


@dataclass(frozen=True)
class Worn:
    """What a cascade keeps of a set: the networks it was put into, which must still be the cascade's own, and those it made."""

    bases: dict[str, nn.Module]
    kinds: dict[str, Any]
    networks: dict[str, nn.Module]
    bytes: int

    def fits(self, cascade: Cascade) -> bool:
        """Whether the cascade is still the one that they were made from."""
        return all(getattr(cascade, part) is base and _kind(base) == self.kinds[part] for part, base in self.bases.items())


def find(name: str, folders: Iterable[Path], field: str = "lora") -> Path:
    """The file of a LoRA, or of what `field` says, given as a path or by its name in one of the folders. UserError: nowhere."""
    folders = list(folders)
    for path in (Path(name), *(folder / name for folder in folders), *(folder / f"{name}{SUFFIX}" for folder in folders)):
        if os.path.isfile(path) or os.path.isfile(path / "adapter_model.safetensors"):
            return path
    places = ", ".join(str(folder) for folder in folders)
    also = f" nor in {places}" if places else ""
    raise UserError(field, f"{name[:200]} is not here{also}; give the path of a safetensors file")


def wear(cascade: Cascade, wanted: Sequence[tuple[str, float]]) -> LoraSet:
    """The set of these (path, weight) on a cascade, whose own weights stay. UserError: not a LoRA, or it does not fit."""
    if not wanted:
        return LoraSet()
    opened = [(read(path), float(weight)) for path, weight in wanted]
    for lora, _ in opened:
        warn_of_mask(lora.name, lora.text_mask, cascade)
    totals: dict[str, tuple[Lora, float]] = {}
    for lora, weight in opened:
        totals[lora.identity] = (lora, weight + (totals[lora.identity][1] if lora.identity in totals else 0))
    effective = sorted(((lora, weight) for lora, weight in totals.values() if weight), key=lambda pair: pair[0].identity)
    key = tuple((lora.identity, weight) for lora, weight in effective)
    about = tuple({"name": lora.name, "weight": weight, "hash": lora.digest} for lora, weight in opened)
    words, avoided = (", ".join(_words(lora) for lora, weight in effective if (weight > 0) is liked) for liked in (True, False))
    if not key:
        return LoraSet(about=about)
    worn = _worn(cascade, key, effective)
    return LoraSet(key, about, worn.networks, words, avoided, worn.bytes)


def _worn(cascade: Cascade, key: Key, effective: Sequence[tuple[Lora, float]]) -> Worn:
    """Made once; the last KEPT sets stay with the cascade, others only while a picture is drawn with them."""
    worn = cascade.worn.pop(key, None)
    if worn is None or not worn.fits(cascade):
        networks = {part: network_with(part, getattr(cascade, part), effective) for part in PARTS}
        made = {part: network for part, network in networks.items() if network is not None}
        bases = {part: getattr(cascade, part) for part in PARTS}
        own = sum(_own_bytes(network, bases[part]) for part, network in made.items())
        worn = Worn(bases, {part: _kind(base) for part, base in bases.items()}, made, own)
    cascade.worn[key] = worn
    while len(cascade.worn) > KEPT:
        del cascade.worn[next(iter(cascade.worn))]
    return worn


def _own_bytes(network: nn.Module, base: nn.Module) -> int:
    shared = {id(weight) for weight in base.parameters()}
    return sum(weight.nbytes for weight in network.parameters() if id(weight) not in shared)


def take_off(cascade: Cascade) -> None:
    """Forgets the networks of all sets; pictures under way keep theirs."""
    cascade.worn.clear()


def _kind(network: nn.Module) -> Any:
    return next(network.parameters()).dtype


def _words(lora: Lora) -> str:
    """A file's name and trigger words as a prompt would say them, without anything that means something in one."""
    return re.sub(r"[^\w', ]+", " ", ", ".join([lora.name, *lora.trigger])).replace("_", " ")
