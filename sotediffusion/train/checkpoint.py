"""One dict that resumes a run to the bit, written whole or not at all, and checked when it is read back.

A checkpoint is two files: NAME.safetensors with every tensor, then NAME.json with everything else and the digest of the
first. The JSON file is written last, so a checkpoint exists exactly when its JSON file does.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sotediffusion.types import UserError


def split(tree: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """A JSON skeleton of `tree` (dicts, lists, numbers, strings, tensors); its tensors go into `tensors` by their path."""
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, split(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [split(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    return {"value": tree}


def join(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree that `split` took apart (tuples come back as lists)."""
    ((kind, body),) = skeleton.items()
    if kind == "tensor":
        return tensors[body]
    if kind == "dict":
        return {key: join(value, tensors) for key, value in body}
    if kind == "list":
        return [join(value, tensors) for value in body]
    return body


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def replace_file(path: Path, write: Any) -> None:
    """Let `write(temporary path)` make a file, then put it in the place of `path` in one move."""
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    plain = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    replace_file(path, lambda temporary: save_file(plain, temporary, metadata))


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(value)))


def save(folder: Path, name: str, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` as the checkpoint `name`, then drop all but the last `keep` numbered ones.

    Raises UserError on a full disk; the earlier checkpoints are then still whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    skeleton = split(state, tensors)
    path = folder / f"{name}.safetensors"
    try:
        replace_file(path, lambda temporary: save_file(tensors, temporary))
        save_json(folder / f"{name}.json", {"state": skeleton, "digest": digest(path)})
    except OSError as error:
        raise UserError("out", f"could not write checkpoint {path} ({error}); the last good one is {latest(folder)}") from error
    for old in numbered(folder)[:-keep]:
        remove(folder, old)
    return path


def load(folder: Path, name: str) -> dict[str, Any]:
    """Read the checkpoint `name`. Raises UserError naming it and the one before it when its bytes are not those written."""
    path = folder / f"{name}.safetensors"
    record = json.loads((folder / f"{name}.json").read_text())
    if not path.is_file() or digest(path) != record["digest"]:
        earlier = [other for other in numbered(folder) if other != name]
        advice = f"delete it to go on from {earlier[-1]}" if earlier else "delete it to start again"
        raise UserError("out", f"checkpoint {path} is damaged; {advice}")
    state: dict[str, Any] = join(record["state"], load_file(path))
    return state


def numbered(folder: Path) -> list[str]:
    """Names of the whole checkpoints that stand for a number of images seen, oldest first."""
    return sorted(path.stem for path in folder.glob("*.json") if path.stem.isdigit())


def latest(folder: Path) -> str | None:
    """Name of the newest whole checkpoint, None where there is none."""
    names = numbered(folder)
    return names[-1] if names else None


def remove(folder: Path, name: str) -> None:
    """Forget a checkpoint: its JSON file first, so that half a deletion leaves no half a checkpoint."""
    (folder / f"{name}.json").unlink()
    (folder / f"{name}.safetensors").unlink(missing_ok=True)
