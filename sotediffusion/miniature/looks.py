"""What the parts of one figure share while it is drawn: its colours, build and the small free choices of its pose."""

import random
from dataclasses import dataclass

from sotediffusion.miniature.palette import CLOTH, EYES, HAIR, SKIN, Color
from sotediffusion.miniature.scene import Person


@dataclass(frozen=True)
class Build:
    """Half-widths of a grown-up body, in units of a hundredth of a head."""

    shoulder: float
    bust: float
    waist: float
    hip: float
    neck: float
    arm: float


BUILDS = {"girl": Build(47, 38.5, 26.5, 42, 10.5, 8.5), "boy": Build(59, 45, 38, 38, 14.5, 10.5)}


@dataclass(frozen=True)
class Looks:
    """A person made ready for drawing."""

    person: Person
    build: Build
    hair: Color
    eye: Color
    skin: Color
    cloth: Color
    accent: Color  # for ribbons and bands, apart from hair and cloth
    side: int  # -1 or +1: where a ponytail, a braid or a one-handed thing is
    fringe: int  # which cut of bangs
    turn: float  # of the face, units to the side
    glance: int  # -1, 0, +1: where the eyes look
    lift: float  # how far held things are raised to stay in a close framing


def look(person: Person, facing: int, framing: str, rng: random.Random) -> Looks:
    """Choose what the description leaves open."""
    side, fringe = rng.choice((-1, 1)), rng.randrange(4)
    glance = 0 if person.gaze == "looking at viewer" else (facing or rng.choice((-1, 1)))
    skin = rng.choices(SKIN, (6, 4, 2, 1))[0]
    used = (HAIR[person.hair_color], CLOTH[person.outfit_color])
    accents = [CLOTH[n] for n in ("red", "blue", "yellow", "aqua", "purple", "white", "pink") if _apart(CLOTH[n], used)]
    return Looks(
        person, BUILDS[person.kind], used[0], EYES[person.eye_color], skin, used[1], rng.choice(accents), side, fringe,
        5.0 * facing + 2.0 * glance, glance, {"portrait": 36.0, "upper body": 6.0}.get(framing, 0.0),
    )


def _apart(color: Color, others: tuple[Color, ...]) -> bool:
    return all(sum(abs(a - b) for a, b in zip(color, other, strict=True)) > 130 for other in others)
