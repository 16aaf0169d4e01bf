"""Textual inversion (Gal et al. 2022): vectors that stand for a word of one's own at the entrance of the text tower, as files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..pictures.files import beside
from ..text.tokenizer import Tokenizer
from ..text.words import WordTokenizer
from ..types import UserError
from .lora import TEXT_MASK, digest
from .lora_merge import sharing
from .tensors import in_memory, open_file, write_file

KEYS = ("clip_g", "emb_params")  # as ComfyUI and A1111, and kohya name the tensor; of a file with one tensor any name is taken
MAX_VECTORS = 75  # tokens of a chunk


@dataclass(frozen=True)
class Embedding:
    """A word's vectors (n, D)."""

    name: str
    vectors: Tensor
    metadata: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # SHA-256 over the file without its header, in hex

    @property
    def text_mask(self) -> str:
        """What the text tower saw of padding when it was trained, "" where nothing says it."""
        return self.metadata.get(TEXT_MASK, "")


def read(path: str | Path) -> Embedding:
    """Opens a file. UserError: not there or not to be read, no safetensors, no vectors of a word."""
    try:
        return _read(Path(path))
    except OSError as error:  # a name that is too long, say
        raise UserError("embedding", f"{str(path)[:200]} cannot be read ({error.strerror}); give another file") from None


def _read(path: Path) -> Embedding:
    if path.suffix != ".safetensors":
        raise UserError("embedding", f"{path} is no safetensors file; take one")
    opened = open_file(path)
    only = min(opened.tensors) if len(opened.tensors) == 1 else None
    name = next((key for key in KEYS if key in opened.tensors), only)
    if name is None:
        told = f"{path} holds {len(opened.tensors)} tensors, none of them named {' or '.join(KEYS)}"
        raise UserError("embedding", f"{told}; take an embedding of Stable Cascade or SDXL")
    vectors = opened.tensors[name].load()
    vectors = vectors[None] if vectors.dim() == 1 else vectors
    if vectors.dim() != 2 or not vectors.is_floating_point() or not 1 <= len(vectors) <= MAX_VECTORS:
        shape = "x".join(str(side) for side in vectors.shape)
        raise UserError("embedding", f"{path} holds {name} of {shape}; a word has 1 to {MAX_VECTORS} vectors")
    if not vectors.isfinite().all():
        raise UserError("embedding", f"{path} has values that are not finite; its training failed, take an earlier one")
    return Embedding(path.stem, vectors, opened.metadata, digest(path))


def save(embedding: Embedding, path: str | Path) -> Path:
    """Writes a file that ComfyUI reads as well, whole or not at all."""
    said = {
        "format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-cascade/textual-inversion",
        "modelspec.title": embedding.name,
    }  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as temporary:
        write_file(temporary, {KEYS[0]: in_memory(embedding.vectors)}, said | embedding.metadata)
    return path


@torch.inference_mode(False)
@torch.no_grad()
def with_words(tower: Any, tokenizer: Tokenizer, embeddings: Sequence[Embedding]) -> tuple[nn.Module, WordTokenizer]:
    """A second tower that knows these words, sharing all else with the first, and a tokenizer that hears them.

    UserError: vectors of another width, a name that cannot be written.
    """
    second = sharing("text", tower)
    table = tower.text_model.embeddings.token_embedding.weight
    ids: dict[str, range] = {}
    first = len(table)
    for one in embeddings:
        if one.vectors.shape[1] != table.shape[1]:
            told = f"{one.name} has vectors of {one.vectors.shape[1]} numbers where this model's text encoder takes"
            raise UserError("embedding", f"{told} {table.shape[1]}; it was made for another model")
        ids[one.name] = range(first, first + len(one.vectors))
        first += len(one.vectors)
    longer = torch.cat([table, *(one.vectors.to(table) for one in embeddings)])
    owner: Any = second.get_submodule("text_model.embeddings.token_embedding")
    owner._parameters["weight"] = nn.Parameter(longer, requires_grad=False)
    return second, WordTokenizer(tokenizer, ids)
