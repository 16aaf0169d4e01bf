"""The twelve outfits: what is worn on torso, legs and arms, each known by its collar and shoulders in the closest framing."""

from collections.abc import Callable
from dataclasses import dataclass

from sotediffusion.miniature.body import Sleeve, at_hip, draw_legs, draw_neck, torso
from sotediffusion.miniature.hair import mirrored
from sotediffusion.miniature.headwear import draw_bow
from sotediffusion.miniature.ink import Ink, Points
from sotediffusion.miniature.looks import Looks
from sotediffusion.miniature.palette import DARK, DENIM, GOLD, STEEL, WHITE, Color, luma, mix, shade, skin_shade, tint

Painter = Callable[[Ink, Looks], None]


@dataclass(frozen=True)
class Outfit:
    """How to put it on, from back to front."""

    sleeve: Callable[[Looks], Sleeve]
    legs: str
    top: Painter
    back: Painter | None = None


def sleeve_of(looks: Looks) -> Sleeve:
    if looks.person.bare_shoulders:
        return Sleeve("none" if looks.person.outfit == "dress" else "band", tint(looks.cloth, 0.2))
    return OUTFITS[looks.person.outfit].sleeve(looks)


def draw_outfit(ink: Ink, looks: Looks) -> None:
    """Legs, neck and the outfit over them."""
    outfit = OUTFITS[looks.person.outfit]
    draw_legs(ink, looks, outfit.legs)
    draw_neck(ink, looks)
    outfit.top(ink, looks)


def draw_outfit_back(ink: Ink, looks: Looks) -> None:
    """What of the outfit hangs behind neck and back hair."""
    back = OUTFITS[looks.person.outfit].back
    if back:
        back(ink, looks)


def _garment(ink: Ink, points: Points, color: Color, looks: Looks) -> None:
    """A shaded piece of clothing with the folds of bust and waist."""
    ink.fill(points, color, to=shade(color, 0.16))
    b = looks.build
    with ink.inside(points):
        ink.shadow(((b.bust + 12, 130), (b.bust - 10, 158), (b.waist - 7, 194), (b.hip - 12, 250), (b.hip + 40, 340),
            (b.hip + 60, 200)), shade(color, 0.22), 0.8)
        if looks.person.kind == "girl":
            ink.shadow(((-24, 168), (-10, 175), (0, 170), (10, 175), (26, 167), (14, 182), (0, 178), (-14, 182)),
                shade(color, 0.2), 0.75)
    ink.crease(((-b.bust + 3, 152), (-b.bust + 10, 160), (-b.bust + 13, 170)), color, 0.9)
    ink.crease(((b.bust - 3, 152), (b.bust - 10, 160), (b.bust - 12, 168)), color, 0.9)
    ink.crease(((-b.waist, 190), (-b.waist + 12, 196), (-b.waist + 20, 194)), color, 0.8)
    ink.crease(((b.waist, 194), (b.waist - 10, 199), (b.waist - 18, 198)), color, 0.8)


def _off_shoulder(looks: Looks, hem: float, flare: float = 0.0) -> Points:
    b, hip = looks.build, min(228.0, hem - 12)
    return mirrored((
        (0, 148), (16, 145), (b.shoulder - 12, 139), (b.shoulder - 4, 138, 1), (b.shoulder - 4, 150), (b.bust + 1, 164),
            (b.waist + 2, 194),
        (at_hip(b, hip) + 2 + flare * 0.4, hip), (at_hip(b, hem) + 3 + flare, hem, 1), (0, hem + 4),
    ))


def _fold_over(ink: Ink, looks: Looks, color: Color) -> None:
    """The turned-down upper edge of an off-shoulder cut."""
    s = looks.build.shoulder
    ink.fill(mirrored(((0, 149), (18, 145), (s - 12, 139), (s - 3, 138, 1), (s - 3, 156, 1), (s - 12, 159), (18, 163),
        (0, 164))), color, to=shade(color, 0.14))
    for x in (-30, -14, 3, 18, 34):
        ink.crease(((x, 148 - abs(x) * 0.12), (x * 1.04, 158 - abs(x) * 0.1)), color, 0.6)


