"""What is on top of the head: animal ears, hats and a ribbon."""

from sotediffusion.miniature.ink import Ink, Points, tube
from sotediffusion.miniature.looks import Looks
from sotediffusion.miniature.palette import DARK, WHITE, Color, luma, mix, shade, tint

ABOVE = {  # units above the skull
    "cat ears": 50.0, "fox ears": 63.0, "rabbit ears": 78.0, "witch hat": 78.0, "beret": 46.0, "straw hat": 43.0,
        "hair ribbon": 38.0,
}
CAT: Points = ((11, 2, 1), (22, -20), (42, -47, 1), (50, -18), (49, 14, 1), (30, 12))
CAT_INNER: Points = ((21, 0, 1), (28, -16), (40, -36, 1), (44, -14), (43, 6, 1))
FOX: Points = ((9, 2, 1), (22, -26), (46, -60, 1), (56, -24), (51, 18, 1), (28, 12))
FOX_TIP: Points = ((24, -34, 1), (46, -64, 1), (62, -34, 1), (52, -38, 1), (44, -29, 1), (36, -37, 1))
FOX_INNER: Points = ((20, 2, 1), (28, -10, 1), (27, -20), (42, -42, 1), (49, -18), (44, -8, 1), (46, 10, 1))


def draw_ears(ink: Ink, looks: Looks) -> None:
    """Animal ears in the colour of the hair."""
    kind = looks.person.ears
    for side in (-1, 1):
        with ink.at(0, 0, flip=side):
            if kind == "rabbit ears":
                _rabbit(ink, looks, side)
            elif kind == "fox ears":
                ink.fill(FOX, looks.hair)
                with ink.inside(FOX):
                    ink.wash(FOX_TIP, DARK if luma(looks.hair) > 75 else (236, 232, 238))
                ink.wash(FOX_INNER, (252, 246, 240))
                ink.shadow(((26, 4), (36, -6), (44, 4), (36, 14)), (226, 206, 200), 0.8)
            else:
                ink.fill(CAT, looks.hair, to=shade(looks.hair, 0.2))
                ink.wash(CAT_INNER, _pink(looks))
                ink.shadow(((22, 2, 1), (30, -12), (34, 6)), shade(_pink(looks), 0.2), 0.8)


def draw_headwear(ink: Ink, looks: Looks) -> None:
    """Hat or ribbon."""
    kind = looks.person.headwear
    if kind == "witch hat":
        _witch_hat(ink, looks.accent)
    elif kind == "beret":
        _beret(ink, looks.accent)
    elif kind == "straw hat":
        _straw_hat(ink, looks.accent)
    elif kind == "hair ribbon":
        with ink.at(-looks.side * 30, -8, -looks.side * 14):
            draw_bow(ink, looks.accent, 1.0)


def draw_bow(ink: Ink, color: Color, size: float) -> None:
    """A ribbon bow about the origin, 2 x 31 units wide at size 1."""
    ink.canvas.save()
    ink.canvas.scale(size, size)
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(((2, 3, 1), (10, 10), (20, 30, 1), (12, 29, 1), (7, 32, 1), (1, 14)), shade(color, 0.12))
            ink.fill(((2, -3), (16, -16), (30, -18), (31, 2), (28, 15), (14, 9), (2, 4)), color, to=shade(color, 0.2))
            ink.shadow(((4, 0, 1), (14, -6), (25, -2), (14, 3)), shade(color, 0.3), 0.8)
    ink.fill(((-6, -6), (0, -7), (6, -6), (6.5, 6), (0, 7), (-6.5, 6)), color)
    ink.canvas.restore()


def _pink(looks: Looks) -> Color:
    return mix((255, 168, 176),
        looks.skin, 0.25) if luma(looks.hair) < 185 or looks.person.hair_color != "pink" else (255, 216, 222)


