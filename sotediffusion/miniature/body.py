"""The body under the clothes: legs, neck and torso, arms with their sleeves, and hands."""

import math
from dataclasses import dataclass
from functools import lru_cache

from sotediffusion.miniature.hair import mirrored
from sotediffusion.miniature.ink import Ink, Points, tube
from sotediffusion.miniature.looks import Build, Looks
from sotediffusion.miniature.palette import DARK, DENIM, STEEL, Color, mix, shade, skin_shade, tint

UPPER_ARM, FOREARM = 58.0, 54.0
SOLE = 362.0  # where the feet stand


@dataclass(frozen=True)
class Sleeve:
    """How an outfit covers the arms."""

    cut: str  # "none", "band", "short", "puff", "long", "loose", "wide", "plate"
    color: Color
    cuff: Color | None = None


@lru_cache(256)
def torso(build: Build, hem: float, flare: float = 0.0, ease: float = 0.0, neckline: float = 112.0) -> Points:
    """A garment from the shoulders to `hem`, `ease` wider than the body and `flare` wider at its hem."""
    b, hip = build, min(226.0, hem - 12)
    return mirrored((
        (0, neckline + 2), (b.neck + 3, neckline - 4, 1), (b.shoulder - 13, 118), (b.shoulder + ease * 0.5, 127),
            (b.shoulder - 3 + ease, 144),
        (b.bust + ease, 163), (b.waist + ease * 1.6, 194), (at_hip(b, hip) + ease + flare * 0.5, hip),
            (at_hip(b, hem) + ease + flare, hem, 1), (0, hem + 4),
    ))


def at_hip(build: Build, y: float) -> float:
    """Half-width of the body between waist and hip at height `y`."""
    share = min(max((y - 194) / 32, 0.0), 1.0)
    return round(build.waist + (build.hip - build.waist) * share, 2)


def draw_legs(ink: Ink, looks: Looks, kind: str) -> None:
    """Two legs: "bare", "stockings", "jeans", "trousers" or "greaves", with shoes."""
    if ink.hidden(-80, 206, 80, SOLE + 8):
        return
    hip = looks.build.hip
    cover = {"bare": looks.skin, "stockings": DARK, "jeans": DENIM, "trousers": shade(looks.cloth, 0.3), "greaves": STEEL}[kind]
    wide = kind in ("jeans", "trousers")
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            bones: Points = ((hip * 0.5, 222), (hip * 0.5, 268), (17, 302), (16.5, SOLE - 9))
            leg = tube(bones, (hip * 0.5, 16.0, 11.5, 11.0) if wide else (hip * 0.48, 15.0, 9.5, 7.0))
            ink.fill(leg, cover, to=shade(cover, 0.16))
            with ink.inside(leg):
                ink.shadow(((0, 215), (9, 240), (10, 300), (12, 360), (-4, 360)), shade(cover, 0.24), 0.8)
            _shoe(ink, kind)
            if wide:
                ink.crease(((8, 300), (16, 304), (22, 299)), cover, 0.8)
                ink.crease(((10, 240), (20, 246), (30, 243)), cover, 0.7)
            if kind == "greaves":
                ink.fill(((8, 294), (17, 288), (26, 294), (24, 308), (17, 314), (10, 308)), tint(STEEL, 0.3))
    if wide or kind == "greaves":
        top = mix(cover, DARK, 0.3) if kind == "greaves" else cover
        ink.fill(mirrored(((0, 214), (hip - 3, 212), (hip, 228), (hip - 2, 244), (4, 252, 1), (0, 250))), top)


def draw_neck(ink: Ink, looks: Looks) -> None:
    """Neck, collar bones and shoulders."""
    b = looks.build
    bare = mirrored((
        (0, 88), (b.neck - 1, 88, 1), (b.neck, 106), (b.neck + 5, 114), (b.shoulder - 12, 119), (b.shoulder - 1, 129),
            (b.shoulder - 4, 150),
        (b.bust - 2, 168, 1), (0, 172),
    ))
    ink.fill(bare, looks.skin)
    with ink.inside(bare):
        ink.shadow(mirrored(((0, 84), (22, 84), (20, 100), (10, 112), (0, 114))), skin_shade(looks.skin, 0.29))
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.crease(((5, 125), (17, 121), (30, 121)), looks.skin, 0.7)