def _straps(ink: Ink, looks: Looks, color: Color) -> None:
    for flip in (-1, 1):
        ink.stroke(((flip * 24, 117), (flip * 25, 132), (flip * 24, 150)), color, 4.0, 0.9)


def _casual(ink: Ink, looks: Looks) -> None:
    color = looks.cloth
    print_color = looks.accent
    if looks.person.bare_shoulders:
        _straps(ink, looks, mix(color, DARK, 0.5))
        _garment(ink, _off_shoulder(looks, 214), color, looks)
        _fold_over(ink, looks, tint(color, 0.25))
    else:
        _garment(ink, torso(looks.build, 220), color, looks)
        _neckline(ink, looks, shade(color, 0.25))
    star: Points = tuple(
        (round(x, 2), round(y, 2), 1) for x, y in
        ((0, 160), (3.5, 169.4), (13.3, 169.7), (5.7, 175.9), (8.2, 185.3), (0, 180), (-8.2, 185.3), (-5.7, 175.9),
            (-13.3, 169.7), (-3.5, 169.4))
    )
    ink.fill(star, print_color, 0.6)


def _neckline(ink: Ink, looks: Looks, trim: Color) -> None:
    """A round neck cut into a garment: skin with a band of `trim`."""
    n = looks.build.neck
    ink.wash(mirrored(((0, 100), (n - 0.5, 100, 1), (n + 1, 106), (n + 7, 112, 1), (n + 2, 122), (0, 129))), looks.skin)
    ink.shadow(mirrored(((0, 100), (n - 0.5, 100), (n - 2, 108), (0, 113))), skin_shade(looks.skin, 0.29))
    ink.stroke(((-n - 8, 111), (-n - 2, 122), (0, 130), (n + 2, 122), (n + 8, 111)), trim, 4.4, 0.9)


def _hoodie(ink: Ink, looks: Looks) -> None:
    color, b = looks.cloth, looks.build
    _garment(ink, torso(b, 226, ease=7), color, looks)
    ink.fill(mirrored(((0, 196), (17, 197, 1), (27, 216, 1), (0, 218))), tint(color, 0.08))
    ink.fill(mirrored(((0, 219), (b.hip + 5, 219, 1), (b.hip + 4, 229, 1), (0, 231))), shade(color, 0.16))
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(((0, 134, 1), (10, 126), (20, 108), (36, 112), (37, 124), (22, 138), (6, 146)), color, to=shade(color, 0.25))
            ink.wash(((1, 133), (10, 124), (18, 109), (22, 111), (14, 126), (3, 136)), shade(color, 0.35))
            ink.stroke(((9, 138), (10, 152), (9, 166)), WHITE, 3.0, 0.9)
            ink.oval(9, 167, 2.6, 3.4, mix(WHITE, DARK, 0.2))


def _hood(ink: Ink, looks: Looks) -> None:
    color = shade(looks.cloth, 0.2)
    ink.fill(mirrored(((0, 84), (34, 84), (55, 98), (56, 116), (40, 130), (0, 134))), color)
    ink.crease(((-50, 112), (-40, 98), (-30, 92)), color, 0.9)


def _sweater(ink: Ink, looks: Looks) -> None:
    color, b = looks.cloth, looks.build
    bare = looks.person.bare_shoulders
    body = _off_shoulder(looks, 222) if bare else torso(b, 224, ease=5)
    _garment(ink, body, color, looks)
    with ink.inside(body):
        for x in (-30, -20, 20, 30):
            ink.crease(((x, 128), (x * 0.86, 190), (x, 222)), color, 0.6)
        for y in range(134, 222, 13):
            ink.crease(((-8, y), (0, y + 7), (8, y + 13)), color, 0.8)
            ink.crease(((8, y), (3, y + 4)), color, 0.8)
            ink.crease(((-3, y + 9), (-8, y + 13)), color, 0.8)
    ink.fill(mirrored(((0, 216), (b.hip + 3, 215, 1), (b.hip + 2, 226, 1), (0, 228))), shade(color, 0.12))
    if bare:
        _fold_over(ink, looks, tint(color, 0.12))
        return
    n = b.neck
    ink.fill(mirrored(((0, 96), (n + 3, 97), (n + 6, 106), (n + 9, 119), (0, 124))), color, to=shade(color, 0.2))
    for rib in (-9.0, -4.5, 0.0, 4.5, 9.0):
        ink.crease(((rib, 101), (rib * 1.2, 119)), color, 0.7)


