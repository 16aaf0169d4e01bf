"""Opening, saving, converting and looking at weights: the door of this room."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.cascade import SIZES, Cascade, CascadeConfig, Conventions
from ..names import unknown
from ..text.tokenizer import ClipTokenizer, FolderTokenizer
from ..types import UserError
from . import lora_merge, shapes
from .bundle import REQUIRED, WHOLE, Bundle, Choice, Part, Parts, in_order
from .lora import read as read_lora
from .reading import Where, read
from .tensors import in_memory
from .writing import FORMATS, write

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLIP_VOCABULARY = 49408

__all__ = [
    "DTYPES", "FORMATS", "Choice", "Inspection", "Parts", "convert", "inspect", "merge", "open_cascade", "present",
    "save_cascade",
]  # fmt: skip


def open_cascade(where: Where, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu",
                 choice: Choice = Choice()) -> Cascade:  # fmt: skip
    """Opens a whole cascade from any layout, ready to draw, or the parts of it that are chosen.

    `where`: a file, a folder, a TOML of parts, or parts by name. `choice`: what of it. `dtype` is what it computes in; None keeps
    every part as stored. float16 is not for Stage C, which overflows in it and gets bfloat16, or float32 where the device has
    none; `notes` of the result says so.
    Memory: no more than the weights and one tensor. UserError: anything missing, broken, unknown or not fitting.
    """
    kind, device = dtype_named(dtype), present(device)
    bundle = read(where, choice=choice)
    bundle.require(choice.parts)
    bundle.settle()
    tokenizer = _tokenizer(bundle)
    kinds, notes = _kinds(bundle, kind, device)
    networks: dict[str, Any] = dict.fromkeys(REQUIRED)
    networks |= {name: _load(part, kinds[name], device) for name, part in bundle.parts.items()}
    return Cascade(
        **networks, tokenizer=tokenizer, config=_config(bundle), conventions=bundle.conventions, name=bundle.name,
        license=bundle.license, hashes={name: part.hash for name, part in bundle.parts.items()}, notes=notes,
    )  # fmt: skip


def dtype_named(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype by its name. UserError: not one of float32, float16, bfloat16."""
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return DTYPES[dtype] if isinstance(dtype, str) else dtype


