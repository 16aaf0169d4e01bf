"""What is meant in diffusers' layout, which has things twice: of a stage's folders the full or the lite one, of the files in a
component's folder the plain copy or a variant's, whole or in shards."""

import re
from collections.abc import Collection, Iterable

LITE = "_lite"  # behind the name of a stage's folder
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
SHARD = re.compile(r".*-\d{5}-of-\d{5}(\.\w+)?\.safetensors")
INDEX = re.compile(r".+\.safetensors(\.\w+)?\.index(\.\w+)?\.json")

# As diffusers and transformers write them today, and wrote them: the variant before or behind the shard's number, and of .index.
_WEIGHTS = re.compile(r"[^.]+?(?:\.(\w+))?(?:-\d{5}-of-\d{5})?(?:\.(\w+))?\.safetensors")
_INDEX = re.compile(r"[^.]+\.safetensors(?:\.(\w+))?\.index(?:\.(\w+))?\.json")


def sized(place: str, folders: Collection[str], lite: bool) -> str:
    """The folder for `place` among those there: prior_lite for prior where lite networks are chosen, or are the only ones."""
    small = place + LITE
    return small if small in folders and (lite or place not in folders) else place


def variant_of(file: str) -> str | None:
    """The variant that a file of weights or its index is: "bf16" of model.bf16.safetensors, "" of a plain one, None of others."""
    found = _WEIGHTS.fullmatch(file) or _INDEX.fullmatch(file)
    return None if found is None else found[1] or found[2] or ""


def meant(files: Iterable[str], variant: str = "") -> list[str]:
    """Of the files in one folder those that are no weights, and of the weights one copy: of `variant`, else the plain one.

    Where neither is there all are meant, and whoever opens the folder has to say which.
    """
    files = list(files)
    found = {variant_of(file) for file in files if file.endswith(".safetensors")}
    kept = next(({one} for one in (variant, "") if one in found), found)
    return [file for file in files if variant_of(file) is None or variant_of(file) in kept]
