"""A run's folder as numbers and pictures: what the loop and the journal have written there, whether the run goes on or not."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotediffusion.config import read_toml
from sotediffusion.train.drawings import FOLDER, SHEET
from sotediffusion.train.export import MODELS
from sotediffusion.train.journal import VALIDATION
from sotediffusion.types import UserError

LOSS_AT = "loss at logsnr "

Point = tuple[float, float]
Line = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a run's folder tells."""

    folder: Path
    name: str
    statuses: list[Line]  # as stats.jsonl has them
    validations: list[Line]
    settings: str  # TOML
    drawn: dict[int, list[Path]]  # images seen -> pictures, the first prompt's first
    models: list[str]

    @property
    def last(self) -> Line:
        """The last status."""
        return self.statuses[-1]

    def series(self, value: Callable[[Line], float | None]) -> list[Point]:
        """Points (images, value) of the statuses that have one; of a point that was reported twice the last counts."""
        found = {line["images"]: value(line) for line in self.statuses}
        return [(float(images), y) for images, y in sorted(found.items()) if y is not None]

    def numbers(self, name: str) -> list[Point]:
        """Points of one of the numbers that are reported beside the loss."""
        return self.series(lambda line: line["numbers"].get(name))

    def ranges(self) -> list[str]:
        """Names of the losses by noise level, from noise to picture."""
        names = {name for line in self.statuses for name in line["numbers"] if name.startswith(LOSS_AT)}
        return sorted(names, key=lambda name: float(name.removeprefix(LOSS_AT).partition("..")[0]))

    def validated(self, name: str) -> list[Point]:
        """Points of one of the held-out losses."""
        return [(float(line["images"]), line[name]) for line in self.validations if name in line]


def read_run(folder: Path) -> Seen:
    """The run in `folder`. UserError: no run there, or nothing reported yet."""
    path = folder / "stats.jsonl"
    if not path.is_file():
        raise UserError("run", f"{folder} holds no stats.jsonl and so no run; give the folder that --out named")
    statuses = _lines(path)
    if not statuses:
        raise UserError("run", f"{folder} has not reported anything yet; wait for save.report_seconds")
    settings = folder / "settings.toml"
    text = settings.read_text() if settings.is_file() else ""
    name = str(read_toml(settings).get("name", "")) if text else ""
    validation = folder / VALIDATION
    models = folder / MODELS
    return Seen(folder, name or folder.absolute().name, statuses, _lines(validation) if validation.is_file() else [], text,
                _drawn(folder / FOLDER), sorted(path.name for path in models.iterdir()) if models.is_dir() else [])  # fmt: skip


def _lines(path: Path) -> list[Line]:
    """Whole lines; one that is being written is left out."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _drawn(folder: Path) -> dict[int, list[Path]]:
    found = folder.iterdir() if folder.is_dir() else ()
    points = sorted(path for path in found if path.name.isdigit() and (path / SHEET).is_file())
    return {int(point.name): sorted(point.glob("*.png")) for point in points}
