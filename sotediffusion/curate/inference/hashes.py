"""Whether a published model's files are still what they were: by the published hash, or else by that of their first use here.

Of most models no hash is published that could be known beforehand; what came is then taken at its word once, kept in
MODELS/hashes.json, and nothing else is opened under that name later.
"""

import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from sotediffusion.curate.inference.fetch import CONVERTED
from sotediffusion.curate.inference.published import OPENED, PUBLISHED, Model, file_hash
from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError

RECORD = "hashes.json"


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
                raise _another(path, now, expected, path.name in pinned)
    if found != known and os.access(folder, os.W_OK):  # a folder shared for reading only keeps itself
        _record(folder, found)


def accept_model(models: Path, model: Model) -> dict[str, str]:
    """Take the files of a model as they are now for those of its first use; the new hashes, by file, of those that were others.

    Files with a published hash have no part in it. UserError where the model is not in `models`.
    """
    pinned, known = _pinned(model), recorded(models)
    now = {path.name: file_hash(path) for path in _files(models / model.name, model) if path.name not in pinned}
    if not now:
        raise UserError("name", f"{models / model.name} has no file that goes by its first use; give the --models it lies in")
    _record(models, known | {f"{model.name}/{name}": hash for name, hash in now.items()})
    return {name: hash for name, hash in now.items() if known.get(f"{model.name}/{name}") != hash}


def _record(models: Path, hashes: dict[str, str]) -> None:
    write_whole(models / RECORD, json.dumps(hashes, indent=1, sort_keys=True).encode(), "models")


def _another(path: Path, now: str, expected: str, published: bool) -> UserError:
    """What to do about a file that is another one now; a download leaves files alone that are there."""
    name, where = path.parent.name, f"--models {shlex.quote(str(path.parent.parent))}"
    said = "published" if published else "when it was first used here"
    accept = "" if published else f"; if it is another on purpose or newer upstream, `sote curate models accept {name} {where}`"
    return UserError("models", f"{path} has the sha256 {now}, {said} it was {expected}; if it is damaged, delete it and run "
                               f"`sote curate models download {name} {where}`{accept}")  # fmt: skip


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