def _rabbit(ink: Ink, looks: Looks, side: int) -> None:
    up = side != looks.side
    bones: Points = ((19, 4), (23, -22), (29, -48), (30, -76)) if up else ((19, 4), (24, -22), (33, -44), (52, -50), (70, -34))
    widths = (8.0, 12.0, 13.0, 1.0) if up else (8.0, 12.0, 13.0, 12.0, 2.0)
    ink.fill(tube(bones, widths), looks.hair)
    ink.wash(tube(bones[:-1] + ((bones[-1][0] - 1, bones[-1][1] + 7),), tuple(w * 0.52 for w in widths)), _pink(looks))
    if not up:
        ink.crease(((25, -50), (34, -44), (36, -32)), looks.hair, 1.0)


def _witch_hat(ink: Ink, band: Color) -> None:
    felt = (74, 56, 108)
    cone: Points = ((-39, 6, 1), (-30, -24), (-16, -52), (6, -72), (34, -74), (48, -62, 1), (30, -58), (24, -44), (34, -16),
        (40, 6, 1), (0, 10))
    ink.fill(cone, felt, to=shade(felt, 0.3))
    with ink.inside(cone):
        ink.shadow(((40, 10), (20, -20), (18, -50), (34, -66), (52, -60), (50, 10)), shade(felt, 0.34), 0.8)
        ink.wash(((-50, -16, 1), (0, -9), (50, -16, 1), (50, 3, 1), (0, 9), (-50, 3, 1)), band)
    ink.crease(((12, -60), (20, -52), (26, -50)), felt, 1.0)
    brim: Points = ((-80, 10), (-44, 0), (0, 6), (44, 0), (80, 10), (50, 20), (0, 24), (-50, 20))
    ink.fill(brim, felt, to=shade(felt, 0.35))
    ink.stroke(((-72, 11), (-40, 16), (0, 19), (40, 16), (72, 11)), tint(felt, 0.3), 2.0)
    ink.fill(((-8, -11, 1), (8, -11, 1), (8, 6, 1), (-8, 6, 1)), (236, 196, 84))
    ink.wash(((-4, -7, 1), (4, -7, 1), (4, 2, 1), (-4, 2, 1)), band)


def _beret(ink: Ink, color: Color) -> None:
    cloth: Points = ((-48, 6), (-58, -10), (-44, -28), (-8, -34), (32, -26), (46, -6), (42, 8), (0, 0))
    ink.fill(((-43, 4), (0, -6), (42, 4), (43, 13), (0, 4), (-44, 13)), shade(color, 0.28))
    ink.fill(cloth, color, to=shade(color, 0.22))
    with ink.inside(cloth):
        ink.shadow(((46, -16), (20, -6), (-20, -3), (-50, 8), (40, 16)), shade(color, 0.24), 0.7)
    ink.fill(((-9, -33), (-8, -41), (-3, -42), (-3, -33)), color)
    ink.stroke(((-44, -14), (-32, -24), (-14, -28)), tint(color, 0.35), 3.4)


def _straw_hat(ink: Ink, band: Color) -> None:
    straw = (238, 206, 128)
    dome: Points = ((-42, 8, 1), (-40, -18), (-26, -36), (0, -40), (26, -36), (40, -18), (42, 8, 1))
    ink.fill(dome, straw, to=shade(straw, 0.14))
    with ink.inside(dome):
        for y in (-30, -22, -14):
            ink.stroke(((-44, y + 7), (0, y), (44, y + 7)), shade(straw, 0.2), 1.1)
        ink.wash(((-46, -8, 1), (0, -13), (46, -8, 1), (46, 6, 1), (0, 4), (-46, 6, 1)),
            band if luma(band) < 215 else (208, 54, 62))
    brim: Points = ((-82, 14), (-48, 1), (0, 3), (48, 1), (82, 14), (50, 21), (0, 18), (-50, 21))
    ink.fill(brim, straw, to=shade(straw, 0.24))
    for share in (0.92, 0.76):
        ink.stroke(((-80 * share, 14), (-44, 6 + 8 * share), (0, 4 + 10 * share), (44, 6 + 8 * share), (80 * share, 14)),
            shade(straw, 0.22), 1.1)
    ink.stroke(((-26, -26), (-18, -33), (-6, -36)), mix(straw, WHITE, 0.7), 2.6)
