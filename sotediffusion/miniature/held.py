"""Held things, and the hands and arms that hold them."""

from collections.abc import Callable
from dataclasses import dataclass

from sotediffusion.miniature.body import draw_grip
from sotediffusion.miniature.ink import Ink, Points, tapered
from sotediffusion.miniature.looks import Looks
from sotediffusion.miniature.palette import DARK, GOLD, WHITE, Color, mix, shade, tint

ABOVE = {"umbrella": 68.0}  # units that a thing rises above the skull
Spot = tuple[float, float]


@dataclass(frozen=True)
class Hold:
    """Where the hands are (screen left and right; None hangs down), in units before the lift, for a thing on the right."""

    left: Spot | None
    right: Spot | None


HOLDS: dict[str, Hold] = {
    "guitar": Hold((-54, 159), (22, 186)),
    "book": Hold((-33, 172), (33, 172)),
    "umbrella": Hold(None, (40, 166)),
    "sword": Hold(None, (54, 184)),
    "cup": Hold((-15, 164), (15, 164)),
    "bouquet": Hold((-7, 196), (7, 188)),
    "phone": Hold(None, (48, 148)),
    "microphone": Hold(None, (24, 128)),
}


def hands(looks: Looks) -> dict[int, Spot | None]:
    """Hand positions by screen side, mirrored and lifted as the figure needs; None for a hanging arm."""
    if looks.person.held is None:
        return {-1: None, 1: None}
    hold = HOLDS[looks.person.held]
    lift = lift_of(looks)
    placed = {-1: hold.left, 1: hold.right}
    return {s: None if (spot := placed[s * looks.side]) is None else (spot[0] * looks.side, spot[1] - lift) for s in (-1, 1)}


def lift_of(looks: Looks) -> float:
    """How far the thing is raised; what is near the face already stays below the mouth."""
    return looks.lift * {"microphone": 0.1, "bouquet": 0.35, "phone": 0.6, "umbrella": 0.0}.get(looks.person.held or "", 1.0)


def draw_behind(ink: Ink, looks: Looks) -> None:
    """What of the thing is behind the figure: an open umbrella."""
    if looks.person.held == "umbrella":
        with ink.at(0, -lift_of(looks), flip=looks.side):
            _canopy(ink, looks)


def draw_held(ink: Ink, looks: Looks) -> None:
    """The thing, then the hands round it."""
    held = looks.person.held
    if held is None:
        return
    with ink.at(0, -lift_of(looks), flip=looks.side):
        THINGS[held](ink, looks)


def _guitar(ink: Ink, looks: Looks) -> None:
    wood, top = (150, 78, 40), (226, 150, 74)
    with ink.at(20, 184, 20):
        ink.fill(((-100, -5, 1), (-30, -4, 1), (-30, 4, 1), (-100, 5, 1)), (96, 60, 44))
        ink.fill(((-118, -8, 1), (-99, -7, 1), (-99, 7, 1), (-118, 8, 1), (-122, 0)), wood)
        for x in (-114.0, -107.0, -102.0):
            for y in (-10.0, 10.0):
                ink.oval(x, y, 2.6, 2.6, GOLD)
        body: Points = ((-34, 0), (-32, -20), (-16, -25), (-2, -19), (14, -26), (36, -27), (46, -8), (46, 8), (36, 27),
            (14, 26), (-2, 19), (-16, 25), (-32, 20))
        ink.fill(tuple((x * 1.04 + 1, y * 1.05 + 3) for x, y in body), wood)
        ink.fill(body, top, 0.9, to=shade(top, 0.16))
        with ink.inside(body):
            ink.shadow(((-36, -10), (-20, -20), (0, -14), (24, -22), (0, -30), (-40, -28)), tint(top, 0.45), 0.7)
        ink.disc(-8, 0, 11, 11, (112, 60, 36), 0.6)
        ink.oval(-8, 0, 8.4, 8.4, (58, 34, 28))
        ink.fill(((24, -11, 1), (31, -11, 1), (31, 11, 1), (24, 11, 1)), (92, 54, 36), 0.6)
        for y in (-2.7, 0.0, 2.7):
            ink.stroke(((-100, y), (28, y)), (248, 240, 222), 1.0, 0.9)
        for x in (-88.0, -76.0, -64.0, -52.0, -42.0):
            ink.stroke(((x, -4.4), (x, 4.4)), GOLD, 1.2, 0.9)
    draw_grip(ink, looks, (-54, 157), 110, 1)
    draw_grip(ink, looks, (18, 186), 70, -1)


