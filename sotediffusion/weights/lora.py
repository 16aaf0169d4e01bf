"""LoRA (Hu et al. 2021): a file of small changes of modules' weights, of one of the kinds in `lora_kinds`.

Files are safetensors and nothing else, in the names of kohya's trainer, ComfyUI, diffusers with PEFT, or ours.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pictures.files import beside
from ..types import UserError
from . import lora_keys
from .lora_kinds import OTHERS, SUFFIXES, Kind, Kronecker, read_kinds, tensors_of
from .tensors import Stored, in_memory, open_file, write_file

PEFT_METADATA, PEFT_FILE = "lora_adapter_metadata", "adapter_model.safetensors"
TRIGGER = "modelspec.trigger_phrase"
TEXT_MASK = "sotediffusion.text_mask"  # what the text tower saw of padding in training, as in a model's conventions


@dataclass(frozen=True)
class Lora:
    """What a file holds: changes by our names of the modules, and what it says of itself."""

    pairs: Mapping[str, Kind]
    name: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    form: str = "sote"  # whose names it was read in
    digest: str = ""  # SHA-256 over the file without its header, in hex

    @cached_property
    def identity(self) -> str:
        """Of what it does, in hex: files of one digest may still name other modules, or scale them otherwise in their header."""
        said = [(name, kind.kind, kind.scale) for name, kind in sorted(self.pairs.items(), key=lambda item: item[0])]
        return hashlib.sha256(f"{self.digest} {said}".encode()).hexdigest()

    @property
    def trigger(self) -> list[str]:
        """The words that call up what it was trained on."""
        return [word.strip() for word in self.metadata.get(TRIGGER, "").split(",") if word.strip()]

    @property
    def text_mask(self) -> str:
        """What the text tower saw of padding when it was trained, "" where nothing says it."""
        return self.metadata.get(TEXT_MASK, "")

    @property
    def ranks(self) -> list[int]:
        """The different ranks, smallest first."""
        return sorted({pair.rank for pair in self.pairs.values()})

    @property
    def kinds(self) -> list[str]:
        """What its changes are called: LoRA, DoRA, LoKr."""
        return sorted({pair.kind for pair in self.pairs.values()})


def read(path: str | Path) -> Lora:
    """Opens a file, or the folder that PEFT saves.

    UserError: not there, no safetensors, no LoRA or a kind of it that is not read, half a pair, shapes that do not meet, values
    that are not finite.
    """
    path = Path(path)
    file = path / PEFT_FILE if path.is_dir() else path
    if file.suffix not in ("", ".safetensors"):
        raise UserError("lora", f"{file} is no safetensors file; take one")
    try:
        about = file.stat()
    except OSError:
        raise UserError("lora", f"{file} is not here; give the path of a safetensors file") from None
    return _read(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Lora:
    opened = open_file(path)
    source = str(path)
    halves = _halves(opened.tensors, source)
    settings = _peft_settings(path, opened.metadata)
    pairs: dict[str, Kind] = {}
    for name, group in halves.items():
        names = lora_keys.parse(name, source)
        for ours, pair in zip(names, read_kinds(group, settings.alpha(name), len(names), f"{source}: {name}"), strict=True):
            if ours in pairs:
                raise UserError(source, f"changes {ours} twice, once as {name}; take a file of one form")
            pairs[ours] = pair
    folder = path.name == PEFT_FILE
    if folder and any(isinstance(pair, Kronecker) for pair in pairs.values()):
        raise UserError(source, "is LoKr as PEFT saves it, whose scale is not in the file; save it in another program's form")
    return Lora(pairs, path.parent.name if folder else path.stem, opened.metadata, _form(opened.tensors), digest(path))


def warn_of_mask(name: str, trained: str, cascade: Any) -> None:
    """Warn where the text tower saw padding otherwise when a file was trained than it does when this cascade draws."""
    drawn = cascade.conventions.text_mask
    if trained not in ("", drawn):
        warnings.warn(f"{name} was trained with text_mask={trained} and {cascade.name or 'this model'} draws with {drawn}; it "
                      "may do less than it learnt", stacklevel=3)


def _halves(tensors: Mapping[str, Stored], source: str) -> dict[str, dict[str, Tensor]]:
    """Loaded tensors by the file's own module names and by what they are. UserError: any other tensor."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, stored in tensors.items():
        suffix = next((suffix for suffix in SUFFIXES if key.endswith(suffix)), None)
        if suffix is None:
            kind = next((kind for mark, kind in OTHERS.items() if mark in key), None)
            what = f"which is of {kind}" if kind else "which no LoRA has"
            raise UserError(source, f"holds {key[:160]!r}, {what}; LoRA, DoRA and LoKr are read")
        groups.setdefault(key.removesuffix(suffix), {})[SUFFIXES[suffix]] = stored.load()
    if not groups:
        raise UserError(source, "is empty; take a LoRA")
    return groups


