"""An order under way: the pictures that wait to begin, those that are being drawn, and how far all of it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any

from torch import Tensor

from sotediffusion.generate import DONE, STAGE_C, Run, prior_cells
from sotediffusion.models.cascade import Cascade
from sotediffusion.models.unet import Conditioning
from sotediffusion.serve.engine.pace import Pace
from sotediffusion.serve.engine.scheduler import Key
from sotediffusion.types import Request

STAGE_A, STAGE_B = "stage a", "stage b"


@dataclass(eq=False)
class Seat:
    """A run in the line, and whose it is."""

    order: "Order"
    run: Run
    number: int  # never given twice
    since: float  # its last step, by the engine's clock
    resting: int = 0  # bytes that it holds between steps
    beside: list[int] = field(default_factory=list)  # who went along when it last led

    @property
    def key(self) -> Key:
        """Runs with equal keys share forwards."""
        return self.order.model, *self.run.key

    @property
    def kind(self) -> Key:
        """Its key without LoRA, which change neither the memory nor the time of a step."""
        return self.key[:3]

    @property
    def rows(self) -> int:
        """Of a forward: two while it is guided."""
        return rows_of(self.run.guidance)

    @property
    def steps_done(self) -> int:
        """Of both stages."""
        request = self.run.request
        before = {STAGE_C: 0, STAGE_B: request.steps}.get(self.run.phase, steps_of(request))
        return before + (self.run.index if self.run.phase != DONE else 0)

    @property
    def last_of_prior(self) -> bool:
        """Whether its next step ends Stage C, and it moves on to Stage B within it."""
        return self.run.phase == STAGE_C and self.run.index + 1 == self.run.steps


@dataclass(eq=False)
class Order:
    """Pictures of one request, each begun as soon as there is room for it."""

    id: str
    model: str
    waiting: list[Request]  # one for each picture
    owner: str = ""
    seats: list[Seat] = field(default_factory=list)
    done: int = 0
    alone: bool = False  # the memory was not enough for it beside others

    def __post_init__(self) -> None:
        self.request, self.count = self.waiting[0], len(self.waiting)

    @property
    def over(self) -> bool:
        return self.done == self.count

    @property
    def steps(self) -> int:
        """Of all its pictures, in both stages."""
        return self.count * steps_of(self.request)

    @property
    def step(self) -> int:
        """How many of them are done."""
        return self.done * steps_of(self.request) + sum(seat.steps_done for seat in self.seats)

    @property
    def phase(self) -> str:
        """Where the picture is that is least far."""
        if self.over:
            return DONE
        if self.waiting or not self.seats:
            return STAGE_C
        phase = min(self.seats, key=lambda seat: seat.steps_done).run.phase
        return STAGE_A if phase == DONE else phase

    def left(self, cascade: Cascade, pace: Pace) -> float | None:
        """Seconds until it is done, None while its kind of step has never been seen. Its pictures go side by side."""
        if not self.seats:
            return 0.0 if self.over else None
        done = min(seat.steps_done for seat in self.seats)
        prior = max(self.request.steps - done, 0)
        rest = {STAGE_C: prior, STAGE_B: steps_of(self.request) - done - prior, STAGE_A: 1}
        whole = {STAGE_C: self.request.steps, STAGE_B: self.request.decoder_steps, STAGE_A: 1}
        keys = keys_of(self.model, cascade, self.request)
        first, other = (pace.left((keys[phase], steps) for phase, steps in stages.items()) for stages in (rest, whole))
        rounds = ceil(len(self.waiting) / len(self.seats))
        if first is None or (rounds and other is None):
            return None
        return first + rounds * (other or 0)


def one_by_one(request: Request) -> list[Request]:
    """An order's pictures as orders of one; its seed is settled."""
    assert request.seed is not None
    return [replace(request, seed=request.seed + place, count=1) for place in range(request.count)]


def steps_of(request: Request) -> int:
    """Of a picture, in both stages."""
    return request.steps + request.decoder_steps


def rows_of(guidance: float) -> int:
    """Of a forward."""
    return 2 if guidance > 1 else 1


def keys_of(model: str, cascade: Cascade, request: Request) -> dict[str, Key]:
    """The keys that a picture of a settled request will have in its stages."""
    assert request.width and request.height
    quarter = (request.height // 4, request.width // 4)
    return {
        STAGE_C: (model, STAGE_C, (cascade.config.stage_c.c_latent, *prior_cells(request))),
        STAGE_B: (model, STAGE_B, (cascade.config.stage_b.c_latent, *quarter)),
        STAGE_A: (model, STAGE_A, quarter),
    }


def resting_bytes(run: Run) -> int:
    """What a run's tensors take between steps, whatever shares a storage counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(run)}
    return sum(storages.values())


def _tensors(holder: Any) -> Iterator[Tensor]:
    for entry in fields(holder):
        value = getattr(holder, entry.name)
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Tensor):
                yield part
            elif isinstance(part, Conditioning):
                yield from _tensors(part)
