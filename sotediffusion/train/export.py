"""A run's weights as a model: the trained parts in the place of those it began with, in any format, beside the run's states."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sotediffusion.models.cascade import Cascade
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.loop import Milestone
from sotediffusion.train.settings import Saving
from sotediffusion.weights import shapes
from sotediffusion.weights.store import save_cascade
from sotediffusion.weights.writing import TEMPORARY

MODELS = "models"  # folder in a run's


def clear_up(folder: Path) -> None:
    """Remove the models that a killed run had half written; it comes by again where it wrote them."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        shutil.rmtree(path)
    for path in folder.rglob(".*.part"):
        path.unlink()


def taken(weights: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """A copy of all weights in main memory, for the first process; the others help and get nothing."""
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        whole = ranks.whole(value)
        if ranks.first:
            found[key] = whole.detach().to("cpu", copy=True)
    return found


def as_networks(base: Cascade, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Networks of these weights by part, as they are in `base`, ready to draw."""
    networks: dict[str, Any] = {}
    for part in {key.split(".", 1)[0] for key in weights}:
        network = shapes.build(part, getattr(base, part).config).requires_grad_(False)
        own = {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
        network.load_state_dict(own, assign=True)
        networks[part] = network
    return networks


class Export(Milestone):
    """Writes models when the run reaches its milestones; writing goes on beside the run, one model at a time.

    `base` is the cascade with everything that is not trained; only the first process needs it.
    """

    def __init__(self, base: Cascade, saving: Saving, folder: Path, every: int, epoch: int, ranks: Ranks):
        self.base, self.saving, self.folder, self.ranks = base, saving, folder / MODELS, ranks
        self.every, self.epoch = every, epoch  # images
        self.writer = ThreadPoolExecutor(1)
        self.last: Future[None] | None = None

    def reach(self, place: dict[str, Any], weights: dict[str, Tensor], last: bool) -> None:
        """Take the weights as they are now, and write them under the name that the run's place gives them."""
        whole = taken(weights, self.ranks)
        if self.ranks.first:
            self.wait()
            self.last = self.writer.submit(self._write, self.path(place, last), whole)
        if last:
            self.wait()

    def wait(self) -> None:
        """Until everything is written. UserError where the disk refused it."""
        if self.last is not None:
            self.last.result()
            self.last = None

    def path(self, place: dict[str, Any], last: bool) -> Path:
        """Where the model of this place in the run goes."""
        pattern = self.saving.final if last else self.saving.pattern
        epoch = place["images"] // self.epoch
        return self.folder / pattern.format(name=self.base.name, images=place["images"], steps=place["steps"], epoch=epoch)

    def _write(self, path: Path, weights: dict[str, Tensor]) -> None:
        networks: dict[str, Any] = as_networks(self.base, weights)
        save_cascade(replace(self.base, **networks), path, self.saving.format, self.saving.dtype, over=True)
