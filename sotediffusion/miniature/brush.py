"""The painter's tools for everything but the figures: colours under a style, and filled, shaded, outlined shapes.

Units: a canvas has an area of 1,000,000 square units whatever its pixels, so 78 units are 20 px in a 256 px rendering.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import skia

from sotediffusion.miniature.palette import Color, grade, mix
from sotediffusion.miniature.style import Style

Pair = tuple[float, float]
Box = tuple[float, float, float, float]
Points = Sequence[Pair]


@dataclass
class Brush:
    """A canvas of `width` x `height` units, the style to paint in, and the picture's own dice."""

    canvas: skia.Canvas
    width: float
    height: float
    style: Style
    rng: random.Random
    mixed: dict[Color, int] = field(init=False, default_factory=dict)  # colours already under the style, as 0xRRGGBB

    def color(self, rgb: Color, alpha: float = 1.0) -> int:
        """The skia colour of `rgb` under the style."""
        if rgb not in self.mixed:
            red, green, blue = grade(rgb, self.style)
            self.mixed[rgb] = red << 16 | green << 8 | blue
        return round(255 * alpha) << 24 | self.mixed[rgb]

    def paint(self, rgb: Color, alpha: float = 1.0, blur: float = 0.0) -> skia.Paint:
        """A fill; `blur` is the sigma of soft edges in units."""
        paint = skia.Paint(AntiAlias=True, Color=self.color(rgb, alpha))
        if blur:
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
        return paint

    def shape(self, path: skia.Path, rgb: Color, alpha: float = 1.0, ink: float = 0.0, blur: float = 0.0) -> None:
        """Fills a path and, where the style has lines, inks its edge `ink` units wide."""
        self.canvas.drawPath(path, self.paint(rgb, alpha, blur))
        if ink and self.style.line_width:
            self.canvas.drawPath(path, self.stroke(mix(rgb, self.style.outline, 0.75 - 0.25 * self.style.tinted_lines), ink))

    def stroke(self, rgb: Color, width: float, alpha: float = 1.0) -> skia.Paint:
        """A round-ended line."""
        paint = skia.Paint(AntiAlias=True, Color=self.color(rgb, alpha), Style=skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width * (self.style.line_width or 1.0))
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        return paint

    def poly(self, points: Points, rgb: Color, alpha: float = 1.0, ink: float = 0.0, blur: float = 0.0) -> None:
        """A polygon."""
        self.shape(skia.Path.Polygon([skia.Point(*p) for p in points], True), rgb, alpha, ink, blur)

    def rect(self, box: Box, rgb: Color, alpha: float = 1.0, ink: float = 0.0, round_by: float = 0.0) -> None:
        """A rectangle (left, top, right, bottom), its corners rounded by `round_by`."""
        self.shape(skia.Path().addRoundRect(skia.Rect(*box), round_by, round_by), rgb, alpha, ink)

    def oval(self, at: Pair, radii: Pair, rgb: Color, alpha: float = 1.0, ink: float = 0.0, blur: float = 0.0) -> None:
        """An ellipse about `at`."""
        box = skia.Rect(at[0] - radii[0], at[1] - radii[1], at[0] + radii[0], at[1] + radii[1])
        self.shape(skia.Path().addOval(box), rgb, alpha, ink, blur)

    def line(self, points: Points, rgb: Color, width: float, alpha: float = 1.0) -> None:
        """A polyline."""
        self.canvas.drawPath(skia.Path.Polygon([skia.Point(*p) for p in points], False), self.stroke(rgb, width, alpha))

    def fall(self, top: float, bottom: float, colors: Sequence[Color], left: float = 0.0, right: float | None = None) -> None:
        """A vertical gradient between two heights, in strips too fine to see; flat styles step it into bands."""
        right = self.width if right is None else right
        strips = 4 if self.style.shading == 0 else max(8, round((bottom - top) / 14))
        step = (bottom - top) / strips
        for i in range(strips):
            share = i / (strips - 1) * (len(colors) - 1)
            low = min(int(share), len(colors) - 2)
            fill = skia.Paint(Color=self.color(mix(colors[low], colors[low + 1], share - low)))
            self.canvas.drawRect(skia.Rect(left, top + step * i, right, bottom), fill)

    def glow(self, x: float, y: float, radius: float, rgb: Color, alpha: float = 1.0) -> None:
        """Light that fades from the middle outwards, added to what is below."""
        paint = skia.Paint(AntiAlias=True, BlendMode=skia.BlendMode.kScreen)
        paint.setShader(skia.GradientShader.MakeRadial(skia.Point(x, y), radius, [self.color(rgb, alpha), self.color(rgb, 0.0)]))
        self.canvas.drawCircle(x, y, radius, paint)
