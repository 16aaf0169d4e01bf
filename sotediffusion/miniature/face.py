"""The face: head, eyes, brows, nose, mouth, blush and glasses, each expression with its own marks."""

import skia

from sotediffusion.miniature.ink import Ink, Points, shape
from sotediffusion.miniature.looks import Looks
from sotediffusion.miniature.palette import DARK, WHITE, Color, grade, mix, shade, skin_shade, tint

EYE_Y, EYE_X = 59.0, 19.5
HEADS: dict[str, Points] = {
    "girl": (
        (0, -2), (-26, 5), (-39, 28), (-39.5, 52), (-37.5, 69), (-29.5, 85), (-12, 97), (0, 100),
        (12, 97), (29.5, 85), (37.5, 69), (39.5, 52), (39, 28), (26, 5),
    ),
    "boy": (
        (0, -2), (-26, 5), (-39, 28), (-40, 52), (-38.5, 70), (-32, 86), (-15, 99), (0, 102),
        (15, 99), (32, 86), (38.5, 70), (40, 52), (39, 28), (26, 5),
    ),
}
EAR: Points = ((37, 52), (43, 49), (46, 54), (44, 64), (39, 69), (35, 66))

# Eye openings, outer corner at +x.
OPENINGS: dict[str, Points] = {
    "round": ((-13, 3, 1), (-9, -6), (-1, -11), (7, -10), (12, -5), (14, 2, 1), (10, 9), (2, 12), (-7, 10)),
    "tall": ((-12, 4, 1), (-9, -7), (-1, -13), (6, -12), (11, -6), (13, 2, 1), (9, 10), (2, 13), (-7, 11)),
    "sharp": ((-14, 4, 1), (-8, -5), (0, -9), (8, -9), (13, -6), (15.5, -2, 1), (11, 7), (2, 10), (-7, 9)),
    "half": ((-13, 3, 1), (-9, -1), (-1, -4), (7, -4), (12, -1.5), (14, 2, 1), (10, 9), (2, 12), (-7, 10)),
    "wide": ((-13, 2, 1), (-10, -8), (-1, -14.5), (7, -13), (12, -7), (14, 1, 1), (10, 10), (2, 14), (-7, 12)),
    "angry": ((-13, 5, 1), (-9, -1), (-1, -6), (7, -9), (12, -8), (15, -4, 1), (11, 8), (2, 11.5), (-7, 10)),
}
LASHES: dict[str, Points] = {
    "round": (
        (-15, 4, 1), (-10, -8), (-1, -14.5), (8, -13.5), (14, -8), (19, -5, 1), (16, -1.5), (15.5, 5, 1), (12.5, -3), (7, -9),
            (-1, -10), (-9, -5),
    ),
    "tall": (
        (-14, 5, 1), (-10, -9), (-1, -16.5), (7, -15.5), (13, -9), (18, -7, 1), (15, -2), (14.5, 5, 1), (11.5, -4), (6, -11),
            (-1, -12), (-9, -6),
    ),
    "sharp": (
        (-16, 5, 1), (-9, -7), (0, -12), (9, -12.5), (15, -10), (21, -9.5, 1), (17.5, -4.5), (16, 1, 1), (13.5, -4), (8, -8),
            (0, -8), (-8, -4),
    ),
    "half": (
        (-15, 4, 1), (-10, -3), (-1, -7.5), (8, -7.5), (14, -4), (19, -2, 1), (16, 1), (15.5, 6, 1), (12.5, 0), (7, -3),
            (-1, -3.2), (-9, 0),
    ),
    "wide": (
        (-15, 3, 1), (-11, -10), (-1, -17.5), (8, -16), (14, -9), (19, -7, 1), (16, -2.5), (15.5, 4, 1), (12.5, -5), (7, -12),
            (-1, -13.5), (-9.5, -7),
    ),
    "angry": (
        (-15, 6, 1), (-10, -3), (-1, -9), (8, -12.5), (14, -11.5), (20, -10, 1), (17, -5), (15.5, 2, 1), (12.5, -6), (7, -8),
            (-1, -5), (-9, 0),
    ),
}
IRIS = {"round": (8.8, 11.5), "tall": (8.4, 12.8), "sharp": (8.4, 10.4), "half": (8.8, 11.0), "wide": (6.8, 8.6),
    "angry": (8.0, 10.0)}

