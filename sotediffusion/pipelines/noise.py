"""Noise in the order in which diffusers draws it, so that the same generator gives the same picture."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..generate import Noise
from ..limits import MAX_SEED
from ..types import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


class Source:
    """The noise of a whole batch: one generator draws for all rows at once, a list of generators row by row.

    `kind` is the dtype to draw in: diffusers draws in that of the network at work, which decides the numbers. `seeds` are those
    that the rows' noise follows from, None where it does not follow from one seed alone.
    """

    def __init__(self, generator: Generators, rows: int, device: torch.device | str = "cpu"):
        self.generators: list[torch.Generator] | None = _own(generator, rows)
        self.shared = generator if isinstance(generator, torch.Generator) else _only(generator)
        self.device = device if self.shared is None else self.shared.device
        self.kind = torch.float32
        self.waiting: list[deque[Tensor]] = [deque() for _ in range(rows)]
        alone = self.shared if rows == 1 else None
        self.seeds = [_seed(self.generators[i] if self.generators else alone) for i in range(rows)]

    def row(self, index: int, given: Tensor | None = None) -> Noise:
        """The noise of one row; `given` (1, ...) is handed out first, without a draw."""
        if given is not None:
            self.waiting[index].append(given)
            self.seeds[index] = None

        def draw(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            if not self.waiting[index]:
                self._draw(index, shape)
            return self.waiting[index].popleft().to(dtype)

        return draw

    def _draw(self, index: int, shape: tuple[int, ...]) -> None:
        if self.generators is not None:
            own = self.generators[index]
            self.waiting[index].append(torch.randn(shape, generator=own, device=own.device, dtype=self.kind))
            return
        drawn = torch.randn((len(self.waiting), *shape[1:]), generator=self.shared, device=self.device, dtype=self.kind)
        for waiting, part in zip(self.waiting, drawn.split(1), strict=True):
            waiting.append(part)


def _seed(generator: torch.Generator | None) -> int | None:
    """The seed of a generator that nothing was drawn from yet."""
    if generator is None or generator.initial_seed() > MAX_SEED:
        return None
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return generator.initial_seed() if torch.equal(fresh.get_state(), generator.get_state()) else None


def _only(generator: Generators) -> torch.Generator | None:
    """A list of one generator draws for the whole batch, as in diffusers."""
    return generator[0] if isinstance(generator, list | tuple) and len(generator) == 1 else None


def _own(generator: Generators, rows: int) -> list[torch.Generator] | None:
    if generator is None or isinstance(generator, torch.Generator):
        return None
    if not isinstance(generator, list | tuple) or not all(isinstance(one, torch.Generator) for one in generator):
        raise UserError("generator", f"a {type(generator).__name__} is no torch.Generator; give one, or a list of {rows}")
    if len(generator) not in (1, rows):
        raise UserError("generator", f"{len(generator)} generators do not fit {rows} pictures; give one, or {rows}")
    return None if len(generator) == 1 else list(generator)
