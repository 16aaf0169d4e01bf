"""The published models that curation wants: which there are, under what licence, how to get them and where they are looked for.

A model lies in a folder of its own, MODELS/<name>. Steps open safetensors and ONNX from there and nothing else; what is published
as a pickle is converted once, by the hash of the file that is known to be it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sotediffusion.names import unknown
from sotediffusion.types import UserError


@dataclass(frozen=True)
class Source:
    """Files of one repository on the hub, and what they are called in the model's folder."""

    id: str
    files: tuple[str, ...] = ()  # as they are called there; none: all that a model is opened from
    revision: str = "main"
    sha256: Mapping[str, str] = field(default_factory=dict)  # name there: what the file must be, where that is known


@dataclass(frozen=True)
class Model:
    """A published model: what it is for, its licence, its size and where its parts come from."""

    name: str
    step: str
    what: str
    licence: str
    size: str
    sources: tuple[Source, ...]
    needs: tuple[str, ...]  # the files that a step opens


OPENED = (".safetensors", ".json", ".model")  # of a repository taken whole
TAGGER = ("model.onnx", "selected_tags.csv")
_VISION = ("config.json", "preprocessor_config.json", "model.safetensors")
CLIP_B32 = Source(
    "openai/clip-vit-base-patch32",
    ("config.json", "preprocessor_config.json", "pytorch_model.bin"),
    "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    {"pytorch_model.bin": "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
     "config.json": "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770",
     "preprocessor_config.json": "910e70b3956ac9879ebc90b22fb3bc8a75b6a0677814500101a4c072bd7857bd"},
)  # fmt: skip

PUBLISHED = {model.name: model for model in (
    Model("wd-swinv2-tagger-v3", "tag", "the card's tagger: 10861 tags of Danbooru", "Apache-2.0", "467 MB",
          (Source("SmilingWolf/wd-swinv2-tagger-v3", TAGGER),), TAGGER),
    Model("wd-vit-tagger-v3", "tag", "a lighter tagger of the same tags", "Apache-2.0", "379 MB",
          (Source("SmilingWolf/wd-vit-tagger-v3", TAGGER),), TAGGER),
    Model("wd-eva02-large-tagger-v3", "tag", "a heavier tagger of the same tags", "Apache-2.0", "1.3 GB",
          (Source("SmilingWolf/wd-eva02-large-tagger-v3", TAGGER),), TAGGER),
    Model("aesthetic-shadow-v2", "score", "the card's aesthetic score, a ViT of 1.1 billion weights",
          "CC-BY-NC-4.0: no commercial use", "4.4 GB", (Source("NeoChen1024/aesthetic-shadow-v2-backup", _VISION),),
          _VISION),
    Model("aes-B32-v0", "score", "the card's quality score: a small MLP on the image embeddings of CLIP ViT-B/32",
          "CreativeML OpenRAIL-M (aes-B32-v0), MIT (CLIP)", "606 MB",
          (CLIP_B32, Source("hakurei/waifu-diffusion-v1-4", ("models/aes-B32-v0.pth",))),
          ("config.json", "preprocessor_config.json", "model.safetensors", "mlp.safetensors")),
    Model("anime-aesthetic", "score", "a later score of the card's author: an ONNX classifier of seven ranks",
          "as its page says", "about 0.4 GB",
          (Source("deepghs/anime_aesthetic", tuple(f"swinv2pv3_v0_448_ls0.2_x/{name}" for name in ("model.onnx", "meta.json"))),),
          ("model.onnx", "meta.json")),
    Model("llava-1.5-7b-hf", "text", "the card's reader of text inside pictures", "Llama 2 Community License", "14 GB",
          (Source("llava-hf/llava-1.5-7b-hf"),), ("config.json",)),
)}  # fmt: skip


def find_model(models: str | Path, name: str, needs: tuple[str, ...] = ()) -> Path:
    """The folder of a model with all the files a step opens; UserError says how to get what is missing."""
    folder = Path(models) / name
    wanted = needs or (PUBLISHED[name].needs if name in PUBLISHED else ())
    lacking = [file for file in wanted if not (folder / file).is_file()]
    if folder.is_dir() and not lacking:
        return folder
    what = f"{folder} has no {lacking[0]}" if folder.is_dir() and lacking else f"{name} is not in {models}"
    if name not in PUBLISHED:
        raise UserError("models", f"{what}; give the folder it lies in with --models, or choose one of {', '.join(PUBLISHED)}")
    model = PUBLISHED[name]
    raise UserError("models", f"{what}; get it ({model.size}, {model.licence}) with `sote curate models download {name}`, "
                              f"or go on without with --skip {model.step}")


def is_here(models: str | Path, model: Model) -> bool:
    """Whether all files that a step opens are there."""
    return all((Path(models) / model.name / file).is_file() for file in model.needs)


def published(name: str) -> Model:
    """A model of the table; UserError for a name that is not in it."""
    if name not in PUBLISHED:
        raise unknown("model", name, PUBLISHED)
    return PUBLISHED[name]


def file_hash(path: str | Path) -> str:
    """The sha256 of a file, in hex; remembered until the file changes."""
    state = Path(path).stat()
    return _file_hash(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
