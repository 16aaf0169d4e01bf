"""Which width x height a picture is trained or drawn at: buckets of about one area, and how a picture is fitted into one.

Sizes are (width, height) in px everywhere. The rules are those of the trainer that the published models were made with
(kohya-ss/sd-scripts, branch stable-cascade), so that a folder trained there falls into the same buckets here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, sqrt

from sotediffusion.types import UserError

Size = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """How a picture fills its bucket: scale it to `resized`, then cut `bucket` out at `crop` (left, top); all px."""

    bucket: Size
    resized: Size
    crop: Size


def bucket_sizes(area: int, step: int = 64, shortest: int = 256, longest: int = 1024) -> list[Size]:
    """All sizes of at most `area` px with sides that are multiples of `step` from `shortest` to `longest`, sorted.

    For each width the highest fitting height, both ways round, and the square.
    """
    if step < 1 or shortest < step or longest < shortest or area < shortest * shortest:
        raise UserError("buckets", f"area {area}, step {step} and sides {shortest} to {longest} leave no size; "
                                   "take step <= shortest <= longest and an area of at least shortest squared")
    side = isqrt(area) // step * step
    sizes = {(side, side)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, area // width // step * step)
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def select_bucket(width: int, height: int, buckets: Sequence[Size]) -> Fit:
    """The bucket nearest in aspect, the picture scaled (also up) until it covers it; an exact size is left alone."""
    if (width, height) in buckets:
        return _fit((width, height), (width, height))
    aspect = width / height
    bucket = min(buckets, key=lambda size: abs(size[0] / size[1] - aspect))
    scale = bucket[1] / height if aspect > bucket[0] / bucket[1] else bucket[0] / width
    return _fit(bucket, (_round(width * scale), _round(height * scale)))


def select_no_upscale(width: int, height: int, area: int, step: int = 64) -> Fit:
    """Our default: a picture is scaled down to about `area` or not at all, and only its edges below `step` are cut.

    Of the two ways to put one side on the grid, the one that keeps the aspect better wins (the height's on a tie).
    Raises UserError where a side is below one step.
    """
    resized = (width, height)
    if width * height > area:
        aspect = width / height
        across, down = sqrt(area * aspect), sqrt(area / aspect)
        by_width, by_height = _floor(_round(across), step), _floor(_round(down), step)
        one = (by_width, _round(by_width / aspect))
        other = (_round(by_height * aspect), by_height)
        resized = one if _aspect_error(one, step, aspect) < _aspect_error(other, step, aspect) else other
    bucket = (_floor(resized[0], step), _floor(resized[1], step))
    if 0 in bucket:
        raise UserError("size", f"{width}x{height} has a side under the step of {step} px; take a larger picture or smaller step")
    return _fit(bucket, resized)


def _fit(bucket: Size, resized: Size) -> Fit:
    return Fit(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))


def _aspect_error(size: Size, step: int, aspect: float) -> float:
    height = _floor(size[1], step)
    return abs(_floor(size[0], step) / height - aspect) if height else float("inf")


def _floor(value: int, step: int) -> int:
    return value // step * step


def _round(value: float) -> int:
    return int(value + 0.5)
