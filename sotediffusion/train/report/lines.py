"""A run as a few lines for a terminal: how far it is, how long it will take, and how its losses have moved."""

from collections.abc import Sequence

from sotediffusion.train.report.curves import short, smoothed, thinned
from sotediffusion.train.report.reading import LOSS_AT, Point, Seen
from sotediffusion.train.status import left, span

BLOCKS = [chr(0x2581 + level) for level in range(8)]  # eighths of a character's height
WIDE = 32  # characters of a curve
BAR = 40  # characters


def lines(seen: Seen) -> list[str]:
    """What there is to say."""
    last = seen.last
    numbers, progress = last["numbers"], min(1.0, last["progress"])
    done = "#" * round(BAR * progress)
    told = [
        f"{seen.name}  [{done:<{BAR}}] {progress:.1%}  {last['outcome']}",
        f"{last['images']:,} of {last['total']:,} images, {last['steps']:,} steps, {span(last['seconds'])} trained"
        + (f", {span(left(last['seconds'], progress))} left" if last["outcome"] == "running" else ""),
        f"{last['speed']:.3g} images/s" + (f", MFU {numbers['MFU']:.1%}" if "MFU" in numbers else "") + f", lr {last['lr']:.3g}"
        + (f", gradient norm {numbers['gradient norm']:.3g}" if "gradient norm" in numbers else ""), "",
        _curve("loss", smoothed(seen.series(lambda line: line["loss"]))),
    ]  # fmt: skip
    if seen.validations:
        told.append(_curve("held-out loss", seen.validated("loss")))
    told += [_curve(f"  log-SNR {name.removeprefix(LOSS_AT)}", smoothed(seen.numbers(name))) for name in seen.ranges()]
    if seen.drawn:
        told += ["", f"drawn after {max(seen.drawn):,} images: {seen.drawn[max(seen.drawn)][0].parent}"]
    return [*told, *(["", f"models: {', '.join(seen.models)}"] if seen.models else [])]


def spark(points: Sequence[Point]) -> str:
    """A curve as one line of block characters, from its lowest to its highest value."""
    values = [y for _, y in thinned(points, WIDE)]
    low, high = min(values), max(values)
    return "".join(BLOCKS[int((value - low) / ((high - low) or 1) * 7.999)] for value in values)


def _curve(name: str, points: Sequence[Point]) -> str:
    if not points:
        return f"{name:<18}"
    return f"{name:<18} {short(points[-1][1]):>8}  {spark(points)}"