def _book(ink: Ink, looks: Looks) -> None:
    cover = looks.accent
    ink.fill(((-44, 140, 1), (0, 150, 1), (44, 140, 1), (44, 186, 1), (0, 197, 1), (-44, 186, 1)), cover, to=shade(cover, 0.2))
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(((1, 147, 1), (18, 136), (41, 137, 1), (41, 142, 1), (18, 142), (1, 152, 1)), (250, 246, 232), 0.7)
    ink.crease(((0, 151), (0.4, 172), (0, 196)), cover, 1.4)
    trim = tint(cover, 0.6)
    for flip in (-1, 1):
        ink.stroke(((flip * 7, 156), (flip * 38, 149)), trim, 2.0, 0.9)
        ink.stroke(((flip * 7, 189), (flip * 38, 181)), trim, 2.0, 0.9)
    ink.fill(((22, 160, 1), (28, 167, 1), (22, 175, 1), (16, 168, 1)), GOLD, 0.6)
    for flip in (-1, 1):
        draw_grip(ink, looks, (flip * 38, 178), -flip * 20, flip)


def _canopy(ink: Ink, looks: Looks) -> None:
    color = looks.accent
    ink.stroke(((41, 176), (30, 90), (20, -30)), (96, 84, 90), 4.6, 0.9)
    dome: Points = ((-84, 34, 1), (-78, -6), (-44, -42), (12, -56), (66, -40), (102, -2), (108, 40, 1), (90, 28), (68, 34, 1),
        (42, 22), (12, 28, 1), (-18, 20), (-44, 28, 1), (-64, 22))
    ink.fill(dome, color, to=shade(color, 0.24))
    with ink.inside(dome):
        for x0, x1 in ((-44, -16), (68, 42)):
            ink.shadow(((12, -58, 1), (x0, 36, 1), (x1 - 2, 24), (12, 28, 1)), mix(color, WHITE, 0.55), 0.9)
    for x, y in ((-44, 28), (12, 28), (68, 34)):
        ink.crease(((12, -55), ((x + 12) / 2 + (x - 12) * 0.14, (y - 55) / 2), (x, y)), color, 1.0)
    ink.fill(((9, -54, 1), (12, -68, 1), (15, -54, 1)), (96, 84, 90))


def _umbrella(ink: Ink, looks: Looks) -> None:
    ink.stroke(((34, 112), (40, 160), (44, 196)), (96, 84, 90), 4.8, 0.9)
    ink.stroke(((43, 192), (45, 210), (53, 214), (57, 204)), (126, 78, 50), 6.4, 0.9)
    draw_grip(ink, looks, (40, 166), -8, 1)


def _sword(ink: Ink, looks: Looks) -> None:
    with ink.at(54, 184, 9):
        blade: Points = ((-7.5, -14, 1), (-7, -122), (0, -142, 1), (7, -122), (7.5, -14, 1))
        ink.fill(blade, (222, 230, 242))
        ink.wash(((0.4, -14, 1), (0.4, -140, 1), (7, -122), (7.5, -14, 1)), (164, 176, 202))
        ink.stroke(((-3.5, -22), (-3.4, -110)), WHITE, 2.0, 0.6)
        ink.fill(((-23, -19), (0, -16), (23, -19), (24, -12), (0, -9), (-24, -12)), GOLD, to=shade(GOLD, 0.3))
        ink.disc(0, -14, 4.4, 4.4, looks.accent, 0.6)
        ink.fill(((-4, -10, 1), (4, -10, 1), (4, 18, 1), (-4, 18, 1)), (98, 56, 50))
        ink.disc(0, 20, 5.6, 5.6, GOLD)
        draw_grip(ink, looks, (0, 2), 0, 1)


