"""How much memory work takes, learnt from measurement: bytes per row for each key, and how many rows fit into what is free."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

from sotediffusion.serve.engine.scheduler import Key

MARGIN = 1.2  # over what was measured at this very key
GUESS = 2.0  # over what follows from another shape of the same phase
READINGS = 2  # of forwards with equal rows: the first also pays for what is made once


@dataclass(frozen=True)
class EngineLimits:
    """What an engine may take, and how often it shows something."""

    memory: int | None = None  # bytes for weights and work; None: most of what is free on the device
    rows: int = 64  # of a forward; a guided picture takes two
    live: int | None = None  # pictures under way at a time; None: 8 on a CPU, which gains little by more, else 64
    preview_steps: int = 4  # of Stage C between two previews of an order; 0: no previews


@dataclass
class Footprint:
    """What is known of a key: the bytes of the largest forward measured, and the rows at which the memory ran out."""

    rows: int = 0
    taken: int = 0
    readings: int = 0
    refused: int | None = None


@dataclass
class Footprints:
    """Bytes by key (..., shape): they grow with the rows and, from one shape to another, with the cells."""

    known: dict[Key, Footprint] = field(default_factory=dict)

    def unsure(self, key: Key, rows: int) -> bool:
        """Whether measuring a forward of so many rows would tell something new."""
        of_key = self.known.get(key)
        return of_key is None or rows > of_key.rows or (rows == of_key.rows and of_key.readings < READINGS)

    def note(self, key: Key, rows: int, taken: int) -> None:
        """A forward of `rows` rows took `taken` bytes above what rests; the largest forward counts, its first reading least."""
        of_key = self.known.setdefault(key, Footprint())
        if rows > of_key.rows:
            of_key.rows, of_key.taken, of_key.readings = rows, taken, 1
        elif rows == of_key.rows:
            of_key.taken = taken if of_key.readings == 1 else max(of_key.taken, taken)
            of_key.readings += 1

    def refuse(self, key: Key, rows: int) -> None:
        """The memory ran out at so many rows: from now on at most half as many go."""
        of_key = self.known.setdefault(key, Footprint())
        of_key.refused = rows if of_key.refused is None else min(rows, of_key.refused)

    def per_row(self, key: Key) -> float | None:
        """Bytes of a row with a margin, taken from the nearest shape where this one is new; None where nothing is known."""
        own = self.known.get(key)
        if own is not None and own.rows:
            return MARGIN * own.taken / own.rows
        kin = [(_cells(other), seen) for other, seen in self.known.items() if other[:-1] == key[:-1] and seen.rows]
        if not kin:
            return None
        cells = _cells(key)
        nearest, seen = min(kin, key=lambda pair: abs(pair[0] - cells))
        return GUESS * seen.taken / seen.rows * cells / nearest

    def fit(self, key: Key, room: float) -> int:
        """How many rows fit into `room` bytes, 0 for not even one; what nothing is known of goes one by one until measured."""
        row = self.per_row(key)
        fitting = 1 if row is None else int(max(room, 0) // max(row, 1))
        refused = self.known[key].refused if key in self.known else None
        return fitting if refused is None else min(fitting, max(refused // 2, 1))


def _cells(key: Key) -> int:
    shape: Any = key[-1]
    return prod(shape)