def draw_arm(ink: Ink, looks: Looks, side: int, hand: tuple[float, float], sleeve: Sleeve) -> None:
    """An arm from the shoulder to the wrist at `hand`; the hand itself is drawn by `draw_hand` or `draw_grip`."""
    start = (side * (looks.build.shoulder - 8), 131.0)
    elbow = bend(start, hand, side)
    arm, bones = looks.build.arm, (start, elbow, hand)
    if sleeve.cut in ("none", "short", "puff", "band"):
        ink.fill(tube(bones, (arm, arm * 0.88, arm * 0.62)), looks.skin, to=skin_shade(looks.skin, 0.12))
    if sleeve.cut == "puff":
        _puff(ink, start, elbow, arm, sleeve)
    elif sleeve.cut == "band":
        ink.fill(tube((between(start, elbow, 0.14), between(start, elbow, 0.42)), (arm * 1.25, arm * 1.3)),
            sleeve.color, to=shade(sleeve.color, 0.2))
    elif sleeve.cut == "short":
        end = between(start, elbow, 0.5)
        ink.fill(tube((start, end), (arm * 1.2, arm * 1.35)), sleeve.color, to=shade(sleeve.color, 0.2))
    elif sleeve.cut == "wide":
        _wide(ink, bones, arm, sleeve)
    elif sleeve.cut in ("long", "loose", "plate"):
        _long(ink, bones, arm, sleeve)
    joint = looks.skin if sleeve.cut in ("none", "band") else sleeve.color
    ink.oval(start[0] - side * 4, start[1] - 1, arm + 1, arm, joint)


def bend(start: tuple[float, float], hand: tuple[float, float], side: int) -> tuple[float, float]:
    """Where the elbow is, bent outwards; a hand out of reach straightens the arm."""
    dx, dy = hand[0] - start[0], hand[1] - start[1]
    reach = max(math.hypot(dx, dy), 1e-6)
    along = (UPPER_ARM**2 - FOREARM**2 + min(reach, 110.0) ** 2) / (2 * min(reach, 110.0))
    across = math.sqrt(max(UPPER_ARM**2 - along**2, 0.0)) * 0.85
    ux, uy = dx / reach, dy / reach
    spots = [(start[0] + ux * along + s * uy * across, start[1] + uy * along - s * ux * across) for s in (-1, 1)]
    x, y = max(spots, key=lambda p: p[1] + 0.8 * side * p[0])
    return round(x, 2), round(y, 2)


def between(a: tuple[float, float], b: tuple[float, float], share: float) -> tuple[float, float]:
    return round(a[0] + (b[0] - a[0]) * share, 2), round(a[1] + (b[1] - a[1]) * share, 2)


def draw_hand(ink: Ink, looks: Looks, hand: tuple[float, float], side: int) -> None:
    """An open hand hanging down, thumb to the body."""
    with ink.at(*hand, flip=side):
        ink.fill(((-5, -3), (5, -3), (7, 6), (6, 15), (4, 22), (0, 23), (-4, 19), (-5, 14), (-9, 12), (-10, 7), (-6, 4)),
            looks.skin, 0.8)
        for x in (-0.5, 2.8):
            ink.crease(((x, 21), (x + 0.4, 12)), looks.skin, 0.6)


def draw_grip(ink: Ink, looks: Looks, hand: tuple[float, float], angle: float = 0.0, flip: int = 1) -> None:
    """A fist closed round something that runs along `angle` (0 is upright); fingertips point to -x, mirrored by `flip`."""
    with ink.at(*hand, angle, flip):
        ink.fill(((-6, -10), (6, -10), (10, -4), (10, 6), (6, 11), (-4, 11), (-7, 4)), looks.skin, 0.9)
        for y in (-6.6, -1.8, 3.0, 7.6):
            ink.fill(((-8.5, y - 2.3), (2, y - 2.6), (5, y), (2, y + 2.5), (-8.5, y + 2.2), (-10, y)), looks.skin, 0.55)
        ink.fill(((6, -12), (-2, -14), (-4, -11), (2, -8.5), (7, -6)), looks.skin, 0.6)


