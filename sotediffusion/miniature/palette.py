"""Colour names of the drawn world, their shades, and how a style grades them."""

import math
from functools import lru_cache

from sotediffusion.miniature.style import Style

Color = tuple[int, int, int]

HAIR: dict[str, Color] = {
    "black": (54, 50, 64), "brown": (126, 78, 48), "blonde": (248, 216, 116), "red": (202, 36, 44), "orange": (246, 136, 40),
    "pink": (250, 152, 194), "purple": (146, 84, 200), "blue": (56, 98, 220), "aqua": (96, 220, 222), "green": (66, 166, 80),
    "grey": (144, 147, 158), "white": (244, 243, 250),
}
EYES: dict[str, Color] = {
    "blue": (40, 104, 240), "red": (224, 26, 40), "green": (38, 170, 58), "purple": (150, 60, 216), "orange": (252, 132, 14),
    "yellow": (248, 220, 36), "brown": (124, 70, 36), "pink": (252, 112, 178), "aqua": (44, 216, 222), "grey": (138, 143, 154),
}
CLOTH: dict[str, Color] = {
    "white": (244, 243, 246), "black": (60, 57, 70), "grey": (150, 152, 162), "red": (208, 54, 62), "pink": (246, 168, 192),
    "orange": (242, 148, 72), "yellow": (246, 214, 110), "green": (84, 156, 104), "aqua": (122, 208, 206), "blue": (72, 112, 200),
    "navy": (50, 60, 112), "purple": (138, 98, 180), "brown": (138, 98, 72), "beige": (226, 204, 172),
}
SKIN: tuple[Color, ...] = ((255, 230, 216), (252, 218, 196), (240, 196, 164), (202, 148, 114))

WHITE: Color = (252, 251, 253)
GOLD: Color = (232, 188, 84)
STEEL: Color = (176, 186, 204)
DENIM: Color = (74, 100, 150)
DARK: Color = (58, 54, 66)


def mix(a: Color, b: Color, share: float) -> Color:
    """`a` with `share` of `b` in it."""
    return (
        round(a[0] + (b[0] - a[0]) * share), round(a[1] + (b[1] - a[1]) * share), round(a[2] + (b[2] - a[2]) * share),
    )


def shade(color: Color, depth: float = 0.25) -> Color:
    """The shadow of a colour: darker; warm ones turn redder, cool ones bluer, neither goes grey."""
    red, green, blue = (0.72, 1.16, 1.0) if color[0] > color[2] + 12 else (1.05, 1.1, 0.7)
    return round(color[0] * (1 - red * depth)), round(color[1] * (1 - green * depth)), round(color[2] * (1 - blue * depth))


def skin_shade(skin: Color, depth: float = 0.3) -> Color:
    """The shadow of skin: warm, never grey."""
    return mix(skin, (196, 92, 96), depth)


def hair_shade(hair: Color, depth: float = 0.25) -> Color:
    """The shadow of hair: gentle on white, so that white stays white."""
    return shade(hair, depth * (0.5 if luma(hair) > 225 else 1.0))


def tint(color: Color, share: float = 0.4) -> Color:
    """The colour in full light."""
    return mix(color, (255, 255, 255), share)


def luma(color: Color) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def grade(color: Color, style: Style) -> Color:
    """`color` under the style's hue shift, saturation, brightness and muting."""
    red, green, blue = color
    r, g, b = ((a * red + b * green + c * blue + d) for a, b, c, d in _grading(style))
    return min(255, max(0, round(r))), min(255, max(0, round(g))), min(255, max(0, round(b)))


@lru_cache(256)
def _grading(style: Style) -> tuple[tuple[float, float, float, float], ...]:
    """The grade as an affine map of RGB, one row for each channel; found by grading black and the three primaries."""
    floor = _graded((0.0, 0.0, 0.0), style)
    primaries = [_graded(p, style) for p in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))]
    return tuple((*(primary[i] - floor[i] for primary in primaries), floor[i]) for i in range(3))  # type: ignore[misc]


def _graded(color: tuple[float, float, float], style: Style) -> list[float]:
    grey = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    chroma = [c - grey for c in color]
    if style.hue_shift:
        chroma = _turn(chroma, math.radians(style.hue_shift))
    keep = style.saturation * (1 - 0.55 * style.muted)
    flat = grey + (0.86 * grey + 22 - grey) * style.muted
    warm = (8 * style.muted, 2 * style.muted, -10 * style.muted)
    return [style.brightness * (flat + keep * c + w) for c, w in zip(chroma, warm, strict=True)]


def _turn(chroma: list[float], angle: float) -> list[float]:
    """Rotate a colour's departure from grey about the grey axis."""
    cos, third = math.cos(angle), (1 - math.cos(angle)) / 3
    sin = math.sin(angle) / math.sqrt(3)
    r, g, b = chroma
    return [
        r * (cos + third) + g * (third - sin) + b * (third + sin),
        r * (third + sin) + g * (cos + third) + b * (third - sin),
        r * (third - sin) + g * (third + sin) + b * (cos + third),
    ]
