"""The loss on pictures that are not trained on, at noise that is the same every time, of the weights that would be saved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sotediffusion.train.data import Batch
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.loop import Milestone, Recipe
from sotediffusion.train.opening import Data, DataSettings
from sotediffusion.train.stream import Stream
from sotediffusion.types import UserError


def held_out(data: Data, settings: DataSettings, most: int) -> tuple[Data, DataSettings]:
    """At most `most` of the pictures that are held out, and settings by which each is read the same every time.

    UserError: too few pictures for the share that is held out.
    """
    held = np.flatnonzero(data.samples.held(settings.held_out) & (data.fits[:, 0] > 0))
    if not len(held):
        raise UserError("data.held_out", f"{settings.held_out:g} of {len(data.samples)} pictures is none; give a larger share")
    rows = np.sort(held[np.argsort(data.samples.content[held, 0], kind="stable")[:most]])  # by content: whatever else is there
    captions = replace(settings.captions, dropout=0.0, whole=1.0,
                       kohya=replace(settings.captions.kohya, caption_dropout_rate=0.0))  # fmt: skip
    plainly = replace(settings, held_out=0.0, last="keep", captions=captions, fit=replace(settings.fit, flip=False))
    return Data(data.samples.take(rows).once(), data.fits[rows]), plainly


class Validation(Milestone):
    """Tells `tell` the loss of `stream`'s pictures, each at `readings` noise levels, and of each range of levels."""

    first = True

    def __init__(self, recipe: Recipe, stream: Stream, every: int, readings: int, ranks: Ranks,
                 tell: Callable[[int, dict[str, float]], None]):  # fmt: skip
        self.recipe, self.stream, self.every, self.readings, self.ranks, self.tell = recipe, stream, every, readings, ranks, tell
        self.batch, self.device, self.bf16, self.averaged = 16, "cpu", False, False

    def as_trained(self, batch: int, device: str, bf16: bool, averaged: bool) -> "Validation":
        """Steps of `batch` samples on this device; `averaged` weights are put in the place of those that move."""
        self.batch, self.device, self.bf16, self.averaged = batch, device, bf16, averaged
        return self

    @torch.no_grad()
    def reach(self, place: dict[str, Any], weights: dict[str, Tensor], last: bool) -> None:
        """Measure; all processes together, each its pieces."""
        sums: dict[str, list[float]] = {}
        with standing_in(self.recipe.modules, weights if self.averaged else {}):
            for batch in self._batches():
                with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                    mean, numbers = self.recipe.loss(replace(batch, void=True))  # an adaptive weight learns nothing of it
                if not batch.void:
                    for name, value in {"loss": float(mean), **numbers}.items():
                        own = sums.setdefault(name, [0.0, 0.0])
                        own[0], own[1] = own[0] + value * batch.size, own[1] + batch.size
        told: list[dict[str, list[float]]] = self.ranks.gather(sums)
        names = sorted({name for own in told for name in own})
        totals = {name: [sum(own[name][i] for own in told if name in own) for i in (0, 1)] for name in names}
        self.tell(place["images"], {name: total / count for name, (total, count) in totals.items()})

    def _batches(self) -> Iterator[Batch]:
        steps = -(-len(self.stream) // self.batch)
        for reading in range(self.readings):
            for _, batches in zip(range(steps), _by_step(self.stream.batches(reading, 0, self.batch)), strict=False):
                yield from batches


def _by_step(batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    while True:
        step = [next(batches)]
        while not step[-1].last:
            step += islice(batches, 1)
        yield step


@contextmanager
def standing_in(modules: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Within it `modules` are as when drawing, with `weights` in the place of their own, which come back to the bit."""
    with torch.no_grad():
        yield from _standing_in(modules, weights)


def _standing_in(modules: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    own = {name: value for name, value in modules.state_dict().items() if name in weights}
    kept = {name: value.detach().to("cpu", copy=True) for name, value in own.items()}
    for name, value in own.items():
        value.copy_(weights[name])
    modules.eval()
    try:
        yield
    finally:
        for name, value in own.items():
            value.copy_(kept[name])
        modules.train()