def _skirt(ink: Ink, looks: Looks, color: Color, hem: float, flare: float, pleats: int = 6) -> None:
    b = looks.build
    skirt = mirrored(((0, 188), (b.waist, 188, 1), (b.hip + flare * 0.45, 226), (b.hip + flare, hem, 1), (b.hip * 0.4, hem + 6),
        (0, hem + 4)))
    ink.fill(skirt, color, to=shade(color, 0.2))
    with ink.inside(skirt):
        for i in range(pleats):
            x = (2 * i + 1 - pleats) / pleats
            ink.shadow((
                (x * b.waist, 190), (x * (b.hip + flare) + 7, hem + 8, 1), (x * (b.hip + flare) - 3, hem + 8, 1),
            ), shade(color, 0.24), 0.8)
            ink.crease(((x * b.waist, 194), (x * (b.hip + flare * 0.6), 236), (x * (b.hip + flare) - 3, hem)), color, 0.8)


def _dress(ink: Ink, looks: Looks) -> None:
    color, b = looks.cloth, looks.build
    _skirt(ink, looks, color, 316, 24)
    if looks.person.bare_shoulders:
        bodice = mirrored(((0, 153), (12, 147), (24, 142, 1), (b.bust, 152), (b.bust + 1, 164), (b.waist + 1, 196, 1), (0, 198)))
        _straps(ink, looks, color)
        _garment(ink, bodice, color, looks)
        ink.stroke(((-b.bust, 150), (-24, 143), (-10, 148), (0, 154), (10, 148), (24, 143), (b.bust, 150)), tint(color, 0.55),
            4.4, 0.6)
    else:
        _garment(ink, torso(b, 198), color, looks)
        n = b.neck
        ink.wash(mirrored(((0, 100), (n - 0.5, 100, 1), (n + 2, 107), (n + 10, 112, 1), (15, 132), (0, 153, 1))), looks.skin)
        ink.shadow(mirrored(((0, 100), (n - 0.5, 100), (n - 2, 108), (0, 113))), skin_shade(looks.skin, 0.29))
        ink.stroke(((-16, 118), (0, 130), (16, 118)), GOLD, 1.6, 0.8)
        ink.disc(0, 130, 3, 3, looks.accent, 0.5)
        for flip in (-1, 1):
            with ink.at(0, 0, flip=flip):
                collar: Points = ((n + 9, 108, 1), (n + 19, 113), (31, 126, 1), (20, 140), (0, 163, 1), (0, 152, 1), (14, 133))
                ink.fill(collar, WHITE, to=shade(WHITE, 0.12))
    ink.fill(mirrored(((0, 189), (b.waist + 1, 188), (b.waist + 2, 198), (0, 200))), shade(color, 0.34))


def _lapels(ink: Ink, color: Color, depth: float) -> None:
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(((13, 106, 1), (26, 112), (31, 134, 1), (24, 137, 1), (27, 143, 1), (3, depth, 1), (12, 130)),
                color, to=shade(color, 0.1))


def _shirt_front(ink: Ink, looks: Looks, shirt: Color, depth: float) -> None:
    """The V of a shirt with its collar, as seen between lapels."""
    n = looks.build.neck
    ink.wash(((-n - 7, 108, 1), (n + 7, 108, 1), (22, 130), (0, depth, 1), (-22, 130)), shirt)
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(((0, 118, 1), (n + 1, 104, 1), (n + 6, 110), (14, 127, 1)), shirt, 0.8)


