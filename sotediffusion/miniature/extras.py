"""What is laid over a picture: speech bubbles, a visual novel's boxes, a wallpaper's trimmings."""

import skia

from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.compose import Layout
from sotediffusion.miniature.letters import width_of, word_path
from sotediffusion.miniature.palette import mix
from sotediffusion.miniature.scene import Scene

INK, PAPER = (40, 32, 44), (255, 254, 250)
LETTER = 10.5  # units per grid step of a bubble's letters: tall letters are 95 units, 24 px in a 256 px rendering


def draw_extras(brush: Brush, scene: Scene, layout: Layout) -> None:
    """Everything over the figures that belongs to the scene's source and text."""
    if scene.source == "anime wallpaper":
        _wallpaper(brush, layout)
    if scene.text:
        _bubble(brush, scene.text, layout)
    if scene.source == "visual novel cg":
        _novel_boxes(brush, scene)


def _write(brush: Brush, word: str, x: float, y: float, unit: float, rgb: tuple[int, int, int], pen: float = 1.5) -> None:
    paint = brush.stroke(rgb, 1.0)
    paint.setStrokeWidth(pen * unit)
    brush.canvas.drawPath(word_path(word, x, y, unit), paint)


def _bubble(brush: Brush, word: str, layout: Layout) -> None:
    """A speech bubble in an upper corner, its tail towards the nearest head."""
    descends = any(letter in word for letter in "gjpqy")
    half_w, half_h = width_of(word) * LETTER / 2 + 52, 84 + 10 * descends
    x = 24 + half_w if layout.bubble_side < 0 else layout.width - 24 - half_w
    y = 24 + half_h
    place = min(layout.places, key=lambda p: abs(p.x - x))
    aim = (place.x - (place.x - x) * 0.3, place.top + place.head * 0.5)
    bubble = skia.Path().addOval(skia.Rect(x - half_w, y - half_h, x + half_w, y + half_h))
    reach = min(1.0, 1.9 * half_h / max(1.0, ((aim[0] - x) ** 2 + (aim[1] - y) ** 2) ** 0.5))
    tip = (x + (aim[0] - x) * reach, y + max(0.75 * half_h, (aim[1] - y) * reach))
    root = x + (30 if aim[0] > x else -30)
    tail = skia.Path.Polygon([skia.Point(root - 30, y + half_h * 0.6), skia.Point(*tip), skia.Point(root + 30,
                                                                                                    y + half_h * 0.6)], True)
    brush.shape(skia.Op(bubble, tail, skia.PathOp.kUnion_PathOp), PAPER, ink=5)
    _write(brush, word, x - width_of(word) * LETTER / 2, y - (5.4 + 0.9 * descends) * LETTER, LETTER, INK)


def _novel_boxes(brush: Brush, scene: Scene) -> None:
    """The text box along the bottom and the name box on top of it."""
    w, h = brush.width, brush.height
    hue = ((58, 72, 132), (122, 62, 96), (48, 92, 98), (96, 72, 52))[scene.seed % 4]
    top, left, right = h * 0.77, w * 0.04, w * 0.96
    brush.rect((left, top, right, h * 0.975), mix(hue, (20, 20, 40), 0.4), alpha=0.72, round_by=22)
    frame = brush.stroke(mix(hue, (255, 255, 255), 0.7), 1.0)
    frame.setStrokeWidth(4)
    brush.canvas.drawRoundRect(skia.Rect(left + 9, top + 9, right - 9, h * 0.975 - 9), 16, 16, frame)
    name = scene.people[0].character or ("she" if scene.people[0].kind == "girl" else "he")
    unit = 3.7
    name_w = width_of(name) * unit + 64
    brush.rect((left + 30, top - 40, left + 30 + max(190, name_w), top + 26), hue, alpha=0.97, round_by=16)
    brush.canvas.drawRoundRect(skia.Rect(left + 30, top - 40, left + 30 + max(190, name_w), top + 26), 16, 16, frame)
    _write(brush, name, left + 62, top - 26, unit, (255, 250, 236))
    for row, share in enumerate((0.84, brush.rng.uniform(0.3, 0.6))):
        _scribble(brush, left + 60, top + 46 + row * 46, (right - left - 120) * share)
    x, y = right - 44, h * 0.975 - 36
    brush.poly([(x - 14, y - 8), (x + 14, y - 8), (x, y + 12)], (255, 246, 220))


def _scribble(brush: Brush, x: float, y: float, length: float) -> None:
    """A line of small print: words without letters."""
    end = x + length
    while x < end:
        wide = brush.rng.uniform(30, 90)
        points = [(x + step * 7.5, y + (step % 2) * 11 - 8 * (brush.rng.random() < 0.25)) for step in range(int(wide / 7.5))]
        brush.line(points, (250, 248, 244), 4)
        x += wide + 20


def _wallpaper(brush: Brush, layout: Layout) -> None:
    """Slanted glassy bands beside the figure, a fine double frame and a row of marks: made for a desktop."""
    w, h = brush.width, brush.height
    tint = brush.rng.choice(((255, 190, 210), (180, 220, 255), (255, 236, 180), (200, 250, 220), (220, 200, 255)))
    away = -1 if layout.places[0].x > w / 2 else 1
    for offset, wide, alpha in ((0.36, 0.09, 0.34), (0.47, 0.035, 0.5), (0.285, 0.02, 0.42)):
        x = w / 2 + away * offset * w
        brush.poly([(x - wide * w / 2 + h * 0.14, -10), (x + wide * w / 2 + h * 0.14, -10), (x + wide * w / 2 - h * 0.14, h + 10),
                    (x - wide * w / 2 - h * 0.14, h + 10)], tint, alpha=alpha)
    line = brush.stroke((255, 255, 255), 1.0, alpha=0.9)
    for inset, wide in ((22, 6), (38, 2.5)):
        line.setStrokeWidth(wide)
        brush.canvas.drawRect(skia.Rect(inset, inset, w - inset, h - inset), line)
    for i in range(5):
        x, y = w / 2 + away * (w / 2 - 80 - 36 * i), h - 74
        brush.poly([(x, y - 14), (x + 14, y), (x, y + 14), (x - 14, y)], (255, 255, 255), alpha=0.92)
