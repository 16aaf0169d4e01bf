"""Hair in layers: what falls behind the body, tails and braids, side locks, and the cap with its bangs."""

import math
from functools import lru_cache

from sotediffusion.miniature.ink import Ink, Points, tube
from sotediffusion.miniature.looks import Looks
from sotediffusion.miniature.palette import hair_shade, luma, mix, tint

ABOVE = {"hair bun": 48.0, "spiky hair": 38.0}  # units that a style rises above the skull
GATHERED = ("ponytail", "twintails", "braid", "hair bun")
ENDS = {"short hair": 90.0, "medium hair": 138.0, "long hair": 236.0}  # where loose hair ends
BOB_ENDS = {"short hair": 88.0, "medium hair": 104.0, "long hair": 124.0}
TAIL_ENDS = {"short hair": 84.0, "medium hair": 132.0, "long hair": 212.0}
LOCK_ENDS = {"short hair": 86.0, "medium hair": 114.0, "long hair": 152.0}

FRINGES: tuple[tuple[tuple[float, float], ...], ...] = (  # tips from right to left
    ((32, 51), (18, 46), (3, 54), (-12, 46), (-28, 51)),
    ((33, 49), (22, 44), (9, 45), (-7, 48), (-21, 50), (-33, 56)),
    ((35, 56), (25, 47), (12, 37), (-12, 37), (-25, 47), (-35, 56)),
    ((34, 54), (21, 48), (7, 43), (-8, 46), (-22, 45), (-33, 50)),
)
SPIKY_FRINGE = ((35, 52), (25, 43), (13, 52), (1, 42), (-9, 54), (-21, 43), (-33, 51))
BOB_FRINGE = ((32, 48), (22, 46.5), (11, 46), (0, 46), (-11, 46), (-22, 46.5), (-32, 48))


def mirrored(half: Points) -> Points:
    """The whole of a symmetric shape from its right half, given from the top middle downwards."""
    return half + tuple((-p[0], *p[1:]) for p in reversed(half) if p[0] != 0)


def draw_back(ink: Ink, looks: Looks) -> None:
    """Everything that hangs behind neck and shoulders."""
    person, color = looks.person, hair_shade(looks.hair, 0.14 if luma(looks.hair) > 90 else 0.05)
    if person.hair_style == "ponytail":
        _tail(ink, looks, looks.side, ((28, 0), (50, -12), (67, 10), (69, 58)))
    elif person.hair_style == "twintails":
        for side in (-1, 1):
            _tail(ink, looks, side, ((36, 8), (54, 0), (67, 22), (68, 60)))
    points = back_shape(person.hair_style, person.hair_length)
    ink.fill(points, color, to=hair_shade(looks.hair, 0.36))
    with ink.inside(points):
        if ink.shading > 1:
            ink.shadow(mirrored(((0, 80), (30, 84), (33, 120), (26, 250), (0, 260))), hair_shade(looks.hair, 0.4), 0.6)
    if person.hair_style not in GATHERED and person.hair_style != "bob cut" and person.hair_length != "short hair":
        end = ENDS[person.hair_length]
        for x, top in ((-48, 60), (47, 56), (-38, 96), (39, 92)):
            ink.crease(((x, top), (x * 1.08, (top + end) / 2), (x * 0.94, end - 14)), color, 0.8)


def draw_bun(ink: Ink, looks: Looks) -> None:
    """A coil on top of the head, behind the cap."""
    ink.disc(0, -25, 25, 21, looks.hair)
    if ink.shading:
        ink.oval(6, -20, 17, 13, hair_shade(looks.hair, 0.18), 0.6)
        ink.oval(-5, -29, 15, 11, looks.hair)
    ink.crease(((-19, -18), (-12, -36), (8, -38), (15, -26), (4, -18)), looks.hair, 1.0)
    ink.crease(((21, -18), (17, -36), (2, -43)), looks.hair, 0.9)
    if ink.style.highlights:
        ink.stroke(((-16, -31), (-10, -38), (-2, -40)), tint(looks.hair, 0.55), 3.0)


def draw_front(ink: Ink, looks: Looks) -> None:
    """Side locks, then the cap and its bangs, with strands and the ring of light."""
    _side_locks(ink, looks)
    cap, tips = cap_shape(looks.person.hair_style, looks.fringe)
    ink.fill(cap, looks.hair, to=hair_shade(looks.hair, 0.16))
    with ink.inside(cap):
        ink.shadow(((53, -5), (40, 12), (43, 40), (40, 66), (60, 66)), hair_shade(looks.hair, 0.24), 0.8)
        ink.shadow(((-53, 10), (-45, 26), (-46, 46), (-43, 66), (-60, 66)), hair_shade(looks.hair, 0.2), 0.7)
        _ring(ink, looks)
    for (x0, y0), (x1, y1) in zip(tips, tips[1:], strict=False):
        x, y = (x0 + x1) / 2, min(y0, y1) - 9
        ink.crease(((x, y), (x * 0.93, y - 14), (x * 0.66, y - 30)), looks.hair, 0.9)


