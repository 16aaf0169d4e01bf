"""Decides where everything stands: framing, one or two figures, room for a bubble; worse as the score falls."""

import math
import random
from dataclasses import dataclass

from sotediffusion.miniature.figure import Place, headroom
from sotediffusion.miniature.manner import beauty_of
from sotediffusion.miniature.scene import Scene

VISIBLE_HEADS = {"portrait": 1.6, "upper body": 2.12, "cowboy shot": 2.8, "full body": 3.86}  # from skull top to the frame's edge
SOLES = 3.66  # heads from skull top to the ground
BUBBLE_HEIGHT = 210.0  # units


@dataclass(frozen=True)
class Layout:
    """Where things are, in units of the canvas (`brush`)."""

    width: float
    height: float
    places: tuple[Place, ...]
    tilt: float  # degrees the camera leans
    bubble_side: int  # -1 left, +1 right


def lay_out(scene: Scene, aspect: float) -> Layout:
    """The composition of a scene on a canvas of width / height `aspect`."""
    rng = random.Random(f"layout {scene.seed}")
    width, height = 1000 * math.sqrt(aspect), 1000 / math.sqrt(aspect)
    clumsiness = max(0.0, 0.62 - beauty_of(scene)) / 0.62
    side = rng.choice((-1, 1))
    facings = [rng.choice((-1, 0, 0, 1)) for _ in scene.people]
    head, top = _head(scene, width, height, clumsiness)
    swing = rng.uniform(0.5, 1) * side
    xs = _centres(scene, width, head, side, swing * clumsiness)
    top += clumsiness * rng.uniform(-0.1, 0.22) * head
    if len(scene.people) == 2:
        facings = [1, -1] if rng.random() < 0.5 else [0, 0]
    places = tuple(Place(x=x, top=top + rng.uniform(-0.03, 0.03) * head * i, head=head, facing=f, framing=scene.framing)
                   for i, (x, f) in enumerate(zip(xs, facings, strict=True)))
    return Layout(width, height, places, tilt=clumsiness * swing * 13, bubble_side=-side)


def _head(scene: Scene, width: float, height: float, clumsiness: float) -> tuple[float, float]:
    """Head height and where its top is: as large as the framing lets it be."""
    crown, visible = max(headroom(p) for p in scene.people) + 0.06, VISIBLE_HEADS[scene.framing]
    room = BUBBLE_HEIGHT * 0.75 if scene.text and (width < 1100 or len(scene.people) == 2) else 0.0
    head = (height - room) / (crown + visible)
    head = min(head, width / (1.75, 2.75)[len(scene.people) - 1])
    top = crown * head + room
    slack = height - top - visible * head
    top += min(max(0.0, slack), height if scene.framing == "full body" else 0.1 * height)  # feet stand near the lower edge
    return head * (1 - 0.12 * clumsiness), top


def _centres(scene: Scene, width: float, head: float, side: int, swing: float) -> list[float]:
    if len(scene.people) == 2:
        gap = min(width * 0.27, head * 0.95)
        return [width / 2 - gap + swing * 0.08 * width, width / 2 + gap + swing * 0.08 * width]
    drift = 0.0
    if width > 1100:
        drift = 0.13 * side * width if scene.source != "visual novel cg" else 0.04 * side * width
    elif scene.text:
        drift = 0.05 * side * width
    return [width / 2 + drift + swing * 0.1 * width]
