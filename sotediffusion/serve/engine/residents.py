"""The models of a server: known by name, opened when they are first asked for, and sent away when another needs their memory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sotediffusion.models.cascade import Cascade
from sotediffusion.names import unknown
from sotediffusion.weights.reading import read
from sotediffusion.weights.store import dtype_named, open_cascade

Opener = Callable[[Path, str | None, str], Cascade]


@dataclass
class Residents:
    """Opened cascades, the least recently used first. `places` says where a name's weights lie; a job can say names only."""

    places: Mapping[str, Path]
    dtype: str | None = None
    device: str = "cpu"
    opener: Opener = open_cascade
    opened: dict[str, Cascade] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # bytes, by the files' headers until a model was opened

    def check(self, name: str) -> None:
        """UserError: no such model here."""
        if name not in self.places:
            raise unknown("model", name, self.places)

    def use(self, name: str) -> Cascade:
        """The model, opened if it was not. UserError: as `open_cascade`."""
        if name in self.opened:
            self.opened[name] = self.opened.pop(name)
            return self.opened[name]
        cascade = self.opener(self.places[name], self.dtype, self.device)
        self.opened[name], self.sizes[name] = cascade, _taken(cascade)
        return cascade

    @property
    def bytes(self) -> int:
        """What the weights of the opened ones take."""
        return sum(self.sizes[name] for name in self.opened)

    def make_room(self, name: str, room: Callable[[], float], busy: Collection[str]) -> bool:
        """Send models away that are not busy until this one fits into `room()` bytes, or is alone; whether it may be used now.

        UserError: its files cannot be read.
        """
        if name in self.opened or not self.opened:
            return True
        needed = self._needed(name)
        for idle in [other for other in self.opened if other not in busy]:
            if needed <= room():
                break
            del self.opened[idle]
        return needed <= room() or not self.opened

    def _needed(self, name: str) -> int:
        if name not in self.sizes:
            kind, parts = dtype_named(self.dtype), read(self.places[name]).parts.values()
            self.sizes[name] = sum(part.bytes if kind is None else part.parameters * kind.itemsize for part in parts)
        return self.sizes[name]


def _taken(cascade: Cascade) -> int:
    networks = cascade.parts().values()
    return sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers()))
