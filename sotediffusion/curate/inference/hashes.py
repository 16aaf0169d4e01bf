"""Whether a published model's files are still what they were: by the published hash, or else by that of their first use here.

Of most models no hash is published that could be known beforehand; what came is then taken at its word once, kept in
MODELS/hashes.json, and nothing else is opened under that name later.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from sotediffusion.curate.inference.fetch import CONVERTED
from sotediffusion.curate.inference.published import PUBLISHED, Model, file_hash
from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError

RECORD = "hashes.json"
OPENED = (".safetensors", ".onnx", ".json", ".model")  # of a repository taken whole


def check_models(models: str | Path, names: Iterable[str]) -> None:
    """Compare the files of published models, and remember the hashes of those met for the first time.

    Names of other models, and of what does not lie in `models`, are passed over. UserError for a file that is another one now.
    """
    folder = Path(models)
    known = recorded(folder)
    found = dict(known)
    for model in (PUBLISHED[name] for name in names if name in PUBLISHED and (folder / name).is_dir()):
        pinned = _pinned(model)
        for path in _files(folder / model.name, model):
            key, now = f"{model.name}/{path.name}", file_hash(path)
            expected = pinned.get(path.name) or found.setdefault(key, now)
            if now != expected:
                said = "published" if path.name in pinned else "when it was first used here"
                raise UserError("models", f"{path} has the sha256 {now}, {said} it was {expected}; fetch the model again, or "
                                          f"take it out of {folder / RECORD} if it was exchanged on purpose")  # fmt: skip
    if found != known and os.access(folder, os.W_OK):  # a folder shared for reading only keeps itself
        write_whole(folder / RECORD, json.dumps(found, indent=1, sort_keys=True).encode(), "models")


def recorded(models: Path) -> dict[str, str]:
    """The hashes of first uses, by MODEL/FILE; UserError for a record that is none."""
    try:
        found = json.loads((models / RECORD).read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in found.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, AttributeError):
        raise UserError("models", f"{models / RECORD} is no record of hashes; delete it, and they are taken down anew") from None


def describe(models: Path, model: Model) -> str:
    """In words, which of a model's files are pinned and which go by their first use here."""
    pinned, known = _pinned(model), recorded(models)
    others = [name for name in (path.name for path in _files(models / model.name, model)) if name not in pinned]
    used = [name for name in others if f"{model.name}/{name}" in known]
    parts = [f"published hash: {', '.join(pinned)}"] if pinned else ["no published hash is known here"]
    parts += [f"by the hash of their first use: {', '.join(used)}"] if used else []
    parts += [f"not used yet, then by hash: {', '.join(sorted(set(others) - set(used)))}"] if set(others) - set(used) else []
    return "; ".join(parts)


def _pinned(model: Model) -> dict[str, str]:
    """Hashes of files that are opened as they were published; a pickle's was compared when it was converted."""
    pairs = [(there.rpartition("/")[2], hash) for source in model.sources for there, hash in source.sha256.items()]
    return {name: hash for name, hash in pairs if name not in CONVERTED}


def _files(folder: Path, model: Model) -> list[Path]:
    whole = any(not source.files for source in model.sources)
    names = [path.name for path in folder.iterdir() if path.suffix in OPENED] if whole and folder.is_dir() else model.needs
    return [folder / name for name in sorted(names) if (folder / name).is_file()]