def draw_braid(ink: Ink, looks: Looks) -> None:
    """A thick plait over one shoulder."""
    end = {"short hair": 128.0, "medium hair": 164.0, "long hair": 214.0}[looks.person.hair_length]
    start, side = 84.0, looks.side
    count = round((end - start) / 12)
    for i in range(count, -1, -1):
        share = i / count
        size = 1.0 - 0.3 * share
        x = side * (43 - 9 * share + 5 * math.sin(3 * share))
        y = start + (end - start) * share
        if i == count:
            with ink.at(x, y):
                ink.fill(((-5, 0), (5, 0), (8, 12), (4, 23, 1), (0, 15), (-3, 24, 1), (-8, 12)),
                    looks.hair, to=hair_shade(looks.hair, 0.3))
                ink.fill(((-7, -2), (7, -2), (7.5, 4), (-7.5, 4)), looks.accent)
            continue
        for flip in (-1, 1):
            with ink.at(x, y, flip=flip * size):
                ink.fill(((0, 13, 1), (0.5, 3), (7, -6), (13.5, -3), (13, 6), (6, 13)),
                    looks.hair, 0.8, to=hair_shade(looks.hair, 0.3))
                if ink.style.highlights:
                    ink.stroke(((5, 2), (8, -2), (11, -1)), tint(looks.hair, 0.4), 1.8)


def _tail(ink: Ink, looks: Looks, side: int, start: Points) -> None:
    end = TAIL_ENDS[looks.person.hair_length]
    tip = ((68, (62 + end) / 2), (58, end, 1)) if end > 100 else ((64, end, 1),)
    with ink.at(0, 0, flip=side):
        tail = tube(start + tip, (5.0, 13.0, 17.0, 16.5, 14.0, 1.0))
        ink.fill(tail, looks.hair, to=hair_shade(looks.hair, 0.26))
        with ink.inside(tail):
            ink.shadow(tube(tuple((p[0] + 9, p[1] + 3) for p in start + tip), (2.0, 6.0, 8.0, 8.0, 6.0, 1.0)),
                hair_shade(looks.hair, 0.22), 0.75)
            if ink.style.highlights and ink.shading:
                ink.stroke(((46, -6), (57, 2), (61, 20)), tint(looks.hair, 0.5), 5.0)
        ink.crease(((42, -3), (58, 12), (63, 48), (61, end - 16)), looks.hair, 0.9)
        ink.crease(((48, -5), (66, 16), (71, 54), (66, end - 22)), looks.hair, 0.7)
        x, y = start[0][:2]
        ink.fill(((x + 2, y - 9), (x + 10, y - 10), (x + 13, y + 3), (x + 5, y + 7)), looks.accent)


@lru_cache(256)
def back_shape(style: str, length: str) -> Points:
    end = ENDS[length]
    crown = ((0, -10), (20, -8), (36, 3), (46, 20), (49, 45))
    if style in GATHERED:
        if style != "hair bun" or length == "short hair":
            return mirrored(((0, -8), (28, -4), (42, 16), (45, 50), (40, 80), (24, 98, 1), (0, 96)))
        end = 124.0 if length == "medium hair" else 206.0
    if style == "bob cut":
        end = BOB_ENDS[length]
        return mirrored((*crown, (58, 66), (60, end - 16), (48, end, 1), (24, end - 2), (0, end - 5)))
    if style == "hime cut":
        return mirrored((*crown, (53, 80), (55, end, 1), (28, end + 1.5, 1), (0, end, 1)))
    if style == "wavy hair":
        return mirrored((*crown, *_waves(end)))
    if style == "spiky hair":
        return mirrored((*crown, *_spikes(end)))
    spread = 50 + 9 * (end - 90) / 146
    return mirrored((
        *crown, (52, 72), (spread + 2, (72 + end) / 2), (spread - 6, end + 2, 1), (spread - 13, end - 9, 1), (30, end + 4, 1),
        (21, end - 8, 1), (10, end + 5, 1), (0, end - 6, 1),
    ))


