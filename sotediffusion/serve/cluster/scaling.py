"""How many replicas the length of the queue calls for."""

from dataclasses import dataclass

from sotediffusion.types import UserError


@dataclass(frozen=True)
class Scaling:
    """How many replicas there may be. They get more at once, and fewer when fewer have been enough for a while."""

    least: int = 1
    most: int | None = None  # None: as many as the cluster has places for now
    each: int = 8  # jobs, waiting or running, that one replica is to look after
    calm_s: float = 60.0

    def __post_init__(self) -> None:
        if self.least < 1:
            raise UserError("scaling.least", f"{self.least} replicas draw nothing; give 1 or more")
        if self.most is not None and self.most < self.least:
            raise UserError("scaling.most", f"{self.most} is below scaling.least, {self.least}; give {self.least} or more")
        if self.each < 1 or self.calm_s < 0:
            raise UserError("scaling", "each must be 1 or more and calm_s 0 or more; change the one that is not")


class Policy:
    """Wanted counts over time."""

    def __init__(self, scaling: Scaling):
        self.scaling = scaling
        self._enough: list[tuple[float, int]] = []  # when which count was enough, within the last `calm_s`

    def wanted(self, jobs: int, places: int, now: float) -> int:
        """Replicas for so many jobs that wait or run: the most that were called for within `calm_s` seconds, and now.

        `places`: how many the cluster can hold; `now`: s, by any clock that goes on.
        """
        scaling = self.scaling
        most = max(places, scaling.least) if scaling.most is None else scaling.most
        called_for = min(max(-(-jobs // scaling.each), scaling.least), most)
        self._enough = [(at, count) for at, count in self._enough if now - at < scaling.calm_s] + [(now, called_for)]
        return min(max(count for _, count in self._enough), most)
