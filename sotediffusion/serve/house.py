"""All that stands behind the doors of one server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sotediffusion.serve.doors.words import Words
from sotediffusion.serve.gateway import Gateway
from sotediffusion.serve.metrics import Metrics
from sotediffusion.serve.walls.callers import Doorkeeper
from sotediffusion.serve.walls.duties import Duties
from sotediffusion.serve.walls.security import Walls


@dataclass
class House:
    """What the app is made from."""

    gateway: Gateway
    doorkeeper: Doorkeeper
    duties: Duties
    words: Words
    metrics: Metrics
    walls: Walls = Walls()
    ready: Callable[[], bool] = lambda: True  # whether the worker of this server has its model open, or is others' business
    trouble: Callable[[], str] = lambda: ""  # why the last worker ended
    public: bool = False  # others than the operator can reach it
    retention_s: float = 7 * 24 * 3600.0  # that finished jobs are kept
    page: Mapping[str, Any] = field(default_factory=dict)  # prompts and sizes for the page
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by name
