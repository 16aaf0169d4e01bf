"""Where a run stands: what is reported of it, means over the steps in between, whether it is healthy, and being told to stop."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sotediffusion.train import checkpoint
from sotediffusion.train.distributed import Ranks
from sotediffusion.types import UserError

EXPLODED = 100.0  # times the usual loss
MEMORY = 100  # steps over which the usual loss is taken


@dataclass
class Status:
    """Where a run stands; what a progress bar shows and `stats.jsonl` keeps."""

    images: int
    total: int
    progress: float  # of images or time, whichever is further
    loss: float
    lr: float
    speed: float  # images a second since the last report
    seconds: float  # trained, over all restarts
    numbers: dict[str, float] = field(default_factory=dict)
    outcome: str = "running"  # "finished", "interrupted", "tried"
    steps: int = 0
    signal: int = 0  # that interrupted it

    @property
    def code(self) -> int:
        """What a command leaves with after it: 0, or where a signal stopped it 128 and its number, as in shells."""
        return 128 + self.signal if self.signal else 0


def left(seconds: float, progress: float) -> float:
    """Seconds until the end of a run at the pace so far."""
    return seconds * (1 - progress) / max(progress, 1e-9)


def span(seconds: float) -> str:
    """A time in few letters."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


class Window:
    """Means over the steps since the last report."""

    def __init__(self) -> None:
        self.last: tuple[float, dict[str, float], float] = (math.nan, {}, 0.0)  # loss, numbers, images a second
        self.begin()

    def begin(self) -> None:
        """Forget what was."""
        self.started, self.images, self.loss = time.monotonic(), 0, 0.0
        self.sums: dict[str, tuple[float, int]] = {}

    def pause(self, work: Callable[[], None]) -> None:
        """Do something whose time does not count."""
        since = time.monotonic()
        work()
        self.started += time.monotonic() - since

    def note(self, numbers: dict[str, float]) -> None:
        """Numbers of one forward pass, of this process alone."""
        for key, value in numbers.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = (total + value, count + 1)

    def add(self, loss: float, images: int) -> None:
        """A step's loss."""
        self.images += images
        self.loss += loss * images

    def status(self, place: dict[str, Any], total: int, progress: float, lr: float, ranks: Ranks) -> Status:
        """The means, over all processes, which call this together; a new window begins."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        if self.images:
            self.last = (self.loss / self.images, _means(ranks.gather(self.sums)), self.images / elapsed)
        loss, numbers, speed = self.last
        result = Status(place["images"], total, progress, loss, lr, speed, place["seconds"], numbers, steps=place["steps"])
        self.begin()
        return result


def _means(sums: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
    keys = {key: None for own in sums for key in own}
    parts = {key: [own[key] for own in sums if key in own] for key in keys}
    return {key: sum(total for total, _ in own) / sum(count for _, count in own) for key, own in parts.items()}


class Health:
    """Stops a run whose numbers are none, or whose loss has exploded; what is usual is part of the run's place."""

    def __init__(self, place: dict[str, Any], checkpoints: Path):
        self.place, self.checkpoints = place, checkpoints

    def check(self, loss: float, norm: float) -> None:
        """UserError naming the last good checkpoint."""
        self.finite(loss, norm)
        usual, steps = self.place.get("usual", 0.0), self.place.get("watched", 0)
        if steps >= MEMORY and loss > EXPLODED * usual:
            raise self._stop(f"loss {loss:g}, {loss / usual:.0f} times what is usual,")
        self.place |= {"usual": usual + (loss - usual) / min(steps + 1, MEMORY), "watched": steps + 1}

    def finite(self, loss: float, norm: float = 0.0) -> None:
        """UserError where one of them is no number."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self._stop(f"loss {loss:g} (gradient norm {norm:g})")

    def _stop(self, what: str) -> UserError:
        name = checkpoint.latest(self.checkpoints)
        good = f"the last good checkpoint is {self.checkpoints / name}" if name else "no checkpoint was saved yet"
        return UserError("train", f"{what} after {self.place['images']} images; {good}, lower the lr")


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or Ctrl-C comes, so that the loop can end its step; a second one acts as usual."""
    received: list[int] = []
    earlier: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, earlier[number])

    for wanted in (signal.SIGTERM, signal.SIGINT):
        earlier[wanted] = signal.signal(wanted, note)
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
