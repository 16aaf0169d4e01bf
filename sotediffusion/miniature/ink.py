"""Pen and brush: smooth shapes with swelling outlines, tapered strokes and shadows, in figure units of a hundredth of a head."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import skia

from sotediffusion.miniature.palette import Color, grade, mix, shade
from sotediffusion.miniature.style import Style

Points = tuple[tuple[float, ...], ...]  # (x, y) is on a smooth curve, (x, y, 1) is a corner
LIGHT = np.array([-0.5, -0.86])  # from the upper left; lines are thinner on the lit side


@lru_cache(16384)
def _hermite(points: Points, closed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 2) and each segment's tangents at its start and end; Catmull-Rom's, but one-sided at corners."""
    xy = np.array([p[:2] for p in points], dtype=np.float64)
    corner = np.array([len(p) > 2 for p in points])
    if not closed:
        corner[0] = corner[-1] = True
    m0 = 0.5 * (_next(xy) - _previous(xy))
    m1, chord = _next(m0), _next(xy) - xy
    c0, c1 = corner[:, None], _next(corner)[:, None]
    free0, free1 = 1.5 * chord - 0.5 * m1, 1.5 * chord - 0.5 * m0
    return xy, np.where(c0, np.where(c1, chord, free0), m0), np.where(c1, np.where(c0, chord, free1), m1)


@lru_cache(16384)
def curve(points: Points, samples: int = 4) -> np.ndarray:
    """An open curve through `points`, as (n, 2) samples."""
    xy, m0, m1 = _hermite(points, False)
    t = (np.arange(samples) / samples)[None, :, None]
    a, b, c, d = (v[:, None, :] for v in (xy[:-1], m0[:-1], xy[1:], m1[:-1]))
    line = (2 * t**3 - 3 * t**2 + 1) * a + (t**3 - 2 * t**2 + t) * b + (3 * t**2 - 2 * t**3) * c + (t**3 - t**2) * d
    return np.concatenate([line.reshape(-1, 2), xy[-1:]])


def _next(rows: np.ndarray) -> np.ndarray:
    """Each row's successor round a closed shape."""
    return np.concatenate((rows[1:], rows[:1]))


def _previous(rows: np.ndarray) -> np.ndarray:
    return np.concatenate((rows[-1:], rows[:-1]))


def _across(along: np.ndarray) -> np.ndarray:
    along = along / np.maximum(np.hypot(along[:, 0], along[:, 1])[:, None], 1e-6)
    return np.stack([along[:, 1], -along[:, 0]], 1)


def _normals(line: np.ndarray) -> np.ndarray:
    return _across(np.gradient(line, axis=0))


def _polygon(line: np.ndarray) -> skia.Path:
    return skia.Path.Polygon(list(map(tuple, line.tolist())), True)


def _cubics(xy: np.ndarray, m0: np.ndarray, m1: np.ndarray) -> skia.Path:
    """The closed path of Hermite segments; few points keep the rasteriser on its fast road."""
    end = _next(xy)
    path = skia.Path()
    path.moveTo(*xy[0].tolist())
    for controls in np.concatenate([xy + m0 / 3, end - m1 / 3, end], 1).tolist():
        path.cubicTo(*controls)
    path.close()
    return path


@lru_cache(16384)
def shape(points: Points) -> skia.Path:
    """The closed smooth shape through `points`."""
    return _cubics(*_hermite(points, True))


@lru_cache(16384)
def outline(points: Points, width: float) -> skia.Path:
    """`shape` grown by an ink line that swells to `width` on the side away from the light."""
    xy, m0, m1 = _hermite(points, True)
    before, after = _across(_previous(m1)), _across(m0)
    turn = _next(xy)
    if np.sum(xy[:, 0] * turn[:, 1] - xy[:, 1] * turn[:, 0]) < 0:
        before, after = -before, -after
    normals = before + after
    normals /= np.maximum((normals * normals).sum(1, keepdims=True) / 2, 0.35)  # mitred, but never longer than 2.4 widths
    swell = 0.72 - 0.42 * (0.5 * (before + after) @ LIGHT)
    grown = xy + normals * (width * swell)[:, None]
    stretch = np.hypot(*(_next(grown) - grown).T) / np.maximum(np.hypot(*(turn - xy).T), 1e-6)
    return _cubics(grown, m0 * stretch[:, None], m1 * stretch[:, None])


@lru_cache(16384)
def tapered(points: Points, width: float, tail: float = 0.0) -> skia.Path:
    """A stroke through `points`, thickest in its middle; `tail` is the share of `width` left at its start."""
    line = curve(points)
    t = np.linspace(0, 1, len(line))
    half = 0.5 * width * (tail * (1 - t) + (1 - tail * (1 - t)) * np.sin(np.pi * t) ** 0.7)
    side = _normals(line) * half[:, None]
    return _polygon(np.concatenate([line + side, (line - side)[::-1]]))


@lru_cache(16384)
def tube(points: Points, widths: tuple[float, ...]) -> Points:
    """The outline of a limb along `points` with half-widths `widths`, as points for `shape`."""
    line = curve(points, 2)
    half = np.interp(np.linspace(0, len(widths) - 1, len(line)), np.arange(len(widths)), widths)
    side = _normals(line) * half[:, None]
    left, right = (line + side).round(3).tolist(), (line - side)[::-1].round(3).tolist()
    return tuple((*p, 1.0) if i in (0, len(line) - 1) else tuple(p) for edge in (left, right) for i, p in enumerate(edge))