def _suit(ink: Ink, looks: Looks) -> None:
    color = shade(looks.cloth, 0.24)
    _garment(ink, torso(looks.build, 240, flare=3, ease=2), color, looks)
    _shirt_front(ink, looks, WHITE, 184)
    tie = looks.accent if luma(looks.accent) < 215 else (196, 44, 56)
    ink.fill(((-5, 118), (5, 118), (4, 127), (8, 164), (0, 178, 1), (-8, 164), (-4, 127)), tie, to=shade(tie, 0.2))
    ink.fill(((-5.5, 117), (5.5, 117), (3.5, 127), (-3.5, 127)), shade(tie, 0.15), 0.7)
    _lapels(ink, color, 190)
    ink.crease(((0, 190), (1, 216), (5, 242)), color, 1.2)
    for y in (199, 214):
        ink.disc(5, y, 2.6, 2.6, shade(color, 0.4))
    ink.wash(((-33, 156, 1), (-20, 154, 1), (-21, 159, 1), (-32, 161, 1)), WHITE)


def _kimono(ink: Ink, looks: Looks) -> None:
    color, b = looks.cloth, looks.build
    band = looks.accent
    robe = mirrored(((0, 184), (b.waist + 4, 186), (b.hip + 5, 226), (b.hip - 1, 300), (b.hip - 6, 346, 1), (0, 350)))
    ink.fill(robe, color, to=shade(color, 0.2))
    ink.crease(((-6, 214), (6, 270), (16, 346)), color, 1.2)
    _garment(ink, torso(b, 206, ease=3), color, looks)
    pale = tint(color, 0.62) if luma(color) < 200 else shade(band, 0.1)
    for x, y in ((-26, 150), (28, 158), (-20, 250), (24, 274), (-10, 312), (30, 232)):
        for turn in range(5):
            with ink.at(x, y, turn * 72):
                ink.oval(0, -4.4, 2.7, 3.6, pale)
        ink.oval(x, y, 2.0, 2.0, GOLD)
    ink.wash(((-b.neck - 1, 104, 1), (b.neck + 1, 104, 1), (12, 124), (0, 150, 1), (-12, 124)), looks.skin)
    ink.fill(((b.neck + 1, 103, 1), (b.neck + 13, 110), (18, 136), (-20, 184, 1), (-30, 178, 1), (6, 138)), WHITE)
    ink.fill(((-b.neck - 1, 103, 1), (-b.neck - 13, 110), (-18, 136), (20, 184, 1), (30, 178, 1), (-6, 138)), pale, 1.1)
    ink.stroke(((-b.neck - 3, 106), (-10, 136), (22, 182)), WHITE, 3.2, 0.8)
    ink.fill(mirrored(((0, 178), (b.waist + 5, 176), (b.waist + 5, 208), (0, 210))), band, to=shade(band, 0.2))
    ink.fill(mirrored(((0, 190), (b.waist + 6, 189), (b.waist + 6, 196), (0, 197))), tint(band, 0.55), 0.7)


def _maid(ink: Ink, looks: Looks) -> None:
    black, b = mix(DARK, looks.cloth, 0.14), looks.build
    _skirt(ink, looks, black, 312, 26)
    _garment(ink, torso(b, 198), black, looks)
    apron = mirrored(((0, 190), (b.waist - 4, 190, 1), (b.hip - 4, 230), (b.hip - 2, 282), (18, 294), (0, 295)))
    ink.fill(apron, WHITE, to=shade(WHITE, 0.14))
    ink.fill(mirrored(((0, 146), (18, 144, 1), (22, 168), (20, 194, 1), (0, 196))), WHITE, to=shade(WHITE, 0.12))
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill((
                (20, 192, 1), (18, 160), (19, 138), (24, 116, 1), (38, 111), (46, 118), (44, 127), (45, 136), (39, 142),
                    (39, 151), (33, 156), (33, 165), (27, 172),
            ), WHITE, to=shade(WHITE, 0.16))
            ink.crease(((24, 120), (22, 144), (22, 170)), WHITE, 0.9)
            for x, y in ((42, 120), (41, 137), (35, 152)):
                ink.crease(((x, y), (x - 8, y + 3)), WHITE, 0.7)
            ink.fill(((0, 118, 1), (7, 110), (13, 105), (24, 112), (20, 124), (9, 131, 1)), WHITE)
    ink.fill(mirrored(((0, 187), (b.waist + 1, 186), (b.waist + 2, 197), (0, 199))), WHITE)
    with ink.at(0, 126):
        draw_bow(ink, looks.cloth if luma(looks.cloth) < 225 and luma(looks.cloth) > 70 else looks.accent, 0.52)


