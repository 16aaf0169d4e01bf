"""Small plots as inline SVG: numbers go in, shapes with class names come out; the page's style sheet has the colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from markupsafe import Markup, escape

from sotediffusion.curate.report.stats import Line

WIDTH, HEIGHT = 560, 180
BASE = 24  # px below the axis, for its labels
TOP = 22  # px above the highest bar, for counts and the ends of marks
LEFT = 44  # px beside a plane, for labels
PLANE = WIDTH - LEFT  # px, its height: a square picture lies on its diagonal

Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Mark:
    """A line across a plot, at a value of its axis."""

    at: float
    label: str


def bars(counts: Sequence[int], low: float, high: float, marks: Sequence[Mark] = (), ticks: Ticks = ()) -> Markup:
    """A histogram from low to high; between two marks the bars have the class of that stretch, s0 being the highest."""
    most, each, step = max([*counts, 1]), (high - low) / len(counts), WIDTH / len(counts)
    shapes = []
    for place, count in enumerate(counts):
        start = low + place * each
        stretch = sum(mark.at > start + each / 2 for mark in marks)
        tall = (HEIGHT - TOP) * count / most
        title = f"{start:.3g} to {start + each:.3g}: {count:,}"
        shapes.append(_box(f"bar s{stretch}", (place * step, HEIGHT - tall, max(step - 1, 0.5), tall), title))
    for mark in marks:
        x, title = f"{_across(mark.at, low, high):.2f}", f"<title>{escape(mark.label)}</title>"
        shapes.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{HEIGHT}">{title}</line>')
    shapes += _axis([(_across(value, low, high), label) for value, label in ticks])
    return _svg(shapes, HEIGHT + BASE, "histogram")


def columns(lines: Sequence[tuple[str, int]], width: int = WIDTH) -> Markup:
    """One bar for each named count."""
    most, step = max([count for _, count in lines] + [1]), width / max(len(lines), 1)
    shapes = []
    for place, (name, count) in enumerate(lines):
        tall, x = (HEIGHT - TOP) * count / most, place * step
        shapes.append(_box("bar", (x + step * 0.14, HEIGHT - tall, step * 0.72, tall), f"{name}: {count:,}"))
        shapes.append(_text("count", x + step / 2, HEIGHT - tall - 6, short(count) if count else ""))
    shapes += _axis([((place + 0.5) * step, name) for place, (name, _) in enumerate(lines)], width)
    return _svg(shapes, HEIGHT + BASE, "counts", width)


def plane(found: Sequence[tuple[int, int, int]], cells: int, edges: Sequence[str]) -> Markup:
    """Cells by cells, darker where more pictures are; `found` has (column, row from below, count), `edges` label both axes."""
    wide, high = (WIDTH - LEFT) / cells, PLANE / cells
    most = max([count for *_, count in found] + [1])
    shapes = [_box("ground", (LEFT, 0, WIDTH - LEFT, PLANE))]
    for column, row, count in found:
        strength = 0.15 + 0.85 * (log10(count) / log10(most) if most > 1 else 1)
        cell = (LEFT + column * wide, PLANE - (row + 1) * high, wide - 0.6, high - 0.6)
        shapes.append(_box("cell", cell, f"{count:,}", f' fill-opacity="{strength:.2f}"'))
    last = len(edges) - 1
    for place, label in enumerate(edges):
        x, y = LEFT + place * (WIDTH - LEFT) / last, PLANE - place * PLANE / last
        shapes.append(_text("tick", x, PLANE + 16, label, "start" if place == 0 else "end" if place == last else "middle"))
        shapes.append(_text("tick", LEFT - 6, min(max(y + 4, 10), PLANE), label, "end"))
    return _svg(shapes, PLANE + BASE, "height over width")


def share(parts: Sequence[Line]) -> Markup:
    """One bar cut into parts, in proportion."""
    whole, x, shapes = sum(part.count for part in parts) or 1, 0.0, []
    for place, part in enumerate(parts):
        wide = 1000 * part.count / whole
        shapes.append(_box(f"part p{min(place, 9)}", (x, 0, max(wide - 1.5, 0.5), 26), f"{part.name}: {part.count:,}"))
        x += wide
    return _stretched("share", "0 0 1000 26", "".join(shapes))


def meter(count: int, most: int) -> Markup:
    """A thin bar for a table's line."""
    wide = 100 * count / most if most else 0
    return _stretched("meter", "0 0 100 6", _box("rail", (0, 0, 100, 6)) + _box("fill", (0, 0, wide, 6)))


def short(count: int) -> str:
    """A count in few letters: 1.2M, 34k, 567."""
    if count >= 1e6:
        return f"{count / 1e6:.3g}M"
    return f"{count / 1e3:.3g}k" if count >= 1e4 else f"{count:,}"


def _box(kind: str, place: tuple[float, float, float, float], title: str = "", more: str = "") -> str:
    x, y, width, height = (f"{value:.2f}".rstrip("0").rstrip(".") for value in place)
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"{more}>{inside}</rect>'


def _text(kind: str, x: float, y: float, label: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(label)}</text>'


def _axis(ticks: Ticks, width: int = WIDTH) -> list[str]:
    shapes = [f'<line class="base" x1="0" x2="{width}" y1="{HEIGHT}" y2="{HEIGHT}"/>']
    for x, label in ticks:
        shapes.append(_text("tick", x, HEIGHT + 16, label, "start" if x < 8 else "end" if x > width - 8 else "middle"))
    return shapes


def _across(value: float, low: float, high: float) -> float:
    return WIDTH * (value - low) / (high - low)


def _svg(shapes: list[str], height: int, label: str, width: int = WIDTH) -> Markup:
    head = f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{''.join(shapes)}</svg>")


def _stretched(kind: str, box: str, inside: str) -> Markup:
    return Markup(f'<svg class="{kind}" viewBox="{box}" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>')