@dataclass(frozen=True)
class _Settings:
    """What PEFT writes of its scales outside of the tensors."""

    usual: dict[str, float] = field(default_factory=dict)  # by what module names begin with
    single: dict[str, float] = field(default_factory=dict)  # by what they end with

    def alpha(self, name: str) -> Tensor | None:
        own = max((key for key in self.single if name == key or name.endswith(f".{key}")), key=len, default=None)
        if own is not None:
            return torch.tensor(self.single[own])
        return next((torch.tensor(alpha) for prefix, alpha in self.usual.items() if name.startswith(prefix)), None)


def _peft_settings(path: Path, metadata: Mapping[str, str]) -> _Settings:
    """From the file's header, or from adapter_config.json beside it. UserError: written, but unreadable."""
    beside_it = path.parent / "adapter_config.json"
    text = metadata.get(PEFT_METADATA)
    if text is None and path.name == PEFT_FILE and beside_it.is_file():
        text = beside_it.read_text()
    try:
        table = {} if text is None else json.loads(text)
        settings = _Settings()
        for key, value in table.items():
            component, dot, word = key.rpartition(".")
            if word == "lora_alpha":
                settings.usual[component + dot] = float(value)
            elif word == "alpha_pattern":
                settings.single.update({component + dot + name: float(alpha) for name, alpha in value.items()})
        return settings
    except (ValueError, TypeError, AttributeError):
        raise UserError(str(path), "says nothing that can be read of its lora_alpha; save it again with PEFT") from None


def _form(tensors: Mapping[str, Stored]) -> str:
    first = min(tensors)
    if ".lora_A." in first or ".lora_B." in first:
        return "peft"
    return next((form for form, prefixes in lora_keys.PREFIXES.items() if first.startswith(tuple(prefixes.values()))), "other")


def digest(path: Path) -> str:
    """SHA-256 of what follows the header, so that a change of words alone makes no other LoRA of it."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(lora: Lora, path: str | Path, form: str = "kohya") -> Path:
    """Writes a file in one of lora_keys.FORMS, whole or not at all; tensors are kept bit by bit.

    UserError: no such form, or one without a place for such changes.
    """
    tensors: dict[str, Stored] = {}
    for name, pair in lora.pairs.items():
        theirs = lora_keys.written(name, form)
        tensors |= {theirs + suffix: in_memory(tensor) for suffix, tensor in tensors_of(pair, form, name).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as temporary:
        write_file(temporary, tensors, _header(lora, form))
    return path


def _header(lora: Lora, form: str) -> dict[str, str]:
    """What the file says of itself: the ModelSpec's fields, kohya's two, and PEFT's settings."""
    pairs = lora.pairs.values()
    alphas = [pair.scale * pair.rank for pair in pairs]
    kronecker = any(isinstance(pair, Kronecker) for pair in pairs)
    said = {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-cascade/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/StableCascade", "modelspec.title": lora.name or "lora",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ss_network_module": "lycoris.kohya" if kronecker else "networks.lora",
        "ss_network_dim": str(lora.ranks[-1]), "ss_network_alpha": f"{alphas[0]:g}",
    }  # fmt: skip
    said |= {"ss_network_args": json.dumps({"algo": "lokr"})} if kronecker else {}
    kept = {key: value for key, value in lora.metadata.items() if key != PEFT_METADATA}
    peft = {PEFT_METADATA: json.dumps(_peft_table(lora))} if form == "peft" else {}
    return {"format": "pt", **said, **kept, **peft}


def _peft_table(lora: Lora) -> dict[str, Any]:
    """Rank and alpha by component, with those of single modules where they differ."""
    table: dict[str, Any] = {}
    for part, prefix in lora_keys.PREFIXES["peft"].items():
        own = {lora_keys.written(name, "peft").removeprefix(prefix): pair for name, pair in lora.pairs.items()
               if name.startswith(f"{part}.")}  # fmt: skip
        if own:
            component = prefix.removesuffix(".")
            alphas = {name: pair.scale * pair.rank for name, pair in own.items()}
            first = next(iter(own.values()))
            table |= {
                f"{component}.r": first.rank, f"{component}.lora_alpha": next(iter(alphas.values())),
                f"{component}.rank_pattern": {name: pair.rank for name, pair in own.items() if pair.rank != first.rank},
                f"{component}.alpha_pattern": alphas, f"{component}.target_modules": sorted(own),
                f"{component}.use_dora": any(pair.magnitude is not None for pair in own.values()),
            }  # fmt: skip
    return table
