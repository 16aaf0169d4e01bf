"""How a run is getting on: pictures a second, time left, and what was dropped for which reason."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

EVERY = 0.5  # seconds between reports
WINDOW = 30.0  # seconds that the speed is the mean of


@dataclass(frozen=True)
class Progress:
    """A sign of life."""

    stage: str  # the steps in work, joined with +
    number: int  # of the stage, from 0
    stages: int
    done: int  # pictures of those that this stage had to do
    total: int
    speed: float  # pictures a second; 0 before there is any
    left: float | None  # seconds, where it can be told
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # step -> reason -> pictures, earlier runs included


class Watch:
    """Counts, and reports now and then."""

    def __init__(self, report: Callable[[Progress], None]):
        self.report = report
        self.name, self.number, self.stages = "", 0, 0
        self.dropped: Mapping[str, Counter[str]] = {}
        self.work(0, {})

    def say(self, what: str) -> None:
        self.name = what
        self.show()

    def stage(self, number: int, stages: int, name: str) -> None:
        self.number, self.stages, self.name = number, stages, name
        self.work(0, self.dropped)

    def work(self, total: int, dropped: Mapping[str, Counter[str]]) -> None:
        """A new load begins."""
        self.done, self.total, self.dropped = 0, total, dropped
        self.marks = [(time.monotonic(), 0)]
        self.shown = 0.0

    def fed(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown >= EVERY:
            self.marks = [*(mark for mark in self.marks if now - mark[0] < WINDOW), (now, self.done)]
            self.show()

    def reached(self, done: int, total: int) -> None:
        """The same of a load whose size is known only while it is worked on."""
        if total != self.total:
            self.work(total, self.dropped)
        self.fed(done - self.done)

    def show(self) -> None:
        self.shown = time.monotonic()
        since, before = self.marks[0]
        speed = (self.done - before) / max(self.shown - since, 1e-3) if self.done > before else 0.0
        left = max(self.total - self.done, 0) / speed if speed else None
        dropped = {step: dict(reasons) for step, reasons in self.dropped.items() if reasons}
        self.report(Progress(self.name, self.number, self.stages, min(self.done, self.total), self.total, speed, left, dropped))
