"""Tensors that may still lie in a file: read lazily, cut and joined, written one by one. Safetensors only.

Reading is the safetensors library's; writing is ours, because the library wants every tensor of a file in memory at once.
"""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..types import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}

@dataclass(frozen=True)
class Stored:
    """A tensor somewhere, in a file or in memory: its kind and shape, and how to get it, contiguous and on the CPU."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes, as stored."""
        return self.count * self.dtype.itemsize


def buffer(tensor: Tensor) -> Any:
    """The bytes of a contiguous CPU tensor, as something that files and hashes take."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def in_memory(tensor: Tensor) -> Stored:
    """A tensor that is already here, on any device."""
    return Stored(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().cpu().contiguous())


def rows(source: Stored, first: int, last: int) -> Stored:
    """Rows first..last of `source` along its first axis."""
    return Stored(source.dtype, (last - first, *source.shape[1:]), lambda: source.load()[first:last])


def stacked(sources: list[Stored]) -> Stored:
    """Sources one below the other along the first axis."""
    shape = (sum(source.shape[0] for source in sources), *sources[0].shape[1:])
    return Stored(sources[0].dtype, shape, lambda: torch.cat([source.load() for source in sources]))


def transposed(source: Stored) -> Stored:
    """A matrix with rows and columns exchanged."""
    return Stored(source.dtype, (source.shape[1], source.shape[0]), lambda: source.load().T.contiguous())


def converted(source: Stored, dtype: torch.dtype, name: str) -> Stored:
    """A floating point tensor as another kind, others as they are. Loading it is a UserError where a finite value overflows."""
    if not source.dtype.is_floating_point or source.dtype == dtype:
        return source

    def load() -> Tensor:
        tensor = source.load()
        narrow = tensor.to(dtype)
        if not torch.isfinite(narrow).all() and torch.isfinite(tensor).all():
            raise UserError("dtype", f"tensor {name} reaches {tensor.abs().max():.4g} and overflows {str(dtype)[6:]} "
                                     f"(at most {torch.finfo(dtype).max:.4g}); use bfloat16 or float32")
        return narrow

    return Stored(dtype, source.shape, load)


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file, opened: names and kinds of its tensors, and the free text of its header."""

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]


def open_file(path: Path) -> TensorFile:
    """Reads the header of a safetensors file. UserError: missing, cut short, or not safetensors at all."""
    if not path.is_file():
        raise UserError(str(path), "there is no such file; check the path")
    try:
        # Not mapped into memory: a mapped file would count beside its converted copy, and a later change of it would crash.
        file = safe_open(path, "pt", backend="pread")
        tensors = {name: _in_file(path, file, name) for name in file.offset_keys()}
        return TensorFile(path, tensors, file.metadata() or {})
    except SafetensorError as error:
        raise _unreadable(path, str(error)) from None


def _in_file(path: Path, file: Any, name: str) -> Stored:
    part = file.get_slice(name)
    code = part.get_dtype()
    if code not in DTYPES:
        raise UserError(str(path), f"tensor {name} is stored as {code}; readable are {', '.join(DTYPES)}")

    def load() -> Tensor:
        try:
            return file.get_tensor(name)
        except SafetensorError:
            raise UserError(str(path), "the file became shorter while it was read; check the disk and try again") from None

    return Stored(DTYPES[code], tuple(part.get_shape()), load)


def _unreadable(path: Path, reason: str) -> UserError:
    with path.open("rb") as file:
        start = file.read(2)
    if start.startswith((b"PK", b"\x80")) and "header too large" in reason:
        advice = "`sote weights convert --unsafe-pickle` reads a pickle you trust"
        return UserError(str(path), f"is a pickle; only safetensors are opened; {advice}")
    if not start:
        return UserError(str(path), "is an empty file; download it again")
    if reason.endswith(("header too small", "invalid header length", "file not fully covered")):
        return UserError(str(path), "is cut short, or longer than its header says; download it again")
    return UserError(str(path), f"is unfinished or foreign ({reason.rpartition('header: ')[2]}); only safetensors are opened")


def open_index(path: Path) -> TensorFile:
    """Opens the shards that a `*.safetensors.index.json` names as if they were one file."""
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        raise UserError(str(path), "is no weights file, nor an index of shards; give a folder or a .safetensors") from None
    shards = [open_file(path.parent / Path(name).name) for name in names]
    tensors = {key: tensor for shard in shards for key, tensor in shard.tensors.items()}
    return TensorFile(path, tensors, shards[0].metadata if shards else {})


def write_file(path: Path, tensors: Mapping[str, Stored], metadata: dict[str, str]) -> None:
    """Writes one safetensors file to `path` and syncs it; one tensor at a time is in memory."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps every tensor aligned
    with path.open("wb") as file:
        file.write(_header(order, tensors, metadata))
        for name in order:
            file.write(buffer(tensors[name].load()))
        file.flush()
        os.fsync(file.fileno())


def _header(order: list[str], tensors: Mapping[str, Stored], metadata: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    first = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, first + tensor.bytes]}
        first += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def open_pickle(path: Path) -> TensorFile:
    """Opens a pickled table of tensors, weights only; a `state_dict` wrapper is taken off. UserError: anything else in it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises nothing narrower
        reason = str(error).splitlines()[0]
        raise UserError(str(path), f"is not a pickle of tensors alone ({reason}); take a safetensors file") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {str(name): in_memory(value) for name, value in content.items() if isinstance(value, Tensor)}
    return TensorFile(path, tensors, {})