def _waves(end: float) -> Points:
    count = max(2, round((end - 50) / 18) // 2 * 2)
    step = (end - 50) / count
    sides = tuple(((61.0 if i % 2 else 50.0) + 3 * i / count, 50 + step * i) for i in range(1, count))
    return (*sides, (66, end - 2, 1), (54, end + 1), (46, end - 8, 1), (36, end + 5), (24, end - 5, 1), (12, end + 6),
        (0, end - 4, 1))


def _spikes(end: float) -> Points:
    count = max(2, round((end - 44) / 22))
    step = (end - 44) / count
    sides: Points = ()
    for i in range(count):
        y = 44 + step * (i + 1)
        sides += ((53, y - 0.55 * step), (67, y + 4, 1), (52, y - 2, 1))
    return (*sides, (44, end + 10, 1), (33, end - 6, 1), (22, end + 12, 1), (10, end - 5, 1), (0, end + 9, 1))


@lru_cache(64)
def cap_shape(style: str, fringe: int) -> tuple[Points, tuple[tuple[float, float], ...]]:
    """The front of the hair, and the tips of its bangs from right to left."""
    right: Points = ((0, -15.5), (16, -13), (32.5, -4), (44.5, 13), (49, 33), (49.5, 50), (47, 66, 1), (41.5, 55), (38.5, 42, 1))
    if style == "spiky hair":
        spikes: Points = (
            (2, -15, 1), (9, -24), (20, -31, 1), (19, -20), (21, -12, 1), (31, -19), (45, -21, 1), (39, -11), (37, -2, 1),
                (48, -3), (62, 3, 1), (51, 9),
            (46, 18, 1), (55, 22), (66, 36, 1), (55, 36), (49, 40, 1), (56, 48), (58, 62, 1), (46, 56), (38.5, 42, 1),
        )
        left = tuple((-p[0], *p[1:]) for p in reversed(spikes[1:]))
        return (*spikes, *_bangs(SPIKY_FRINGE, 11), *left, (-6, -27), (-1, -37, 1)), SPIKY_FRINGE
    left = tuple((-p[0], *p[1:]) for p in reversed(right[1:]))
    if style == "hime cut":
        straight: Points = ((37, 46, 1), (18, 47.5), (0, 48), (-18, 47.5), (-37, 46, 1))
        return (*right, *straight, *left), ((36, 50), (24, 50), (12, 50), (0, 50), (-12, 50), (-24, 50), (-36, 50))
    tips = BOB_FRINGE if style == "bob cut" else FRINGES[fringe]
    return (*right, *_bangs(tips, 4 if style == "bob cut" else 10), *left), tips


def _bangs(tips: tuple[tuple[float, float], ...], depth: float) -> Points:
    edge: Points = ()
    for i, (x, y) in enumerate(tips):
        edge += ((x, y, 1),)
        if i + 1 < len(tips):
            x1, y1 = tips[i + 1]
            gap = abs(x1 - x)
            middle = ((x + x1) / 2, (18.0 if gap > 20 else min(y, y1) - depth), 1)
            edge += (
                ((x + middle[0]) / 2 - 1.6, (y + middle[1]) / 2 + 1.2),
                    middle, ((x1 + middle[0]) / 2 + 1.6, (y1 + middle[1]) / 2 + 1.2),
            )
    return edge


def _side_locks(ink: Ink, looks: Looks) -> None:
    style, end = looks.person.hair_style, LOCK_ENDS[looks.person.hair_length]
    if style in GATHERED:
        end = 100.0
    lock: Points = ((36, 22), (48, 30), (52, 58), (50, end * 0.62 + 24), (44, end, 1), (42, end * 0.55 + 34), (38, 66), (36, 46))
    if style == "hime cut":
        lock = ((35, 22), (49, 30), (52, 60), (52, 97, 1), (34, 97, 1), (34, 66), (35, 46))
    elif style == "bob cut":
        end = BOB_ENDS[looks.person.hair_length] - 4
        lock = ((36, 22), (50, 30), (57, 62), (54, end - 12), (36, end, 1), (41, end - 16), (37, 62))
    elif style == "wavy hair":
        lock = ((36, 22), (49, 30), (55, 54), (47, 72), (54, 90), (46, end, 1), (38, 92), (42, 74), (37, 56))
    elif style == "spiky hair":
        lock = ((36, 22), (49, 30), (55, 58), (57, 84, 1), (47, 76, 1), (43, 98, 1), (38, 70), (36, 46))
    for side in (-1, 1):
        with ink.at(0, 0, flip=side):
            ink.fill(lock, looks.hair, to=hair_shade(looks.hair, 0.26))
            if style != "bob cut":
                ink.crease(((44, 50), (46.5, 66), (45.5, min(end, 98) - 12)), looks.hair, 0.7)


def _ring(ink: Ink, looks: Looks) -> None:
    if not (ink.style.highlights and ink.shading):
        return
    light = tint(looks.hair, 0.5 if luma(looks.hair) > 90 else 0.3)
    if luma(looks.hair) > 225:
        light = mix(looks.hair, (206, 208, 232), 0.75)
    zigzag: Points = (
        (-41, 31, 1), (-36, 20), (-29, 23, 1), (-25, 12), (-18, 16, 1), (-12, 6), (-6, 11, 1), (1, 3), (8, 11, 1), (14, 6),
            (19, 15, 1), (25, 12), (30, 22, 1),
        (36, 20), (41, 31, 1), (34, 27), (29, 32, 1), (24, 20), (18, 25, 1), (12, 15), (6, 20, 1), (0, 12), (-6, 20, 1),
            (-13, 15), (-18, 25, 1), (-25, 20), (-29, 32, 1), (-35, 27),
    )
    ink.shadow(zigzag, light, 0.85)