class Ink:
    """Draws on one canvas in one style."""

    def __init__(self, canvas: skia.Canvas, style: Style, scale: float):
        self.canvas, self.style = canvas, style
        fine = max(1.25, 1.35 / scale)  # units; never thinner than about a pixel
        self.width = 0.0 if style.realistic else round(5 * fine * style.line_width) / 5  # in steps, so that paths are found again
        self.shading = style.shading
        self._paints: dict[tuple[Color, float], skia.Paint] = {}

    def paint(self, color: Color, alpha: float = 1.0) -> skia.Paint:
        """The paint of a graded colour; shared, so whoever changes it takes `fresh`."""
        paint = self._paints.get((color, alpha))
        if paint is None:
            paint = self._paints[color, alpha] = self.fresh(color, alpha)
        return paint

    def fresh(self, color: Color, alpha: float = 1.0) -> skia.Paint:
        red, green, blue = grade(color, self.style)
        return skia.Paint(Color=skia.Color(red, green, blue, round(255 * alpha)), AntiAlias=True)

    def hidden(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Whether a box lies outside what is drawn."""
        return self.canvas.quickReject(skia.Rect(left, top, right, bottom))

    def line_color(self, color: Color) -> Color:
        """Ink for the border of an area of `color`: black ink, or that colour's own deep shade."""
        deep = tuple(int(c * 0.44) for c in color)
        return mix(self.style.outline, (deep[0], deep[1], deep[2]), self.style.tinted_lines)

    def fill(self, points: Points, color: Color, line: float = 1.0, to: Color | None = None) -> None:
        """Fill a shape, outlined at `line` times the normal width; shaded towards `to` at its foot where the style shades."""
        if self.width and line:
            self.canvas.drawPath(outline(points, round(self.width * line, 2)), self.paint(self.line_color(color)))
        path = shape(points)
        self.canvas.drawPath(path, self.paint(color))
        if self.style.realistic and to is None:
            to = shade(color, 0.24)
        if to is not None and self.shading > 1:
            self._darken(path, color, to)

    def _darken(self, path: skia.Path, color: Color, to: Color) -> None:
        """Pass from `color` to `to` down the lower three quarters, in opaque bands: many times faster than a shader."""
        box = path.getBounds()
        most = 8 if box.height() > 60 else 4
        count = min(most, max(2, max(abs(a - b) for a, b in zip(color, to, strict=True)) // 4))
        start, step = box.top() + 0.25 * box.height(), 0.75 * box.height() / count
        for i in range(count):
            self.canvas.save()
            low = box.bottom() + 1 if i == count - 1 else start + step * (i + 1)
            self.canvas.clipRect(skia.Rect(box.left() - 1, start + step * i, box.right() + 1, low), doAntiAlias=False)
            self.canvas.drawPath(path, self.paint(mix(color, to, (i + 1) / (count + 1))))
            self.canvas.restore()

    def wash(self, points: Points, color: Color, alpha: float = 1.0) -> None:
        """Fill a shape without outline."""
        self.canvas.drawPath(shape(points), self.paint(color, alpha))

    def shadow(self, points: Points, color: Color, alpha: float = 1.0) -> None:
        """A wash that flat styles leave out and soft styles blur."""
        if not self.shading:
            return
        path = shape(points)
        if self.style.realistic:
            paint = self.fresh(color, alpha)
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 3.0 * max(0.3, self.style.softness)))
            self.canvas.drawPath(path, paint)
        elif self.style.softness > 0.2:
            layer = self.paint(color, round(1 - (1 - alpha * 0.98) ** 0.5, 3))
            reach = 1.7 * self.style.softness
            for dx, dy in ((reach, reach * 0.6), (-reach, -reach * 0.6)):  # a penumbra; a blur costs many times more
                self.canvas.translate(dx, dy)
                self.canvas.drawPath(path, layer)
                self.canvas.translate(-dx, -dy)
        else:
            self.canvas.drawPath(path, self.paint(color, alpha))

    def stroke(self, points: Points, color: Color, width: float = 1.0, tail: float = 0.0) -> None:
        """A tapered line of `width` units in exactly `color`."""
        self.canvas.drawPath(tapered(points, width, tail), self.paint(color))

    def crease(self, points: Points, color: Color, width: float = 1.0) -> None:
        """An inner ink line on an area of `color`; styles without ink draw it as a soft shade."""
        if self.width:
            self.canvas.drawPath(tapered(points, round(self.width * width * 1.2, 2)), self.paint(self.line_color(color), 0.85))
        else:
            self.canvas.drawPath(tapered(points, 2.0 * width), self.paint(mix(color, (30, 20, 40), 0.4), 0.5))

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color, alpha: float = 1.0) -> None:
        self.canvas.drawOval(skia.Rect(x - rx, y - ry, x + rx, y + ry), self.paint(color, alpha))

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color, line: float = 1.0) -> None:
        """An outlined oval."""
        if self.width and line:
            grown = self.width * line * 0.8
            self.oval(x + grown * 0.1, y + grown * 0.2, rx + grown, ry + grown, self.line_color(color))
        self.oval(x, y, rx, ry, color)

    @contextmanager
    def inside(self, points: Points) -> Iterator[None]:
        """Draw only within the shape through `points`."""
        self.canvas.save()
        self.canvas.clipPath(shape(points), doAntiAlias=True)
        yield
        self.canvas.restore()

    @contextmanager
    def at(self, x: float, y: float, angle: float = 0.0, flip: float = 1.0) -> Iterator[None]:
        """Draw with the origin at (x, y), turned by `angle` degrees, then scaled by `flip` along x (-1 mirrors)."""
        self.canvas.save()
        self.canvas.translate(x, y)
        self.canvas.rotate(angle)
        self.canvas.scale(flip, 1)
        yield
        self.canvas.restore()
