"""Light over the whole picture: glow, drifting petals and depth where the score is high, a murky cast where it is low."""

import skia

from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.palette import Color

PETALS: tuple[Color, ...] = ((255, 196, 214), (255, 236, 190), (206, 232, 255), (255, 255, 255))
MURK: tuple[Color, ...] = ((96, 104, 58), (110, 84, 70), (86, 96, 104))


def draw_light_behind(brush: Brush, beauty: float) -> None:
    """Between background and figures: rays and soft discs of light, as the score rises above the middle."""
    grace = max(0.0, beauty - 0.45) / 0.55
    if not grace:
        return
    _shafts(brush, grace)
    tone = brush.rng.choice(PETALS)
    for _ in range(round(26 * grace)):
        radius = brush.rng.uniform(18, 56)
        x, y = brush.width * brush.rng.random(), brush.height * brush.rng.random() ** 1.3
        brush.oval((x, y), (radius, radius), tone, alpha=0.1 + 0.2 * grace)


def draw_light_before(brush: Brush, beauty: float) -> None:
    """Over the figures: a warm glow from the upper left and petals above the middle score, a dull veil below it."""
    grace, gloom = max(0.0, beauty - 0.45) / 0.55, max(0.0, 0.5 - beauty) / 0.5
    if grace:
        brush.glow(-40, -40, (brush.width + brush.height) * 0.62, (255, 226, 176), 0.3 * grace)
        _petals(brush, round(30 * grace))
    if gloom:
        brush.canvas.drawPaint(brush.paint(brush.rng.choice(MURK), alpha=0.22 * gloom))
        _smears(brush, round(5 * gloom))


def _shafts(brush: Brush, grace: float) -> None:
    """Slanting rays from the upper left, brightest along their middle."""
    w, h = brush.width, brush.height
    lean = 0.3 * w
    for start, wide in ((-0.12, 0.2), (0.12, 0.13), (0.7, 0.17)):
        left, right = start * w, (start + wide) * w
        across = (right - left) / (1 + (lean / h) ** 2)  # the foot of the perpendicular from the ray's other edge
        ends = [skia.Point(left, 0), skia.Point(left + across, -across * lean / h)]
        light = [brush.color((255, 244, 214), alpha) for alpha in (0.0, 0.34 * grace, 0.0)]
        paint = skia.Paint(Shader=skia.GradientShader.MakeLinear(ends, light))
        corners = ((left, 0), (right, 0), (right + lean, h), (left + lean, h))
        brush.canvas.drawPath(skia.Path.Polygon([skia.Point(*p) for p in corners], True), paint)


def _petals(brush: Brush, count: int) -> None:
    tone = brush.rng.choice(PETALS)
    for _ in range(count):
        edge = brush.rng.random() ** 2 * 0.32
        x = brush.width * (edge if brush.rng.random() < 0.5 else 1 - edge)
        y, size, turn = brush.height * brush.rng.random(), brush.rng.uniform(15, 34), brush.rng.uniform(0, 180)
        canvas = brush.canvas
        canvas.save()
        canvas.translate(x, y)
        canvas.rotate(turn)
        petal = skia.Path()
        petal.moveTo(-size, 0)
        petal.quadTo(0, -size * 0.8, size, -size * 0.12)
        petal.lineTo(size * 0.72, 0)
        petal.lineTo(size, size * 0.16)
        petal.quadTo(0, size * 0.7, -size, 0)
        brush.shape(petal, tone, alpha=0.9)
        canvas.restore()


def _smears(brush: Brush, count: int) -> None:
    """Careless strokes near the edges."""
    for _ in range(count):
        x = brush.width * (brush.rng.random() * 0.2 + brush.rng.choice((0.0, 0.8)))
        y, tone = brush.height * brush.rng.random(), brush.rng.choice(((210, 60, 170), (90, 220, 60), (60, 80, 220), (240, 160,
                                                                                                                      30)))
        points = [(x + 34 * i * (-1) ** i * 0.6, y + 26 * i) for i in range(4)]
        brush.line(points, tone, 10, 0.75)