BROWS: dict[str, Points] = {  # outer end at +x
    "level": ((-10, 1), (0, -2), (11, 1)),
    "raised": ((-10, -6), (0, -10), (11, -7)),
    "worried": ((-11, -6), (-1, -3), (10, 3)),
    "angry": ((-12, 7), (-2, 0), (11, -7)),
    "flat": ((-11, 0), (0, 0), (11, 0.5)),
}
BROW_OF = {"frown": "worried", "angry": "angry", "surprised": "raised", "expressionless": "flat", "open mouth": "level"}


def draw_head(ink: Ink, looks: Looks) -> None:
    """Ears, skull and face, with the shadow of the hair on the forehead."""
    for flip in (-1, 1):
        with ink.at(0, 0, flip=flip):
            ink.fill(EAR, looks.skin)
            ink.crease(((39, 55), (42.5, 54), (41, 62)), looks.skin, 0.7)
    head = HEADS[looks.person.kind]
    ink.fill(head, looks.skin)
    with ink.inside(head):
        ink.shadow(((-45, 0), (45, 0), (45, 52), (30, 48), (14, 53), (0, 46), (-16, 53), (-30, 48), (-45, 52)),
            skin_shade(looks.skin, 0.20))
        if ink.shading > 1:
            ink.shadow(((44, 40), (30, 88), (4, 104), (34, 104), (48, 80)), skin_shade(looks.skin, 0.16), 0.7)


def draw_features(ink: Ink, looks: Looks) -> None:
    """Everything on the face but the brows, which lie over the bangs."""
    expression = looks.person.expression
    if looks.person.blush:
        _blush(ink, looks)
    with ink.at(looks.turn, 0):
        for flip in (-1, 1):
            shut = expression == "closed eyes" or (expression == "one eye closed" and flip == looks.side)
            narrow = 0.93 if flip * looks.turn > 2 else 1.0
            with ink.at(flip * EYE_X, EYE_Y, flip=flip * narrow):
                if shut:
                    _closed_eye(ink, expression)
                else:
                    _open_eye(ink, looks, flip)
        ink.stroke(((-0.5, 76), (1.2, 79), (-0.6, 80)), skin_shade(looks.skin, 0.57), 1.5)
        _mouth(ink, looks)


def draw_brows(ink: Ink, looks: Looks) -> None:
    expression = looks.person.expression
    points = BROWS[BROW_OF.get(expression, "level")]
    color = mix(shade(looks.hair, 0.45), (60, 40, 44), 0.4)
    width = (3.0 if looks.person.kind == "boy" else 2.3) + (1.0 if expression == "angry" else 0.0)
    for flip in (-1, 1):
        with ink.at(looks.turn + flip * EYE_X, 41.5, flip=flip):
            ink.stroke(points, color, width, 0.3)


def draw_glasses(ink: Ink, looks: Looks) -> None:
    """Big rims round both eyes."""
    frame = DARK if sum(looks.hair) > 260 else (176, 40, 52)
    paint = ink.fresh(frame)
    paint.setStyle(skia.Paint.kStroke_Style)
    paint.setStrokeWidth(2.7)
    with ink.at(looks.turn, 0):
        for flip in (-1, 1):
            box = skia.Rect(flip * EYE_X - 17, 46.5, flip * EYE_X + 17, 75)
            ink.canvas.drawRoundRect(box, 11, 11, ink.paint(WHITE, 0.14))
            ink.canvas.drawRoundRect(box, 11, 11, paint)
            ink.stroke(((flip * EYE_X - 12, 69), (flip * EYE_X - 5, 72)), WHITE, 1.8)
            ink.stroke(((flip * 36.5, 56), (flip * 44, 53)), frame, 2.6, 0.9)
        ink.stroke(((-3.5, 59), (0, 57), (3.5, 59)), frame, 2.8, 0.9)