def _cup(ink: Ink, looks: Looks) -> None:
    china = WHITE if sum(looks.cloth) < 640 else looks.accent
    ink.fill(((17, 154), (31, 152), (33, 166), (18, 172), (17, 167), (27, 164), (27, 157), (17, 159)), china)
    ink.fill(((-21, 146, 1), (21, 146, 1), (20, 164), (14, 179, 1), (0, 181), (-14, 179, 1), (-20, 164)),
        china, to=shade(china, 0.14))
    ink.disc(0, 146, 21, 4.6, tint(china, 0.3), 0.8)
    ink.oval(0, 146.4, 18, 3.2, (126, 78, 50))
    ink.stroke(((-19, 160), (0, 164), (19, 160)), looks.accent if china == WHITE else WHITE, 5.0, 0.9)
    for x in (-7, 6):
        ink.canvas.drawPath(tapered(((x, 143), (x + 3, 138), (x - 2, 133), (x + 2, 126)), 3.2), ink.paint(WHITE, 0.75))
    draw_grip(ink, looks, (-20, 166), 14, -1)
    draw_grip(ink, looks, (20, 166), -14, 1)


def _bouquet(ink: Ink, looks: Looks) -> None:
    paper = (250, 240, 226)
    for x, y in ((-30.0, 140.0), (30.0, 140.0), (-18.0, 128.0), (18.0, 128.0), (0.0, 124.0)):
        ink.fill(((x * 0.4, 176, 1), (x - 7, y + 4), (x * 1.1, y - 12, 1), (x + 7, y + 4)), (92, 160, 92), 0.8)
    ink.fill(((-37, 154, 1), (0, 164), (37, 154, 1), (9, 194), (15, 212, 1), (-15, 212, 1), (-9, 194)),
        paper, to=shade(paper, 0.16))
    ink.crease(((-20, 162), (-6, 192)), paper, 0.9)
    ink.crease(((20, 162), (6, 192)), paper, 0.9)
    blooms: tuple[tuple[float, float, Color], ...] = (
        (-12, 136, (250, 120, 150)), (13, 136, (252, 214, 92)), (-25, 150, (252, 214, 92)), (25, 150, (236, 76, 92)),
            (0, 152, WHITE),
    )
    for x, y, color in blooms:
        for turn in range(5):
            with ink.at(x, y, turn * 72):
                ink.disc(0, -6.6, 5.6, 6.2, color, 0.6)
        ink.disc(x, y, 4.2, 4.2, (250, 186, 60) if color != (252, 214, 92) else (206, 110, 52), 0.5)
    draw_grip(ink, looks, (-5, 196), 80, 1)
    draw_grip(ink, looks, (9, 190), 100, -1)


def _phone(ink: Ink, looks: Looks) -> None:
    case = looks.accent
    with ink.at(46, 134, 10):
        ink.fill(((-14, -27), (-11, -30), (11, -30), (14, -27), (14, 24), (11, 27), (-11, 27), (-14, 24)),
            case, to=shade(case, 0.2))
        ink.fill(((-10, -26), (1, -26), (1, -14), (-10, -14)), shade(case, 0.4), 0.7)
        for x, y in ((-7.0, -22.5), (-2.0, -22.5), (-4.5, -17.5)):
            ink.oval(x, y, 2.4, 2.4, (40, 40, 56))
            ink.oval(x - 0.6, y - 0.6, 0.8, 0.8, WHITE)
        ink.fill(((0, -6), (6, -8), (6, 2), (0, 9, 1), (-6, 2), (-6, -8)), tint(case, 0.6), 0.4)
    draw_grip(ink, looks, (47, 152), 10, 1)


def _microphone(ink: Ink, looks: Looks) -> None:
    with ink.at(24, 128, -16):
        ink.fill(((-5, -16, 1), (5, -16, 1), (3.6, 24, 1), (-3.6, 24, 1)), DARK, to=shade(DARK, 0.3))
        ink.disc(0, -24, 11, 11.5, (172, 178, 192))
        ink.oval(-3, -27, 5.4, 5.4, (222, 226, 236))
        for step in (-5, 0, 5):
            ink.stroke(((-10, -24 + step), (0, -22 + step), (10, -24 + step)), (108, 112, 126), 1.2)
            ink.stroke(((step, -35), (step * 1.4, -24), (step, -14)), (108, 112, 126), 1.2)
        ink.fill(((-8, -15), (8, -15), (7, -10), (-7, -10)), GOLD, 0.7)
        draw_grip(ink, looks, (0, 3), 0, 1)


THINGS: dict[str, Callable[[Ink, Looks], None]] = {
    "guitar": _guitar, "book": _book, "umbrella": _umbrella, "sword": _sword, "cup": _cup, "bouquet": _bouquet, "phone": _phone,
    "microphone": _microphone,
}
