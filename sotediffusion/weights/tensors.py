"""Tensors that may still lie in a file: read lazily, cut and joined without copies, written one by one. Safetensors only."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..types import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
HEADER_LIMIT = 100_000_000  # bytes, the format's own limit

Fill = Callable[[Tensor, int], None]  # (flat uint8 tensor to fill, first byte of the source)


@dataclass(frozen=True)
class Stored:
    """A tensor somewhere, in a file or in memory: its kind, and how to copy a range of its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fill: Fill

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes, as stored."""
        return self.count * self.dtype.itemsize

    def load(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor in memory of its own; `dtype` changes floating point tensors only."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.fill(raw(tensor), 0)
        return tensor.to(dtype) if dtype is not None and self.dtype.is_floating_point else tensor


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor as a flat uint8 view."""
    return tensor.detach().reshape(-1).view(torch.uint8)


def buffer(tensor: Tensor) -> Any:
    """The bytes of a contiguous CPU tensor as a writable buffer that files read into and write from."""
    return raw(tensor).numpy()


def in_memory(tensor: Tensor) -> Stored:
    """A tensor that is already here, on any device."""

    def fill(out: Tensor, first: int) -> None:
        out.copy_(raw(tensor.contiguous())[first : first + out.numel()])

    return Stored(tensor.dtype, tuple(tensor.shape), fill)


def rows(source: Stored, first: int, last: int) -> Stored:
    """Rows first..last of `source` along its first axis."""
    row = source.bytes // source.shape[0]
    return Stored(source.dtype, (last - first, *source.shape[1:]), lambda out, at: source.fill(out, first * row + at))


def stacked(sources: list[Stored]) -> Stored:
    """Sources one below the other along the first axis."""

    def fill(out: Tensor, first: int) -> None:
        start = 0
        for source in sources:
            a, b = max(first, start), min(first + out.numel(), start + source.bytes)
            if a < b:
                source.fill(out[a - first : b - first], a - start)
            start += source.bytes

    return Stored(sources[0].dtype, (sum(s.shape[0] for s in sources), *sources[0].shape[1:]), fill)


def transposed(source: Stored) -> Stored:
    """A matrix with rows and columns exchanged."""

    def fill(out: Tensor, first: int) -> None:
        out.copy_(raw(source.load().T.contiguous())[first : first + out.numel()])

    return Stored(source.dtype, (source.shape[1], source.shape[0]), fill)


def converted(source: Stored, dtype: torch.dtype, name: str) -> Stored:
    """A floating point tensor as another kind, others as they are. Reading it is a UserError where a finite value overflows."""
    if not source.dtype.is_floating_point or source.dtype == dtype:
        return source

    def fill(out: Tensor, first: int) -> None:
        tensor = source.load()
        narrow = tensor.to(dtype)
        if not torch.isfinite(narrow).all() and torch.isfinite(tensor).all():
            raise UserError("dtype", f"tensor {name} reaches {tensor.abs().max():.4g} and overflows {str(dtype)[6:]} "
                                     f"(at most {torch.finfo(dtype).max:.4g}); use bfloat16 or float32")
        out.copy_(raw(narrow)[first : first + out.numel()])

    return Stored(dtype, source.shape, fill)


def _in_file(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Stored:
    def fill(out: Tensor, first: int) -> None:
        with path.open("rb") as file:
            file.seek(offset + first)
            if file.readinto(buffer(out)) != out.numel():
                raise UserError(str(path), "the file became shorter while it was read; check the disk and try again")

    return Stored(dtype, shape, fill)


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file, opened: names, kinds and places of its tensors, and the free text of its header."""

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]


def open_file(path: Path) -> TensorFile:
    """Reads the header of a safetensors file. UserError: missing, cut short, or not safetensors at all."""
    if not path.is_file():
        raise UserError(str(path), "there is no such file; check the path")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > HEADER_LIMIT or (length <= size - 8 and file.read(1) != b"{"):
            raise UserError(str(path), f"is {_kind(start)}; only safetensors are opened{_pickle_hint(start)}")
        if length > size - 8:
            raise _truncated(path, size, length + 8)
        file.seek(8)
        header = _parsed(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    base = 8 + length
    tensors = {name: _entry(path, base, name, entry) for name, entry in header.items()}
    end = base + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise _truncated(path, size, end)
    return TensorFile(path, tensors, metadata)


def _parsed(path: Path, text: bytes) -> dict:
    try:
        header = json.loads(text)
    except ValueError:
        raise UserError(str(path), "its safetensors header is not readable; download it again") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise UserError(str(path), "its safetensors header is not a table of tensors; download it again")
    return header


def _entry(path: Path, base: int, name: str, entry: dict) -> Stored:
    try:
        code, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if code not in DTYPES:
            raise UserError(str(path), f"tensor {name} is stored as {code}; readable are {', '.join(DTYPES)}")
        if min(shape, default=0) < 0 or not 0 <= first <= last or last - first != prod(shape) * DTYPES[code].itemsize:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(str(path), f"the header entry of tensor {name} is broken; download the file again") from None
    return _in_file(path, base + first, DTYPES[code], shape)


def _truncated(path: Path, size: int, wanted: int) -> UserError:
    return UserError(str(path), f"is cut short: {size} of at least {wanted} bytes are there; download it again")


def _kind(start: bytes) -> str:
    if start.startswith((b"PK", b"\x80")):
        return "a pickle"
    return "an unfinished or foreign file" if start else "an empty file"


def _pickle_hint(start: bytes) -> str:
    return "; `sote weights convert --unsafe-pickle` reads a pickle you trust" if _kind(start) == "a pickle" else ""


def open_index(path: Path) -> TensorFile:
    """Opens the shards that a `*.safetensors.index.json` names as if they were one file."""
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        raise UserError(str(path), "is not an index of shards; download it again") from None
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