def _shoe(ink: Ink, kind: str) -> None:
    color = {"bare": (128, 48, 62), "stockings": (70, 50, 54), "jeans": (236, 234, 238), "trousers": (66, 52, 52),
        "greaves": STEEL}[kind]
    if kind in ("bare", "stockings"):
        pump: Points = (
            (9, SOLE - 11, 1), (14, SOLE - 5), (20, SOLE - 5), (25, SOLE - 11, 1),
            (27, SOLE - 3), (21, SOLE + 4), (13, SOLE + 4), (8, SOLE - 3),
        )
        ink.fill(pump, color, to=shade(color, 0.3))
        return
    ink.fill(((8, SOLE - 14), (25, SOLE - 14), (30, SOLE - 4), (29, SOLE + 3, 1), (7, SOLE + 3, 1), (6, SOLE - 6)),
        color, to=shade(color, 0.3))


def _puff(ink: Ink, start: tuple[float, float], elbow: tuple[float, float], arm: float, sleeve: Sleeve) -> None:
    end = between(start, elbow, 0.46)
    ink.fill(tube((start, between(start, elbow, 0.24), end), (arm * 1.1, arm * 1.9, arm * 1.25)),
        sleeve.color, to=shade(sleeve.color, 0.2))
    for share in (-0.5, 0.1, 0.6):
        x, y = end
        ink.crease(((x + share * arm, y - 1), (x + share * arm * 1.5, y - 10)), sleeve.color, 0.7)
    if sleeve.cuff:
        ink.fill(tube((end, between(start, elbow, 0.56)), (arm * 1.3, arm * 1.35)), sleeve.cuff)


def _long(ink: Ink, bones: tuple[tuple[float, float], ...], arm: float, sleeve: Sleeve) -> None:
    ease = {"long": 1.16, "loose": 1.42, "plate": 1.05}[sleeve.cut]
    start, elbow, hand = bones
    limb = tube(bones, (arm * ease, arm * ease, arm * ease * 0.8))
    ink.fill(limb, sleeve.color, to=shade(sleeve.color, 0.18))
    with ink.inside(limb):
        inner = tuple((x + 5.0, y + 3.0) for x, y in bones)
        ink.shadow(tube(inner, (arm * 0.5, arm * 0.5, arm * 0.4)), shade(sleeve.color, 0.26), 0.7)
    x, y = elbow
    for dy in (-4, 2):
        ink.crease(((x - arm * 0.8, y + dy), (x, y + dy + 2.5), (x + arm * 0.5, y + dy)), sleeve.color, 0.8)
    if sleeve.cuff:
        ink.fill(tube((between(elbow, hand, 0.82), hand), (arm * ease * 0.86, arm * ease * 0.84)), sleeve.cuff, 0.8)
    if sleeve.cut == "plate":
        ink.fill(tube((between(elbow, hand, 0.15), between(elbow, hand, 0.95)), (arm * 1.35, arm * 1.0)),
            tint(sleeve.color, 0.25), to=shade(sleeve.color, 0.2))
        ink.disc(x, y, arm * 1.05, arm * 1.05, tint(sleeve.color, 0.35))


def _wide(ink: Ink, bones: tuple[tuple[float, float], ...], arm: float, sleeve: Sleeve) -> None:
    """A sleeve that opens towards the wrist and hangs down from a raised forearm."""
    start, elbow, hand = bones
    side, drop = (1 if start[0] > 0 else -1), 34.0
    if hand[1] > elbow[1] + 30:
        end = between(elbow, hand, 0.86)
        cloth = tube((start, elbow, end), (arm * 1.1, arm * 1.5, arm * 2.5))
        edge: Points = ((end[0] - arm * 2.2, end[1] - 4), (end[0] + arm * 2.2, end[1] - 4))
    else:
        end = between(elbow, hand, 0.9)
        low = max(end[1], elbow[1] - 20) + drop
        cloth = (
            (start[0] - side * arm, start[1] - 4), (start[0] + side * arm * 0.9, start[1] - 3),
                (elbow[0] + side * arm * 1.2, elbow[1]),
            (elbow[0] + side * arm * 1.2, elbow[1] + drop, 1), (end[0], low, 1), (end[0], end[1] - arm * 1.1, 1),
            (elbow[0] - side * arm, elbow[1] - arm * 0.6),
        )
        edge = ((end[0], end[1] - arm), (end[0], low))
    ink.fill(cloth, sleeve.color, to=shade(sleeve.color, 0.2))
    with ink.inside(cloth):
        ink.shadow(tube((elbow, (elbow[0] + side * 4, elbow[1] + 60)), (arm * 0.4, arm)), shade(sleeve.color, 0.25), 0.7)
        if sleeve.cuff:
            ink.stroke(edge, sleeve.cuff, 7.0, 0.9)
