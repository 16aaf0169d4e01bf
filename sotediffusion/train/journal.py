"""What a run has to say, in its own folder and wherever else it is asked to: TensorBoard's files, Weights & Biases, Trackio."""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from sotediffusion.config import plain
from sotediffusion.pictures.files import write_whole
from sotediffusion.train.checkpoint import latest
from sotediffusion.train.events import Events
from sotediffusion.train.settings import Log, Settings
from sotediffusion.train.status import Status
from sotediffusion.types import UserError

VALIDATION, EVENTS = "validation.jsonl", "tensorboard"  # in the run's folder


class Sink(Protocol):
    """Where numbers and pictures go."""

    def numbers(self, images: int, numbers: Mapping[str, float]) -> None:
        """Some numbers at a point of the run."""

    def picture(self, images: int, tag: str, content: bytes, size: tuple[int, int]) -> None:
        """A picture file of this width and height."""

    def close(self) -> None:
        """No more is coming."""


class Tracker:
    """Weights & Biases, or Trackio, which has the same face; its own environment says where it sends things."""

    def __init__(self, library: str, settings: Settings, folder: Path):
        self.library: Any = import_module(library)
        name = f"{settings.name}-{hashlib.blake2b(str(folder.absolute()).encode(), digest_size=4).hexdigest()}"
        more: dict[str, Any] = {"id": name, "dir": str(folder)} if library == "wandb" else {"name": name}
        self.run = self.library.init(project=settings.log.project, config=plain(settings), resume="allow", **more)

    def numbers(self, images: int, numbers: Mapping[str, float]) -> None:
        """Some numbers at a point of the run."""
        self.library.log(dict(numbers), step=images)

    def picture(self, images: int, tag: str, content: bytes, size: tuple[int, int]) -> None:
        """A picture file."""
        self.library.log({tag: self.library.Image(Image.open(BytesIO(content)).convert("RGB"))}, step=images)

    def close(self) -> None:
        """No more is coming."""
        self.library.finish()


class Journal:
    """Takes what a run reports; lines about a part of the run that will be run again are forgotten when it is opened."""

    def __init__(self, folder: Path, sinks: list[Sink]):
        self.folder, self.sinks = folder, sinks

    def status(self, status: Status) -> None:
        """A report of the loop, which keeps its own file of them."""
        told = {"loss": status.loss, "lr": status.lr, "images per second": status.speed, "steps": float(status.steps)}
        for sink in self.sinks:
            sink.numbers(status.images, told | status.numbers)

    def validation(self, images: int, numbers: dict[str, float]) -> None:
        """The losses of held-out pictures."""
        path = self.folder / VALIDATION
        lines = [line for line in _lines(path) if line["images"] < images] + [{"images": images, **numbers}]
        _write_lines(path, lines)
        for sink in self.sinks:
            sink.numbers(images, {f"validation {name}": value for name, value in numbers.items()})

    def picture(self, images: int, tag: str, content: bytes, size: tuple[int, int]) -> None:
        """A picture that was drawn; it lies in the folder already."""
        for sink in self.sinks:
            sink.picture(images, tag, content, size)

    def close(self) -> None:
        """No more is coming."""
        for sink in self.sinks:
            sink.close()


def check_log(log: Log) -> None:
    """UserError for a library that is not there."""
    missing = next((name for name in log.to if name != "tensorboard" and find_spec(name) is None), None)
    if missing:
        raise UserError("log.to", f"needs the package {missing}, which is not here; pip install {missing}, or leave it out")


def open_journal(folder: Path, settings: Settings) -> Journal:
    """The journal of the run in `folder`, which may be going on."""
    name = latest(folder / "checkpoints")
    resumed = int(name) if name and name.isdigit() else 0
    path = folder / VALIDATION
    lines = _lines(path)
    if kept := [line for line in lines if line["images"] <= resumed]:
        _write_lines(path, kept)
    elif lines:
        path.unlink()
    sinks: list[Sink] = []
    for wanted in settings.log.to:
        sinks.append(Events(folder / EVENTS, resumed) if wanted == "tensorboard" else Tracker(wanted, settings, folder))
    return Journal(folder, sinks)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
