"""How fast work goes: seconds between the steps of a key, from which follows when a job will be done."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sotediffusion.serve.engine.scheduler import Key

NEWEST = 0.2  # what a new reading weighs in the running mean


@dataclass
class Pace:
    """Running means by key; neighbours' turns are in them, because a job waits for those too."""

    seconds: dict[Key, float] = field(default_factory=dict)

    def note(self, key: Key, seconds: float) -> None:
        """So long passed from one step of a run to its next."""
        known = self.seconds.get(key)
        self.seconds[key] = seconds if known is None else known + NEWEST * (seconds - known)

    def left(self, steps: Iterable[tuple[Key, int]]) -> float | None:
        """Seconds for so many steps of each key, None while one of them has never been seen."""
        total = 0.0
        for key, count in steps:
            if count and key not in self.seconds:
                return None
            total += count * self.seconds.get(key, 0.0)
        return total
