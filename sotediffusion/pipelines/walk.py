"""The way of a batch: its runs and their noise, then one stage, with a progress bar and the caller's word after every step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..generate import DONE, Run, step
from ..names import unknown
from ..offload import execution_device
from ..types import Request, UserError
from .handle import Pipeline
from .noise import Generators, Source
from .wording import Text

LATENTS = "latents"


@dataclass(frozen=True)
class Callback:
    """diffusers' `callback_on_step_end(pipe, i, t, kwargs)` and the tensors it asks for; latents it returns are used."""

    call: Callable[[Any, int, Tensor, dict[str, Any]], Mapping[str, Any] | None] | None
    inputs: Sequence[str]
    field: str = "callback_on_step_end"

    def of(self, pipe: Any) -> "Callback":
        """Itself. UserError for what cannot be called, and for an input that the pipeline does not have."""
        call: Any = self.call
        if call is not None and not callable(call):
            raise UserError(self.field, f"type {type(call).__name__} cannot be called; give a function, or leave it out")
        if isinstance(self.inputs, str):
            raise UserError(f"{self.field}_tensor_inputs", f"{self.inputs[:40]!r} is no list; write [{self.inputs[:40]!r}]")
        for name in self.inputs:
            if name not in pipe._callback_tensor_inputs:
                raise unknown(f"{self.field}_tensor_inputs", str(name), pipe._callback_tensor_inputs)
        return self

    def tell(self, pipe: Pipeline, index: int, time: Tensor, runs: Sequence[Run], constants: Mapping[str, Any]) -> None:
        """Calls back after step `index` and hands the runs the latents that came back."""
        if self.call is None:
            return
        all_inputs = {LATENTS: _latents(runs), **constants}
        given = {name: all_inputs[name] for name in self.inputs}
        returned = self.call(pipe, index, time, dict(given)) or {}
        for name, value in returned.items():
            if name == LATENTS:
                _replace(runs, value, self.field)
            elif value is not given.get(name):
                raise UserError(self.field, f"returned another {name}; only latents can be replaced on the way")


def begin(
    pipe: Pipeline, part: str, orders: Sequence[tuple[Request, Text]], cells: tuple[int, int], generator: Generators,
    latents: Tensor | None,
) -> tuple[Source, list[Run]]:  # fmt: skip
    """A run for every order and the source of their noise, which begins with `latents` where they are given.

    `cells`: height and width of the latent of `part`, the stage that draws the noise first. An order's seed becomes what is known
    of its noise. UserError: latents of another shape, generators that do not fit.
    """
    shape = (len(orders), getattr(pipe.cascade, part).config.c_latent, *cells)
    if latents is not None and (not isinstance(latents, Tensor) or latents.shape != shape):
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UserError("latents", f"{found} do not fit; they must be a tensor {shape}")
    source = Source(generator, len(orders), execution_device(pipe.cascade, part))
    given = [None] * len(orders) if latents is None else latents.split(1)
    noises = [source.row(i, first) for i, first in enumerate(given)]
    runs = [
        Run(replace(request, seed=seed), noise, *text)
        for (request, text), noise, seed in zip(orders, noises, source.seeds, strict=True)
    ]
    return source, runs


def walk(pipe: Pipeline, runs: Sequence[Run], callback: Callback, constants: Mapping[str, Any]) -> None:
    """Takes runs, all at the start of one stage, to its end. `constants`: what a callback can see besides the latents."""
    assert runs[0].trajectory is not None
    times = runs[0].trajectory.times
    with pipe.progress_bar(len(times)) as bar:
        for index, time in enumerate(times):
            step(pipe.cascade, runs)
            callback.tell(pipe, index, time, runs, constants)
            bar.update()
    assert all(run.phase == DONE for run in runs)


def _latents(runs: Sequence[Run]) -> Tensor:
    return torch.cat([run.x for run in runs if run.x is not None])


def _replace(runs: Sequence[Run], latents: Any, field: str) -> None:
    shape = (len(runs), *_latents(runs).shape[1:])
    if not isinstance(latents, Tensor) or latents.shape != shape:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UserError(field, f"returned latents {found}; they must be a tensor {shape}")
    for run, row in zip(runs, latents.split(1), strict=True):
        assert run.x is not None
        run.x = row.to(run.x)
