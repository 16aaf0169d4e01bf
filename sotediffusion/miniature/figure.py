"""Draws one grown-up figure of the drawn world from its description."""

import random
from dataclasses import dataclass

import skia

from sotediffusion.miniature import body, face, hair, headwear, held, outfits
from sotediffusion.miniature.ink import Ink
from sotediffusion.miniature.looks import Looks, look
from sotediffusion.miniature.scene import Person
from sotediffusion.miniature.style import Style

UNIT = 100  # units in a head


@dataclass(frozen=True)
class Place:
    """Where a figure stands: px of the canvas; the head runs from skull top to chin, hair and ears rise above it."""

    x: float  # centre of the head
    top: float  # top of the skull
    head: float  # head height
    facing: int = 0  # -1 left, 0 front, +1 right
    framing: str = "upper body"


def headroom(person: Person) -> float:
    """How far hair, ears or hat rise above the skull, in head heights."""
    rise = [16.0, headwear.ABOVE.get(person.ears or "", 0.0), headwear.ABOVE.get(person.headwear or "", 0.0)]
    rise += [hair.ABOVE.get(person.hair_style, 0.0), held.ABOVE.get(person.held or "", 0.0)]
    return max(rise) / UNIT


def draw_person(canvas: skia.Canvas, person: Person, style: Style, place: Place, rng: random.Random) -> None:
    """Draw `person` at `place`; the same arguments and generator state give the same pixels."""
    looks = look(person, place.facing, place.framing, rng)
    scale = place.head / UNIT
    ink = Ink(canvas, style, scale)
    canvas.save()
    canvas.translate(place.x, place.top)
    canvas.scale(scale, scale)
    held.draw_behind(ink, looks)
    outfits.draw_outfit_back(ink, looks)
    hair.draw_back(ink, looks)
    outfits.draw_outfit(ink, looks)
    _arms(ink, looks, hanging=True)
    _head(ink, looks)
    _arms(ink, looks, hanging=False)
    held.draw_held(ink, looks)
    canvas.restore()


def _head(ink: Ink, looks: Looks) -> None:
    person = looks.person
    if person.hair_style == "hair bun":
        hair.draw_bun(ink, looks)
    face.draw_head(ink, looks)
    face.draw_features(ink, looks)
    if person.ears and person.headwear in (None, "hair ribbon"):
        headwear.draw_ears(ink, looks)
    hair.draw_front(ink, looks)
    face.draw_brows(ink, looks)
    if person.glasses:
        face.draw_glasses(ink, looks)
    if person.hair_style == "braid":
        hair.draw_braid(ink, looks)
    headwear.draw_headwear(ink, looks)
    if person.ears and person.headwear not in (None, "hair ribbon"):
        headwear.draw_ears(ink, looks)  # through the holes of the hat


def _arms(ink: Ink, looks: Looks, hanging: bool) -> None:
    sleeve = outfits.sleeve_of(looks)
    for side, spot in held.hands(looks).items():
        if (spot is None) != hanging:
            continue
        wrist = spot or (side * (looks.build.shoulder + 1), 239.0)
        body.draw_arm(ink, looks, side, wrist, sleeve)
        if spot is None:
            body.draw_hand(ink, looks, wrist, side)
    if hanging:
        outfits.draw_over_arms(ink, looks)
