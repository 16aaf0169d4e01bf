"""Steps that can be taken back: where the memory runs out in the middle of one, its runs are what they were before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sotediffusion.generate import Run, own_noise


class Rewindable:
    """A run's own noise, which can go back to an earlier draw; a picture must not tell that a step was tried twice."""

    def __init__(self, seed: int):
        self.seed = seed
        self.drawn: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.noise = own_noise(seed)

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.drawn.append((shape, dtype))
        return self.noise(shape, dtype)

    def back_to(self, count: int) -> None:
        """As it was after `count` draws."""
        if count == len(self.drawn):
            return
        past, self.drawn, self.noise = self.drawn[:count], [], own_noise(self.seed)
        for shape, dtype in past:
            self(shape, dtype)


@contextmanager
def taken_back(runs: Sequence[Run]) -> Iterator[None]:
    """On any error inside, runs whose noise is Rewindable are as they were. Steps replace a run's tensors, never change them."""
    before = [(vars(run).copy(), len(run.noise.drawn) if isinstance(run.noise, Rewindable) else 0) for run in runs]
    try:
        yield
    except BaseException:
        for run, (state, drawn) in zip(runs, before, strict=True):
            vars(run).update(state)
            if isinstance(run.noise, Rewindable):
                run.noise.back_to(drawn)
        raise