def _lash_color(looks: Looks) -> Color:
    return mix((44, 28, 38), shade(looks.hair, 0.6), 0.25)


def _opening(ink: Ink, looks: Looks) -> str:
    kinds = {"surprised": "wide", "expressionless": "half", "angry": "angry"}
    return kinds.get(looks.person.expression, ink.style.eye_shape)


def _open_eye(ink: Ink, looks: Looks, flip: int) -> None:
    kind = _opening(ink, looks)
    lash, opening = _lash_color(looks), OPENINGS[kind]
    ink.wash(opening, WHITE)
    rx, ry = IRIS[kind]
    x = -0.8 + (4.6 * looks.glance * flip)
    with ink.inside(opening):
        _iris(ink, looks.eye, (x, 0.8), (rx, ry), flip)
        if ink.shading:
            ink.wash(tuple((p[0], p[1] + 4.0, *p[2:]) for p in LASHES[kind]), mix(lash, looks.eye, 0.3), 0.45)
    ink.wash(LASHES[kind], lash)
    low = opening[-3:]
    ink.stroke(((low[0][0], low[0][1] + 0.6), (low[1][0], low[1][1] + 0.8), (low[2][0], low[2][1] + 0.4)), lash, 1.3)
    if kind != "half":
        top = -16.5 if kind in ("round", "angry") else -19.5
        ink.stroke(((-9, top + 5.5), (0, top), (9, top + 2.5)), skin_shade(looks.skin, 0.49), 1.1)
    else:
        ink.stroke(((-10, -7), (0, -11), (10, -9)), skin_shade(looks.skin, 0.49), 1.2)


def _iris(ink: Ink, color: Color, centre: tuple[float, float], radii: tuple[float, float], flip: int) -> None:
    """Dark above and glowing below, with a pupil and two lights on the left whichever eye it is."""
    (x, y), (rx, ry) = centre, radii
    ink.oval(x, y, rx + 0.9, ry + 0.9, shade(color, 0.62))
    if ink.shading > 1:
        paint = ink.fresh(color)
        ends = [skia.Color(*grade(c, ink.style)) for c in (shade(color, 0.34), color, tint(color, 0.28))]
        paint.setShader(skia.GradientShader.MakeLinear([(0, y - ry), (0, y + ry)], ends, [0.1, 0.5, 1.0]))
        ink.canvas.drawOval(skia.Rect(x - rx, y - ry, x + rx, y + ry), paint)
        ink.oval(x, y + ry * 0.6, rx * 0.62, ry * 0.28, tint(color, 0.4), 0.8)
    else:
        ink.oval(x, y, rx, ry, color)
    ink.oval(x, y - 0.6, rx * 0.36, ry * 0.4, shade(color, 0.82))
    if ink.style.highlights:
        ink.oval(x - flip * rx * 0.38, y - ry * 0.46, rx * 0.34, ry * 0.28, WHITE)
        ink.oval(x + flip * rx * 0.42, y + ry * 0.42, rx * 0.17, ry * 0.14, WHITE)


def _closed_eye(ink: Ink, expression: str) -> None:
    lash = (48, 30, 40)
    if expression == "closed eyes":
        ink.stroke(((-13, 3), (-7, 7), (1, 8.5), (9, 6), (15, 0)), lash, 3.2, 0.2)
        for x, y in ((4, 8), (9, 6), (13, 3)):
            ink.stroke(((x, y), (x + 2.4, y + 4.4)), lash, 1.4, 0.8)
    else:
        ink.stroke(((-14, 6), (-7, 0), (1, -2), (9, 0.5), (15, 7)), lash, 3.4, 0.2)
        ink.stroke(((10, 1), (17, 1)), lash, 1.5, 0.8)


