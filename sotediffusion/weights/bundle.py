"""A set of weights between files and networks: its parts under original names, read lazily, and what is known of it."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.cascade import NETWORKS, PARTS, SIZES, Conventions
from ..types import UserError
from . import shapes
from .tensors import Stored, buffer, converted

REQUIRED = ("stage_c", "stage_b", "stage_a", "text")

WHERE = {  # where a missing part comes from: (flag, published place)
    "stage_c": ("--stage-c", "the prior's file or repository, e.g. stage_c_bf16.safetensors of stabilityai/stable-cascade"),
    "stage_b": ("--stage-b", "stage_b_bf16.safetensors of stabilityai/stable-cascade, or decoder/ of the decoder repository"),
    "stage_a": ("--stage-a", "stage_a.safetensors of stabilityai/stable-cascade, or vqgan/ of the decoder repository"),
    "text": ("--text-encoder", "text_encoder/ of the prior's repository, or of stabilityai/stable-cascade"),
    "effnet": ("--effnet", "effnet_encoder.safetensors of stabilityai/stable-cascade"),
    "previewer": ("--previewer", "previewer.safetensors of stabilityai/stable-cascade"),
    "image": ("--image-encoder", "image_encoder/ of stabilityai/stable-cascade-prior"),
}

LONG_NAMES = {"text_encoder": "text", "image_encoder": "image"}  # what commands and TOML call them

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Paths given part by part; `base` is a set of weights that the named parts replace parts of."""

    base: str | Path | None = None
    stage_c: str | Path | None = None
    stage_b: str | Path | None = None
    stage_a: str | Path | None = None
    text: str | Path | None = None
    effnet: str | Path | None = None
    previewer: str | Path | None = None
    image: str | Path | None = None
    tokenizer: str | Path | None = None

    @staticmethod
    def from_table(table: Mapping[str, Any], folder: Path, source: str) -> "Parts":
        """Parts from a table of paths, relative to `folder`; a tower may have its long name. UserError: an unknown name."""
        known = [f.name for f in fields(Parts)]
        paths = {LONG_NAMES.get(name, name): value for name, value in table.items()}
        for name, value in paths.items():
            if name not in known or not isinstance(value, (str, Path)):
                raise UserError(source, f"{name} is not a path of a part; known are {', '.join(known)}")
        found = {name: folder / value for name, value in paths.items()}
        if "base" in paths and not os.path.exists(found["base"]):
            found["base"] = Path(paths["base"])  # a hub id
        return Parts(**found)


@dataclass(frozen=True)
class Choice:
    """Which of what lies there is meant, where it is more than one thing."""

    parts: tuple[str, ...] = tuple(PARTS)  # those that drawing knows, where nothing is said
    variant: str = ""  # of diffusers' files: "bf16" for model.bf16.safetensors where a folder has it
    lite: bool = False  # of diffusers' folders prior_lite/ and decoder_lite/, not prior/ and decoder/


WHOLE = Choice(tuple(NETWORKS))


@dataclass
class Part:
    """One network's tensors under their original names."""

    name: str
    tensors: dict[str, Stored]
    source: str  # the file, for messages
    config: Any = None
    hash: str = ""  # of the tensors as stored, the same in every format; "" where not known yet

    @property
    def parameters(self) -> int:
        """Number of stored values."""
        return sum(tensor.count for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Size of the tensors, as stored."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The floating point kinds in it, most bytes first."""
        sizes: dict[torch.dtype, int] = {}
        for tensor in self.tensors.values():
            if tensor.dtype.is_floating_point:
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.bytes
        return sorted(sizes, key=lambda kind: -sizes[kind])

    @property
    def size(self) -> str:
        """The name of the published or own size it has, or "custom"."""
        return next((name for name, config in SIZES.items() if getattr(config, self.name) == self.config), "custom")

    def settle(self) -> None:
        """Finds the config where no file said it, and checks every tensor against it. UserError: they do not fit."""
        if self.config is None:
            self.config = shapes.infer(self.name, self.tensors, self.source)
        shapes.check(self.name, self.tensors, self.config, self.source)

    def cast(self, dtype: torch.dtype) -> "Part":
        """The same part with its floating point tensors as another kind; converted when they are read."""
        if self.dtypes == [dtype]:
            return self
        tensors = {name: converted(tensor, dtype, name) for name, tensor in self.tensors.items()}
        return Part(self.name, tensors, self.source, self.config)

    def loaded(self, sha: "hashlib._Hash | None" = None) -> Iterator[tuple[str, Tensor]]:
        """Every tensor as stored, one after the other; `sha` has taken in the part's hash when all have been read."""
        for name in sorted(self.tensors):
            tensor = self.tensors[name].load()
            if sha is not None:
                sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                sha.update(buffer(tensor))
            yield name, tensor

    def digest(self) -> str:
        """SHA-256 over names, kinds, shapes and values in the order of names: the same in every format."""
        sha = hashlib.sha256()
        for _ in self.loaded(sha):
            pass
        return sha.hexdigest()


@dataclass
class Bundle:
    """Everything that belongs together, wherever it came from."""

    format: str
    parts: dict[str, Part]
    name: str = ""
    license: str = ""
    base: str = ""  # what it was made from
    conventions: Conventions = field(default_factory=Conventions)
    tokenizer: Path | None = None  # a folder; None: CLIP's
    licence_files: list[Path] = field(default_factory=list)  # LICENSE, NOTICE and the like, to travel along
    skipped: list[str] = field(default_factory=list)  # safetensors files that are no part

    def settle(self) -> None:
        """Every part has a config that its tensors fit."""
        for part in self.parts.values():
            part.settle()

    def missing(self) -> list[str]:
        """Names of the parts that drawing needs and that are not here."""
        return [name for name in REQUIRED if name not in self.parts]

    def require(self, chosen: Collection[str] = REQUIRED) -> None:
        """UserError where a part that was chosen and that drawing needs is missing, with where to get it."""
        for name in (name for name in self.missing() if name in chosen):
            flag, place = WHERE[name]
            others = f" (besides: {', '.join(self.skipped)})" if self.skipped else ""
            raise UserError(name, f"is missing, found only {', '.join(sorted(self.parts)) or 'nothing'}{others}; "
                                  f"add it with {flag}: {place}")


def known_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What our own writer left in a file's header: {"parts": {part: {config, hash}}, "model": {...}}; empty for other files."""
    try:
        found = {name: json.loads(metadata.get(f"sotediffusion.{name}", "{}")) for name in ("parts", "model")}
    except (ValueError, TypeError):
        found = {}
    tables = {name: found.get(name) for name in ("parts", "model")}
    known: dict[str, Any] = {name: table if isinstance(table, dict) else {} for name, table in tables.items()}
    known["parts"] = {name: entry for name, entry in known["parts"].items() if isinstance(entry, dict)}
    return known


def tokenizer_in(folder: Path) -> Path | None:
    """The folder, where it holds a tokenizer."""
    whole = (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return folder if whole else None


def licence_files_in(folder: Path) -> list[Path]:
    """The texts of the terms that lie in a folder."""
    return sorted(path for pattern in ("LICENSE*", "NOTICE*") for path in folder.glob(pattern) if path.is_file())


def in_order(names: Mapping[str, Any]) -> list[str]:
    """Names of parts in the order of the cascade."""
    return [name for name in NETWORKS if name in names]
