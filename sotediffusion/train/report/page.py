"""A run as one page, whole in a single file: it asks nothing of any server and runs no script.

All text from files (prompts, names, settings) is escaped by the template; the page itself forbids browsers all but inline
pictures and one style sheet, by its hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from sotediffusion.curate.report.thumbnails import Thumbnails, sealed
from sotediffusion.pictures.files import read_settings
from sotediffusion.train.report.curves import Curve, plot, short, smoothed
from sotediffusion.train.report.reading import LOSS_AT, Seen
from sotediffusion.train.status import span
from sotediffusion.types import UserError

HERE = Path(__file__).parent
POINTS = 8  # of a run that pictures are shown of, the first and the last among them


@dataclass(frozen=True)
class Row:
    """A prompt and what was drawn of it, one picture a point of the run."""

    prompt: str
    about: str
    pictures: Sequence[tuple[int, str | None]]  # images seen, data URL


@dataclass(frozen=True)
class Facts:
    """Everything on the page."""

    name: str
    numbers: Sequence[tuple[str, str]]  # value, what it is
    plots: Sequence[tuple[str, str, Sequence[tuple[str, str]], Markup]]  # title, note, legend, plot
    rows: Sequence[Row]
    models: Sequence[str]
    settings: str
    folder: str


def gather(seen: Seen) -> Facts:
    """Everything that the page says of a run."""
    return Facts(seen.name, _numbers(seen), list(_plots(seen)), _rows(seen), seen.models, seen.settings, str(seen.folder))


def render(facts: Facts) -> str:
    """The page."""
    return sealed(HERE, "run", facts, short=short)


def _numbers(seen: Seen) -> list[tuple[str, str]]:
    last = seen.last
    found = [(short(last["images"]), f"images of {short(last['total'])}"), (short(last["steps"]), "steps"),
             (f"{last['loss']:.4g}", "loss")]  # fmt: skip
    if seen.validations:
        found.append((f"{seen.validations[-1]['loss']:.4g}", "held-out loss"))
    found.append((span(last["seconds"]), "trained"))
    if last["numbers"].get("MFU"):
        found.append((f"{last['numbers']['MFU']:.0%}", "of the device's rate"))
    return [*found, (last["outcome"], "state")]


def _plots(seen: Seen) -> Any:
    loss = seen.series(lambda line: line["loss"])
    curves = [Curve("loss", loss, "faint"), Curve("smoothed", smoothed(loss)),
              Curve("held out", seen.validated("loss"), "c1", dots=True)]  # fmt: skip
    yield from _one("Loss", "as it is minimised, weighted by noise level", curves, True)
    yield from _one("Loss by noise level", "of log-SNR, not weighted, smoothed; low is mostly noise", _ranges(seen, False), True)
    yield from _one("Held-out loss by noise level", "the same pictures, times and noise each time", _ranges(seen, True), True)
    yield from _one("Learning rate", "of the first group", [Curve("lr", seen.series(lambda line: line["lr"]))], False)
    yield from _one("Gradient norm", "before clipping", [Curve("norm", seen.numbers("gradient norm"), "c2")], True)
    yield from _one("Speed", "images a second", [Curve("speed", seen.series(lambda line: line["speed"] or None), "c3")], False)
    yield from _one("MFU", "share of the device's rate", [Curve("MFU", seen.numbers("MFU"), "c4")], False)


def _one(title: str, note: str, curves: list[Curve], logarithmic: bool) -> Any:
    drawn = plot(curves, logarithmic)
    if drawn is not None:
        legend = [(curve.name, curve.kind) for curve in curves if len(curve.points) > 1]
        yield title, note, legend if len(legend) > 1 else [], drawn


def _ranges(seen: Seen, held: bool) -> list[Curve]:
    names = seen.ranges()
    points = {name: seen.validated(name) if held else smoothed(seen.numbers(name)) for name in names}
    return [Curve(name.removeprefix(LOSS_AT), points[name], f"c{place}", dots=held) for place, name in enumerate(names)]


def _rows(seen: Seen) -> list[Row]:
    points = sorted(seen.drawn)
    if len(points) > POINTS:
        points = [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]
    thumbnail = Thumbnails(lambda path: np.asarray(Image.open(path).convert("RGB")))
    found = []
    for place in range(max((len(seen.drawn[point]) for point in points), default=0)):
        shown = [(point, thumbnail(str(paths[place]))) for point in points if len(paths := seen.drawn[point]) > place]
        about = _about(seen.drawn[shown[-1][0]][place])
        told = f"{about.get('width')}x{about.get('height')}, seed {about.get('seed')}, guidance {about.get('guidance')}"
        found.append(Row(str(about.get("prompt", "")), told if about else "", shown))
    return found


def _about(path: Path) -> dict[str, Any]:
    try:
        return read_settings(path)
    except UserError:
        return {}