def _blush(ink: Ink, looks: Looks) -> None:
    color = mix(looks.skin, (246, 70, 92), 0.62)
    with ink.inside(HEADS[looks.person.kind]), ink.at(looks.turn, 0):
        for x in (-25.5, 25.5):
            ink.oval(x, 77, 11.5, 6.0, color, 0.5)
            ink.oval(x, 77, 8.5, 4.0, color, 0.55)
            for step in (-5, 0, 5):
                ink.stroke(((x + step + 1.8, 74), (x + step - 1.8, 80)), mix(color, (200, 30, 50), 0.5), 1.3, 0.5)


def _mouth(ink: Ink, looks: Looks) -> None:
    line = mix(skin_shade(looks.skin, 0.81), (120, 30, 40), 0.5)
    expression = looks.person.expression
    lips = mix(looks.skin, (208, 70, 92), 0.62 if looks.person.kind == "girl" else 0.2)
    if expression in ("open mouth", "surprised", "angry"):
        _open_mouth(ink, expression, mix(line, lips, 0.5) if looks.person.kind == "girl" else line)
    elif expression == "frown":
        ink.wash(((-7, 90), (0, 87.5), (7, 90), (3, 93), (-3, 93)), lips)
        ink.stroke(((-11, 92), (-5, 88), (1, 87), (6, 88), (11, 92)), line, 2.3, 0.3)
        ink.stroke(((-4, 94.5), (4, 94.5)), skin_shade(looks.skin, 0.41), 1.2)
    elif expression == "expressionless":
        ink.wash(((-7, 88.5), (0, 86.3), (7, 88.5), (3.5, 92), (-3.5, 92)), lips)
        ink.stroke(((-9, 88.5), (0, 88.3), (9, 88.5)), line, 2.0, 0.4)
    else:
        ink.wash(((-8, 88.6), (-3, 88), (0, 89), (3, 88), (8, 88.6), (4, 94), (-4, 94)), lips)
        ink.stroke(((-13, 85), (-8, 89.2), (0, 91), (8, 89.2), (13, 85)), line, 2.3, 0.3)
        ink.stroke(((-4, 96.2), (0, 96.8), (4, 96.2)), skin_shade(looks.skin, 0.41), 1.2)


MOUTHS: dict[str, Points] = {
    "open mouth": ((-13, 84, 1), (0, 85.5), (13, 84, 1), (10, 92), (0, 97.5), (-10, 92)),
    "surprised": ((0, 83.5), (6.5, 86), (7, 91), (0, 95.5), (-7, 91), (-6.5, 86)),
    "angry": ((-12, 93, 1), (-9, 86.5), (0, 84.5), (9, 86.5), (12, 93, 1), (6, 94.2), (-6, 94.2)),
}


def _open_mouth(ink: Ink, expression: str, line: Color) -> None:
    mouth = MOUTHS[expression]
    ink.canvas.drawPath(shape(tuple((p[0] * 1.09, 89 + (p[1] - 89) * 1.16, *p[2:]) for p in mouth)), ink.paint(line))
    ink.wash(mouth, (150, 40, 56))
    with ink.inside(mouth):
        if expression == "open mouth":
            ink.oval(0, 97, 8, 5.5, (244, 122, 128))
            ink.wash(((-11, 82, 1), (11, 82, 1), (9, 87.4, 1), (0, 88.2), (-9, 87.4, 1)), WHITE)
        elif expression == "angry":
            ink.wash(((-14, 82, 1), (14, 82, 1), (12, 91.5, 1), (-12, 91.5, 1)), WHITE)
            ink.stroke(((-10, 89), (0, 88.4), (10, 89)), (190, 150, 160), 1.2, 0.5)