def present(device: torch.device | str | int) -> torch.device:
    """A device that is here. UserError: one that is not, or no device at all."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError("device", f"{str(device)[:80]!r} is not a device; take cpu, cuda, cuda:1 or mps") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError("device", f"{found} is not here, torch sees {torch.cuda.device_count()} such GPUs; take cpu")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device", "mps is not here; take cpu")
    return found


def _load(part: Part, dtype: torch.dtype | None, device: torch.device) -> nn.Module:
    """The network with its weights; where no file says the part's hash, it is taken of the same reading."""
    sha = hashlib.sha256()
    network, values = shapes.build(part.name, part.config), {}
    for name, tensor in part.loaded(None if part.hash else sha):
        values[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    network.load_state_dict(values, assign=True)
    part.hash = part.hash or sha.hexdigest()
    return network


def _config(bundle: Bundle) -> CascadeConfig:
    """The configs of the parts; of one that is not here, the full size's, but for an image tower: it need not be anywhere."""
    there = {name: part.config for name, part in bundle.parts.items()}
    return replace(SIZES["full"], **{"image": None, **there})


def _kinds(bundle: Bundle, dtype: torch.dtype | None, device: torch.device) -> tuple[dict[str, torch.dtype | None], list[str]]:
    """What each part computes in, and what the user should know about it."""
    kinds: dict[str, torch.dtype | None] = {name: dtype for name in bundle.parts}
    if dtype != torch.float16 or "stage_c" not in kinds:
        return kinds, []
    kinds["stage_c"], note = stage_c_kind(device)
    return kinds, [note]


def stage_c_kind(device: torch.device) -> tuple[torch.dtype, str]:
    """What Stage C computes in where float16 is asked for, and what to tell the user of it."""
    able = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else device.type == "cpu"
    kind = torch.bfloat16 if able else torch.float32
    return kind, f"stage_c computes in {str(kind)[6:]}, because it overflows in float16; the rest computes in float16"


def _tokenizer(bundle: Bundle) -> Any:
    config = bundle.parts["text"].config
    if bundle.tokenizer is None and config.vocabulary != CLIP_VOCABULARY:
        raise UserError("tokenizer", f"is missing and CLIP's has {CLIP_VOCABULARY} tokens where the text encoder knows "
                                     f"{config.vocabulary}; give its folder with --tokenizer")
    tokenizer = ClipTokenizer() if bundle.tokenizer is None else FolderTokenizer(bundle.tokenizer)
    if tokenizer.eos != config.eos:
        raise UserError("tokenizer", f"ends texts with token {tokenizer.eos} where the text encoder looks for {config.eos}; "
                                     "give the one it was trained with")
    return tokenizer


def save_cascade(cascade: Cascade, path: str | Path, format: str = "folder", dtype: torch.dtype | str | None = None,
                 over: bool = False) -> list[str]:
    """Writes an opened cascade, with `over` in the place of what is there; returns the parts that the format has no place for.

    UserError as in `convert`.
    """
    parts = {name: _part_of(name, network) for name, network in cascade.parts().items()}
    folder = cascade.tokenizer.folder if isinstance(cascade.tokenizer, FolderTokenizer) else None
    bundle = Bundle(format, parts, cascade.name, cascade.license, "", cascade.conventions, folder)
    return _write(bundle, Path(path), format, dtype_named(dtype), over)


def _part_of(name: str, network: Any) -> Part:
    tensors = {key: in_memory(tensor) for key, tensor in network.state_dict().items()}
    return Part(name, tensors, f"the opened {name}", network.config)


def convert(source: Where, target: str | Path, format: str, dtype: torch.dtype | str | None = None,
            unsafe_pickle: bool = False, choice: Choice = WHOLE) -> list[str]:
    """Writes weights in another format, tensor by tensor; returns the parts that the format has no place for.

    Parts need not be complete. `unsafe_pickle` also reads a single .ckpt, .pt or .bin file (weights only, never code).
    UserError: anything that does not fit, an unknown format, a target that is there already, no space, float16 overflow.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    bundle = read(source, unsafe_pickle, choice)
    bundle.settle()
    return _write(bundle, Path(target), format, dtype_named(dtype))


def _check_readers(bundle: Bundle, format: str) -> None:
    """UserError for a format of others' programs and a model that says what none of them would understand."""
    expects = bundle.conventions
    if format != "folder" and (expects.prediction_c, expects.prediction_b) != ("epsilon", "epsilon"):
        raise UserError("format", f"{format!r} is read by programs that take what this model says for noise, and it says v; "
                                  "write it as 'folder'")
    if format != "folder" and expects.prior_layout != "corners":
        raise UserError("format", f"{format!r} is read by programs that stretch Stage C's cells, and this model's Stage B sees "
                                  "each over its own pixels; write it as 'folder'")


def merge(source: Where, target: str | Path, loras: Sequence[tuple[str, float]], format: str = "folder",
          dtype: torch.dtype | str | None = None, name: str = "") -> list[str]:
    """Writes weights with LoRA, (path, weight) each, put into them; returns the parts that the format has no place for.

    Sums are made in float32 and rounded once. UserError: as in `convert`; a file that is no LoRA, or does not fit.
    """
    bundle, kind = read(source, choice=WHOLE), dtype_named(dtype)
    bundle.settle()
    if kind is not None:
        bundle.parts = {part: one.cast(torch.float32) for part, one in bundle.parts.items()}
    bundle = lora_merge.merge(bundle, [(read_lora(path), weight) for path, weight in loras])
    bundle.base, bundle.name = bundle.base or bundle.name, name or bundle.name
    return _write(bundle, Path(target), format, kind)


def _write(bundle: Bundle, path: Path, format: str, dtype: torch.dtype | None, over: bool = False) -> list[str]:
    _check_readers(bundle, format)
    if dtype is not None:
        bundle.parts = {name: part.cast(dtype) for name, part in bundle.parts.items()}
    for part in bundle.parts.values():
        part.hash = part.hash or part.digest()
    return write(bundle, path, format, over)


@dataclass(frozen=True)
class PartReport:
    """One part, as `inspect` found it."""

    name: str
    source: str
    size: str  # "full", "lite", "miniature", "tiny" or "custom"
    dtypes: tuple[str, ...]
    parameters: int
    bytes: int
    hash: str
    recorded: str  # the hash that the file or folder claims, "" where it claims none


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found at a path."""

    path: str
    format: str
    name: str
    license: str
    base: str
    tokenizer: str
    conventions: Conventions
    parts: list[PartReport]
    missing: list[str]
    skipped: list[str] = field(default_factory=list)


def inspect(where: Where, choice: Choice = WHOLE) -> Inspection:
    """Says what is at a path, checked and hashed tensor by tensor. UserError as `open_cascade`, but parts may be missing."""
    bundle = read(where, choice=choice)
    bundle.settle()
    parts = [_report(bundle.parts[name]) for name in in_order(bundle.parts)]
    path = str(where) if isinstance(where, (str, Path)) else "parts named one by one"
    return Inspection(
        path=path, format=bundle.format, name=bundle.name, license=bundle.license, base=bundle.base,
        tokenizer=str(bundle.tokenizer or "CLIP's, built in"), conventions=bundle.conventions, parts=parts,
        missing=bundle.missing(), skipped=bundle.skipped,
    )  # fmt: skip


def _report(part: Part) -> PartReport:
    return PartReport(
        part.name, part.source, part.size, tuple(str(kind)[6:] for kind in part.dtypes), part.parameters, part.bytes,
        part.digest(), part.hash,
    )  # fmt: skip
