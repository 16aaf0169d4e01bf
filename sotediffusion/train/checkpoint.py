"""One dict that resumes a run to the bit, written whole or not at all, and checked when it is read back.

A checkpoint is NAME.safetensors with every tensor, then NAME.json with everything else and the digest of the first. Of several
processes each writes a share of the tensors, NAME-0-of-2.safetensors and so on: of those that are spread over processes its rows,
of the others every so-manieth. Any number of processes can read it. The JSON file is written last, so a checkpoint exists
exactly when its JSON file does.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from sotediffusion.pictures.files import beside
from sotediffusion.train.distributed import ALONE, Ranks
from sotediffusion.types import UserError
from sotediffusion.weights.tensors import in_memory, write_file

ROWS = "@"  # in a tensor's name, before the number of its first row
_SHARE = re.compile(r"-\d+-of-\d+$")  # at the end of a file's name


def split(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A JSON skeleton of `tree` (dicts, lists, numbers, strings, tensors); its tensors go into `tensors` by their path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach()
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, split(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [split(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    return {"value": tree}


def join(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `split` took apart (tuples come back as lists)."""
    ((kind, body),) = skeleton.items()
    if kind == "tensor":
        return tensors[body]
    if kind == "dict":
        return {key: join(value, tensors) for key, value in body}
    if kind == "list":
        return [join(value, tensors) for value in body]
    return body


def share(tensors: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """What of the tensors this process writes, in main memory."""
    mine = {}
    whole = [path for path, tensor in tensors.items() if not isinstance(tensor, DTensor) or not tensor.placements[0].is_shard()]
    for path in whole[ranks.number :: ranks.count]:
        tensor = tensors[path]
        mine[path] = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    for path in tensors.keys() - set(whole):
        local = tensors[path].to_local()  # type: ignore[attr-defined]
        first = -(-tensors[path].shape[0] // ranks.count) * ranks.number  # rows are dealt out as torch.chunk does
        if len(local):
            mine[f"{path}{ROWS}{first}"] = local
    return {path: tensor.to("cpu", copy=True).contiguous() for path, tensor in mine.items()}


def assemble(shares: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors from what all processes wrote."""
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    tensors = {}
    for name, tensor in shares.items():
        path, mark, first = name.rpartition(ROWS)
        if mark and first.isdigit():
            pieces.setdefault(path, []).append((int(first), tensor))
        else:
            tensors[name] = tensor
    for path, rows in pieces.items():
        tensors[path] = torch.cat([tensor for _, tensor in sorted(rows, key=lambda piece: piece[0])])
    return tensors


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def replace_file(path: Path, write: Any) -> None:
    """Let `write(temporary path)` make a file, then put it, once it is on the disk, in the place of `path` in one move."""
    with beside(path) as temporary:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    with beside(path) as temporary:  # safetensors' own writer leaves a temporary of its own where it is killed
        write_file(temporary, {key: in_memory(value) for key, value in tensors.items()}, metadata or {})


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(value)))


def save(folder: Path, name: str, state: dict[str, Any], keep: int = 2, ranks: Ranks = ALONE) -> Path:
    """Write `state` as the checkpoint `name`, then drop all but the last `keep` numbered ones; all processes call it together.

    Raises UserError in all of them on a full disk; the earlier checkpoints are then still whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    skeleton = split(state, tensors)
    path = folder / _files(name, ranks.count)[ranks.number]
    told = ranks.gather(_try(lambda: _write(path, share(tensors, ranks))))
    if ranks.first and not _failure(told):
        record = {"state": skeleton, **({"digest": told[0]} if ranks.count == 1 else {"digests": told})}
        told = [_try(lambda: _finish(folder, name, record, keep))]
    failed = _failure([done for all_done in ranks.gather(told) for done in all_done])
    if failed:
        raise UserError("out", f"could not write checkpoint {path} ({failed}); the last good one is {latest(folder)}") from failed
    return path


def _failure(told: list[str | OSError]) -> OSError | None:
    return next((done for done in told if isinstance(done, OSError)), None)


def _files(name: str, count: int) -> list[str]:
    return [f"{name}.safetensors"] if count == 1 else [f"{name}-{i}-of-{count}.safetensors" for i in range(count)]


def _try(work: Callable[[], str]) -> str | OSError:
    """What came of it, to be told to the other processes before anybody raises it."""
    try:
        return work()
    except OSError as error:
        return error


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    save_tensors(path, tensors)
    return digest(path)


def _finish(folder: Path, name: str, record: dict[str, Any], keep: int) -> str:
    """Write the record, without which the rest does not count, then clear up: old checkpoints and what killed runs left."""
    save_json(folder / f"{name}.json", record)
    for old in numbered(folder)[:-keep]:
        (folder / f"{old}.json").unlink()
    known = {path.stem for path in folder.glob("*.json")}
    for path in (*folder.glob("*.safetensors"), *folder.glob(".*.part")):
        if path.suffix == ".part" or _SHARE.sub("", path.stem) not in known:
            path.unlink(missing_ok=True)
    return ""


def load(folder: Path, name: str) -> dict[str, Any]:
    """Read the checkpoint `name`. Raises UserError naming it and the one before it when its bytes are not those written."""
    record = json.loads((folder / f"{name}.json").read_text())
    digests = record.get("digests") or [record["digest"]]
    shares: dict[str, Tensor] = {}
    for file, known in zip(_files(name, len(digests)), digests, strict=True):
        path = folder / file
        if not path.is_file() or digest(path) != known:
            earlier = [other for other in numbered(folder) if other != name]
            advice = f"delete {name}.json there to go on from {earlier[-1]}" if earlier else f"delete {folder} to start again"
            raise UserError("out", f"checkpoint {path} is damaged; {advice}")
        shares |= load_file(path)
    state: dict[str, Any] = join(record["state"], assemble(shares))
    return state


def outline(folder: Path, name: str) -> dict[str, Any]:
    """The checkpoint `name` with tensors that have their shapes and no content, of which little is read."""
    record = json.loads((folder / f"{name}.json").read_text())
    shares: dict[str, Tensor] = {}
    try:
        for file in _files(name, len(record.get("digests") or [record["digest"]])):
            with safe_open(folder / file, "pt") as opened:
                shares |= {key: torch.empty(opened.get_slice(key).get_shape(), device="meta") for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return load(folder, name)  # which says what is wrong
    state: dict[str, Any] = join(record["state"], assemble(shares))
    return state


def numbered(folder: Path) -> list[str]:
    """Names of the whole checkpoints that stand for a number of images seen, oldest first."""
    return sorted(path.stem for path in folder.glob("*.json") if path.stem.isdigit())


def latest(folder: Path) -> str | None:
    """Name of the newest whole checkpoint, None where there is none."""
    names = numbered(folder)
    return names[-1] if names else None