def _armor(ink: Ink, looks: Looks) -> None:
    b, steel = looks.build, STEEL
    ink.fill(mirrored(((0, 200), (b.waist + 4, 198), (b.hip + 8, 226), (b.hip + 12, 252, 1), (b.hip - 6, 262), (10, 248),
        (0, 262, 1))), looks.cloth)
    for x in (-26, 26):
        ink.fill(((x - 14, 206), (x + 14, 206), (x + 19, 240, 1), (x, 250), (x - 19, 240, 1)), steel, to=shade(steel, 0.3))
    plate = torso(b, 206, ease=3)
    _garment(ink, plate, steel, looks)
    with ink.inside(plate):
        ink.shadow(((-30, 126), (-18, 128), (-14, 158), (-24, 170), (-32, 156)), tint(steel, 0.75), 0.85)
        ink.shadow(((6, 130), (24, 126), (28, 160), (8, 172)), tint(steel, 0.4), 0.6)
    ink.crease(((0, 128), (0.5, 166), (0, 204)), steel, 1.2)
    ink.stroke(((-b.bust, 176), (-14, 184), (0, 178), (14, 184), (b.bust, 176)), GOLD, 4.2, 0.7)
    ink.fill(((0, 140, 1), (7, 148, 1), (0, 158, 1), (-7, 148, 1)), looks.cloth, 0.8)
    n = b.neck
    ink.fill(mirrored(((0, 108), (n + 5, 99, 1), (n + 9, 116), (14, 128), (0, 134, 1))), tint(steel, 0.2), to=shade(steel, 0.2))
    ink.stroke(((-n - 5, 100), (-n, 107), (0, 111), (n, 107), (n + 5, 100)), GOLD, 3.4, 0.9)


def draw_over_arms(ink: Ink, looks: Looks) -> None:
    """Shoulder pieces that lie over the sleeves."""
    outfit, s = looks.person.outfit, looks.build.shoulder
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            if outfit == "armor":
                for grow in (6, 0):
                    plate: Points = ((s - 24, 122 + grow), (s - 10, 111 + grow), (s + 8, 114 + grow * 1.5),
                        (s + 15, 132 + grow * 1.6), (s + 9, 143 + grow * 1.6, 1), (s - 12, 138 + grow))
                    ink.fill(plate, tint(STEEL, 0.18), to=shade(STEEL, 0.28))
                ink.stroke(((s - 22, 122), (s - 8, 115), (s + 8, 119), (s + 12, 132)), GOLD, 3.6, 0.5)
            elif outfit == "military uniform":
                ink.fill(((s - 22, 116), (s + 2, 116), (s + 8, 126), (s + 2, 132), (s - 20, 125)), GOLD, to=shade(GOLD, 0.25))
                for x in range(5):
                    ink.stroke(((s - 10 + 4.2 * x, 127), (s - 9 + 4.6 * x, 139)), shade(GOLD, 0.08 if x % 2 else 0.3), 3.2, 0.9)


def _cape(ink: Ink, looks: Looks) -> None:
    s, color = looks.build.shoulder, shade(looks.cloth, 0.12)
    ink.fill(mirrored(((0, 110), (s - 4, 118), (s + 16, 160), (s + 24, 250), (s + 20, 330, 1), (20, 338), (0, 334))),
        color, to=shade(color, 0.35))


