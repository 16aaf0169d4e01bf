"""From a `Bundle` to files: one plan a format (which tensors go into which file), carried out atomically."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..config import plain
from ..names import unknown
from ..pictures.files import sync_folder
from ..types import UserError
from . import licences
from .bundle import Bundle
from .plans import FORMATS, Plan, Weights, size
from .tensors import write_file

TEMPORARY = ".sotediffusion-"  # how the name of a folder begins of which nothing is in its place yet


def write(bundle: Bundle, path: Path, format: str, over: bool = False) -> list[str]:
    """Writes a settled bundle in a format; returns the parts that the format has no place for.

    Everything is written under a temporary name beside the target and moved into place whole, with `over` in the place of what is
    there. UserError: unknown format, something is there already, no space.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    path = path.absolute()
    plan = FORMATS[format](bundle, path)
    kept = {part for content in plan.values() if isinstance(content, Weights) for part in content.parts}
    targets = sorted({name.split("/")[0] for name in plan})
    if not over:
        for target in targets:
            _refuse_occupied(path.parent / target)
    with _whole(path.parent) as temporary:
        _check_space(path.parent, plan)
        for name, content in plan.items():
            _write_one(bundle, temporary / name, content)
        for target in targets:
            _put(temporary / target, path.parent / target)
        sync_folder(path.parent)
    return [name for name in bundle.parts if name not in kept]


def _put(new: Path, target: Path) -> None:
    """Move into place: a file straight over another. A folder that is there steps aside, and comes back where that fails.

    Should the process be killed in between, the old one lies beside as <name>.old-<letters>.
    """
    if not target.exists() or (new.is_file() and target.is_file()):
        os.replace(new, target)
        return
    old = target.with_name(f"{target.name}.old-{new.parent.name.removeprefix(TEMPORARY)}")
    try:
        os.replace(target, old)
        os.replace(new, target)
    finally:
        if old.exists():  # into the temporary folder, which is about to go, or back
            os.replace(old, new if target.exists() else target)


def _refuse_occupied(target: Path) -> None:
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError("out", f"{target} is there already; remove it or choose another name")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, gone afterwards whatever happens; trouble with the disk becomes a UserError."""
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
        yield temporary
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space or write elsewhere" if full else "choose a folder that can be written"
        raise UserError("out", f"{folder} took no more ({error.strerror}); nothing was kept; {advice}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_space(folder: Path, plan: Plan) -> None:
    needed = sum(size(content) for content in plan.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        room = f"{folder} has {free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are needed"
        raise UserError("out", f"{room}; free some space or write elsewhere")


def _write_one(bundle: Bundle, path: Path, content: Weights | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Weights):
        write_file(path, content.tensors, _metadata(bundle, content.parts))
        return
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _prediction(bundle: Bundle, parts: tuple[str, ...]) -> str:
    """What the denoiser in a file says; of both in one, Stage C."""
    return bundle.conventions.prediction_b if "stage_c" not in parts and "stage_b" in parts else bundle.conventions.prediction_c


def _metadata(bundle: Bundle, parts: tuple[str, ...]) -> dict[str, str]:
    """What a file says of itself: the ModelSpec's fields for every program, and ours, from which everything is restored."""
    conventions = bundle.conventions
    about = {"name": bundle.name, "license": bundle.license, "base": bundle.base, "conventions": plain(conventions)}
    known = {name: {"config": plain(bundle.parts[name].config), "hash": bundle.parts[name].hash} for name in parts}
    spec = {
        "sai_model_spec": "1.0.0", "architecture": "stable-cascade", "title": bundle.name or "stable-cascade",
        "implementation": "https://github.com/Stability-AI/StableCascade", "license": licences.describe(bundle.license),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "resolution": f"{conventions.width}x{conventions.height}",
        "prediction_type": _prediction(bundle, parts), "derived_from": bundle.base,
    }  # fmt: skip
    return {
        "format": "pt",  # without it transformers refuses the file
        **{f"modelspec.{name}": value for name, value in spec.items() if value},
        "sotediffusion.model": json.dumps(about), "sotediffusion.parts": json.dumps(known),
    }  # fmt: skip
