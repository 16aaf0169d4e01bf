"""Curves as inline SVG: points go in, shapes with class names come out; the page's style sheet has the colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sotediffusion.train.report.reading import Point

WIDTH, HEIGHT = 560, 210
LEFT, BASE, TOP = 50, 24, 8  # px around the plot for labels
MOST = 300  # points of a curve; more are averaged


@dataclass(frozen=True)
class Curve:
    """A line across a plot; `kind` is its class: c0, c1, ... or faint."""

    name: str
    points: Sequence[Point]
    kind: str = "c0"
    dots: bool = False


def plot(curves: Sequence[Curve], logarithmic: bool = False) -> Markup | None:
    """Curves over images seen in one frame; None where no curve has two points. Values of 0 and below have no logarithm."""
    kept = [Curve(c.name, thinned(_usable(c.points, logarithmic)), c.kind, c.dots) for c in curves]
    kept = [curve for curve in kept if len(curve.points) > 1]
    if not kept:
        return None
    xs, ys = ([point[axis] for curve in kept for point in curve.points] for axis in (0, 1))
    low, high = _span(ys, logarithmic)
    frame = (min(xs), max(xs), low, high)
    shapes = [_tick(value, frame, logarithmic) for value in ticks(low, high, logarithmic)]
    for value in ticks(frame[0], frame[1], False):
        x = LEFT + (WIDTH - LEFT) * (value - frame[0]) / (frame[1] - frame[0])
        shapes.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT + 16}">{escape(short(value))}</text>')
    shapes += [_line(curve, frame, logarithmic) for curve in kept]
    box = f"0 0 {WIDTH} {HEIGHT + BASE}"
    label = escape(", ".join(curve.name for curve in kept))
    return Markup(f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}">{"".join(shapes)}</svg>')


def smoothed(points: Sequence[Point], share: float = 0.05) -> list[Point]:
    """A running mean over `share` of the points before each."""
    width, found, total = max(1, round(len(points) * share)), [], 0.0
    for place, (x, y) in enumerate(points):
        total += y - (points[place - width][1] if place >= width else 0.0)
        found.append((x, total / min(place + 1, width)))
    return found


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most so many points, means of neighbours; the first and the last keep their places."""
    if len(points) <= most:
        return list(points)
    edges = [round(place * len(points) / most) for place in range(most + 1)]
    groups = [points[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [(points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1])]


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """About two to seven round values of a span."""
    if logarithmic and high / low >= 5:
        marks = (1,) if high / low >= 100 else (1, 2, 5)
        powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        return [value for power in powers for mark in marks if low <= (value := mark * 10.0**power) <= high]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number in few letters: 1.2M, 34k, 0.05."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.3g}"


def _usable(points: Sequence[Point], logarithmic: bool) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]


def _span(values: Sequence[float], logarithmic: bool) -> Point:
    low, high = min(values), max(values)
    if logarithmic:
        return (low / 1.05, high * 1.05)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (low - room, high + room)


def _place(point: Point, frame: tuple[float, float, float, float], logarithmic: bool) -> Point:
    left, right, low, high = frame
    y = math.log(point[1] / low) / math.log(high / low) if logarithmic else (point[1] - low) / (high - low)
    return LEFT + (WIDTH - LEFT) * (point[0] - left) / ((right - left) or 1), HEIGHT - (HEIGHT - TOP) * y


def _tick(value: float, frame: tuple[float, float, float, float], logarithmic: bool) -> str:
    _, y = _place((frame[0], value), frame, logarithmic)
    text = f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{escape(short(value))}</text>'
    return f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>{text}'


def _line(curve: Curve, frame: tuple[float, float, float, float], logarithmic: bool) -> str:
    places = [_place(point, frame, logarithmic) for point in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    title = f"<title>{escape(curve.name)}: {escape(short(curve.points[-1][1]))} at the end</title>"
    dots = "".join(f'<circle class="{curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places) if curve.dots else ""
    return f'<g><polyline class="line {curve.kind}" points="{path}"/>{dots}{title}</g>'