def _lab_coat(ink: Ink, looks: Looks) -> None:
    b, coat = looks.build, (248, 249, 252)
    ink.fill(mirrored(((0, 200), (b.waist, 200), (b.hip, 226), (b.hip - 2, 258, 1), (0, 260))), shade(DENIM, 0.45))
    shirt = looks.cloth if luma(looks.cloth) < 225 else (96, 150, 190)
    _garment(ink, torso(b, 214), shirt, looks)
    _shirt_front(ink, looks, shirt, 190)
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            side: Points = (
                (b.neck + 3, 108, 1), (b.shoulder - 12, 117), (b.shoulder + 2, 127), (b.shoulder - 1, 146), (b.bust + 4, 164),
                    (b.waist + 7, 194),
                (b.hip + 10, 230), (b.hip + 14, 300, 1), (20, 304, 1), (14, 230), (12, 180),
            )
            ink.fill(side, coat, to=(204, 212, 230))
            ink.fill(((b.neck + 1, 106, 1), (b.neck + 15, 112), (33, 138, 1), (25, 142, 1), (27, 150, 1), (12, 186, 1),
                (14, 140)), coat, 1.0, to=(222, 228, 240))
            ink.crease(((b.waist + 3, 192), (b.waist - 6, 198), (b.waist - 12, 197)), coat, 0.8)
            ink.crease(((22, 232), (38, 232)), coat, 1.0)
    ink.fill(((24, 160, 1), (36, 160, 1), (35, 176, 1), (25, 176, 1)), coat, 0.8)
    for x, color in ((28, (60, 96, 190)), (32, (204, 60, 66))):
        ink.stroke(((x, 153), (x, 168)), color, 3.0, 0.9)


def _drab(looks: Looks) -> Color:
    return shade(looks.cloth, 0.3) if luma(looks.cloth) > 80 else looks.cloth


def _military(ink: Ink, looks: Looks) -> None:
    b = looks.build
    color = _drab(looks)
    _garment(ink, torso(b, 246, flare=6, ease=2), color, looks)
    for flip in (-1, 1):
        for y in (140, 156, 172, 188):
            ink.disc(flip * 14, y, 3.3, 3.3, GOLD, 0.8)
    for y in (140, 156, 172):
        ink.stroke(((-12, y), (0, y + 1.5), (12, y)), GOLD, 2.4, 0.8)
    n = b.neck
    ink.fill(mirrored(((0, 100), (n + 3, 97, 1), (n + 7, 108), (n + 9, 118), (0, 124))), color)
    ink.stroke(((-n - 8, 117), (0, 124), (n + 8, 117)), GOLD, 3.4, 0.8)
    ink.stroke(((0, 104), (0, 122)), GOLD, 2.6, 0.8)
    ink.stroke(((b.shoulder - 16, 122), (24, 152), (12, 150), (4, 124)), GOLD, 3.0, 0.6)
    ink.fill(mirrored(((0, 196), (b.waist + 4, 195), (b.waist + 6, 206), (0, 208))), (84, 58, 44))
    ink.fill(((-7, 195, 1), (7, 195, 1), (7, 209, 1), (-7, 209, 1)), GOLD)
    ink.stroke(((-30, 122), (-4, 160), (24, 200)), (84, 58, 44), 5.0, 0.9)


def _robe(ink: Ink, looks: Looks) -> None:
    b, color = looks.build, looks.cloth
    gown = mirrored(((0, 124), (b.shoulder - 4, 128), (b.bust + 6, 164), (b.waist + 12, 200), (b.hip + 18, 280),
        (b.hip + 24, 350, 1), (0, 356)))
    _garment(ink, gown, color, looks)
    inner = shade(color, 0.45)
    ink.fill(((-5, 140), (5, 140), (11, 220), (16, 353, 1), (-16, 353, 1), (-11, 220)), inner)
    for flip in (-1, 1):
        ink.stroke(((flip * 6, 150), (flip * 11, 220), (flip * 17, 352)), GOLD, 4.6, 0.9)
        ink.crease(((flip * 24, 200), (flip * 34, 260), (flip * 44, 346)), color, 1.0)
    mantle = mirrored(((0, 112), (b.neck + 9, 104, 1), (b.shoulder - 2, 118), (b.shoulder + 9, 134), (b.shoulder + 8, 148, 1),
        (24, 160), (0, 168, 1)))
    ink.fill(mantle, tint(color, 0.12), to=shade(color, 0.24))
    ink.stroke(((-b.shoulder - 6, 144), (-24, 156), (0, 163), (24, 156), (b.shoulder + 6, 144)), GOLD, 5.0, 0.8)
    for x, y in ((-30, 136), (32, 134), (-16, 146), (18, 146)):
        ink.wash(((x, y - 5, 1), (x + 1.4, y - 1.4, 1), (x + 5, y, 1), (x + 1.4, y + 1.4, 1), (x, y + 5, 1),
            (x - 1.4, y + 1.4, 1), (x - 5, y, 1), (x - 1.4, y - 1.4, 1)), GOLD)
    ink.fill(mirrored(((0, 98), (b.neck + 2, 96), (b.neck + 8, 108), (b.neck + 10, 118), (8, 126), (0, 128))), shade(color, 0.26))
    ink.disc(0, 128, 7, 7, GOLD)
    ink.disc(0, 128, 4.4, 4.4, looks.accent, 0.5)


def _overalls(ink: Ink, looks: Looks) -> None:
    b = looks.build
    shirt = torso(b, 204, ease=2)
    _garment(ink, shirt, looks.cloth, looks)
    stripe = WHITE if luma(looks.cloth) < 200 else (206, 72, 72)
    with ink.inside(shirt):
        for y in range(120, 200, 13):
            ink.stroke(((-64, y - 2), (0, y + 3), (64, y - 2)), stripe, 5.0, 0.9)
    _neckline(ink, looks, stripe)
    bib = mirrored(((0, 152), (22, 151, 1), (24, 180), (b.waist + 5, 196), (b.hip + 4, 226), (b.hip + 3, 246, 1), (0, 250)))
    ink.fill(bib, DENIM, to=shade(DENIM, 0.16))
    for flip in (-1, 1):
        ink.fill(((flip * 17, 158, 1), (flip * 20, 132), (flip * 23, 114, 1), (flip * 33, 116, 1), (flip * 29, 136),
            (flip * 26, 158, 1)), DENIM)
        ink.disc(flip * 20.5, 157, 4.2, 4.2, GOLD, 0.8)
        ink.crease(((flip * 30, 214), (flip * 24, 226), (flip * 34, 234)), DENIM, 0.9)
    ink.fill(((-12, 166, 1), (12, 166, 1), (12, 180), (0, 186), (-12, 180)), tint(DENIM, 0.12), 0.9)
    ink.stroke(((-20, 155), (0, 156), (20, 155)), tint(DENIM, 0.5), 1.4, 0.9)


OUTFITS: dict[str, Outfit] = {
    "casual": Outfit(lambda k: Sleeve("short", k.cloth), "jeans", _casual),
    "hoodie": Outfit(lambda k: Sleeve("loose", k.cloth, shade(k.cloth, 0.18)), "jeans", _hoodie, _hood),
    "sweater": Outfit(lambda k: Sleeve("loose", k.cloth, shade(k.cloth, 0.12)), "trousers", _sweater),
    "dress": Outfit(lambda k: Sleeve("puff", k.cloth, tint(k.cloth, 0.6)), "bare", _dress),
    "suit": Outfit(lambda k: Sleeve("long", shade(k.cloth, 0.24), WHITE), "trousers", _suit),
    "kimono": Outfit(lambda k: Sleeve("wide", k.cloth, tint(k.cloth, 0.6)), "bare", _kimono),
    "maid": Outfit(lambda k: Sleeve("puff", mix(DARK, k.cloth, 0.14), WHITE), "stockings", _maid),
    "armor": Outfit(lambda k: Sleeve("plate", STEEL), "greaves", _armor, _cape),
    "lab coat": Outfit(lambda k: Sleeve("loose", (246, 247, 251)), "trousers", _lab_coat),
    "military uniform": Outfit(lambda k: Sleeve("long", _drab(k), GOLD), "trousers", _military),
    "robe": Outfit(lambda k: Sleeve("wide", k.cloth, GOLD), "bare", _robe),
    "overalls": Outfit(lambda k: Sleeve("short", k.cloth), "jeans", _overalls),
}
