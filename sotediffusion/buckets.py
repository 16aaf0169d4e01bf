"""Which width x height a picture is trained or drawn at: buckets of about one area, and how a picture is fitted into one.

Sizes are (width, height) in px everywhere. Two rules are those of the trainer that the published models were made with
(kohya-ss/sd-scripts, branch stable-cascade), so that a folder trained there falls into the same buckets here; the third is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from sotediffusion.names import unknown
from sotediffusion.types import UserError

Size = tuple[int, int]
Sides = NDArray[np.int64]
Fits = NDArray[np.int32]  # (N, 6): sides of the bucket and of the scaled picture, left and top of the cut; 0 for no bucket

CELL = 32  # px that EffNet sees in one latent cell
RULES = ("no_upscale", "kohya", "kohya_no_upscale", "one_size")


@dataclass(frozen=True)
class BucketSettings:
    """Which buckets there are and how pictures are put into them. Sides are px of the picture, of which EffNet sees `scale`."""

    resolution: int | tuple[int, int] = 1024  # side of a square, or width and height: only their area counts
    rule: str = "no_upscale"  # one of RULES
    scale: float = 0.75  # EffNet's px to one of the picture; 1 for latents as kohya's trainer makes them
    cells: int = 1  # latent cells by which sides differ; 3 for output sizes that are multiples of 128
    shortest: int = 256
    longest: int = 2048

    @property
    def step(self) -> int:
        """What sides are multiples of, in px that EffNet sees."""
        return self.cells * CELL

    @property
    def size(self) -> Size:
        """Width and height of the resolution, in px that EffNet sees."""
        width, height = (self.resolution,) * 2 if isinstance(self.resolution, int) else self.resolution
        return int(width * self.scale), int(height * self.scale)

    @property
    def area(self) -> int:
        """Of the largest bucket, in px that EffNet sees."""
        return self.size[0] * self.size[1]


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


def fit_all(widths: Sides, heights: Sides, settings: BucketSettings) -> Fits:
    """The fit of each picture (N, 6), in px that EffNet sees; zeros for a picture that no bucket can hold.

    Raises UserError for settings without any bucket.
    """
    if settings.rule not in RULES:
        raise unknown("buckets.rule", settings.rule, RULES)
    if settings.cells < 1 or not 0 < settings.scale <= 2:
        raise UserError("buckets", f"cells {settings.cells} and scale {settings.scale:g} leave no size; take 1 or more, 0.75, 1")
    step = settings.step
    shortest = -int(-settings.shortest * settings.scale // step) * step
    longest = int(settings.longest * settings.scale // step) * step
    sizes = bucket_sizes(settings.area, step, shortest, longest)
    seen = [(sides * settings.scale + 0.5).astype(np.int64) for sides in (widths, heights)]
    packed, place = np.unique(seen[0] << 32 | seen[1], return_inverse=True)
    width, height = packed >> 32, packed & (2**32 - 1)
    if settings.rule == "kohya":
        fits = _nearest(width, height, np.array(sizes))
    elif settings.rule == "one_size":
        fits = _nearest(width, height, np.array([settings.size]) // step * step)
    elif settings.rule == "kohya_no_upscale":
        fits = _floored(width, height, settings.area, step)
    else:
        fits = _least_cut(width, height, settings.area, (step, shortest, longest))
    return fits[place]


def select_bucket(width: int, height: int, buckets: Sequence[Size]) -> Fit:
    """The bucket nearest in aspect, the picture scaled (also up) until it covers it; an exact size is left alone."""
    return _single(_nearest(np.array([width]), np.array([height]), np.array(buckets)))


def select_no_upscale(width: int, height: int, area: int, step: int = 64) -> Fit:
    """A picture is scaled down to about `area` or not at all, and its edges below `step` are cut.

    Of the two ways to put one side on the grid, the one that keeps the aspect better wins (the height's on a tie).
    Raises UserError where a side is below one step.
    """
    fits = _floored(np.array([width]), np.array([height]), area, step)
    if not fits.any():
        raise UserError("size", f"{width}x{height} has a side under the step of {step} px; take a larger picture or smaller step")
    return _single(fits)


def _single(fits: Fits) -> Fit:
    values = fits[0].tolist()
    return Fit((values[0], values[1]), (values[2], values[3]), (values[4], values[5]))


def _nearest(width: Sides, height: Sides, sizes: Sides) -> Fits:
    """kohya's rule: an exact size, or else the nearest aspect."""
    aspect = width / height
    ratios = sizes[:, 0] / sizes[:, 1]
    best, error = np.zeros(len(width), np.int64), np.full(len(width), np.inf)
    for number, ratio in enumerate(ratios):
        nearer = np.abs(ratio - aspect) < error
        best[nearer], error[nearer] = number, np.abs(ratio - aspect)[nearer]
    bucket = sizes[best]
    scale: NDArray[np.float64] = np.where(aspect > ratios[best], bucket[:, 1] / height, bucket[:, 0] / width)
    resized = np.stack([_round(width * scale), _round(height * scale)], 1)
    exact = np.isin(width << 32 | height, sizes[:, 0] << 32 | sizes[:, 1])
    own = np.stack([width, height], 1)
    return _cut(np.where(exact[:, None], own, bucket), np.where(exact[:, None], own, resized))


def _floored(width: Sides, height: Sides, area: int, step: int) -> Fits:
    """kohya's rule for `bucket_no_upscale`."""
    aspect = width / height
    ideal = np.sqrt(area * aspect)
    across, down = _round(ideal) // step * step, _round(area / ideal) // step * step
    one = np.stack([across, _round(across / aspect)], 1)
    other = np.stack([_round(down * aspect), down], 1)
    better = _aspect_error(one, step, aspect) < _aspect_error(other, step, aspect)
    scaled = np.where(better[:, None], one, other)
    resized = np.where((width * height > area)[:, None], scaled, np.stack([width, height], 1))
    return _cut(resized // step * step, resized)


def _aspect_error(size: Sides, step: int, aspect: NDArray[np.float64]) -> NDArray[np.float64]:
    width, height = (size // step * step).T
    return np.where(height > 0, np.abs(width / np.maximum(height, 1) - aspect), np.inf)


def _least_cut(width: Sides, height: Sides, area: int, grid: tuple[int, int, int]) -> Fits:
    """Ours: of the sizes on the grid that need no enlarging, the one that shows most, by (share of the picture kept)^2 x area.

    For each width only the heights around the picture's aspect can win: lower ones cut more and show less, and beyond, what is
    cut outweighs what is gained.
    """
    step, shortest, longest = grid
    bucket, best = np.zeros((len(width), 2), np.int64), np.zeros(len(width))
    for across in range(shortest, longest + 1, step):
        limit = min(longest, area // across // step * step)
        level = height * across // width // step * step
        for down in (level, level + step):
            down = np.clip(down, shortest, limit)
            shrunk = np.maximum(across / width, down / height)
            shown = (across * down / (shrunk * shrunk * width * height)) ** 2 * (across * down)
            better = (limit >= shortest) & (shrunk <= 1) & (shown > best)
            best[better] = shown[better]
            bucket[better, 0], bucket[better, 1] = across, down[better]
    scale: NDArray[np.float64] = np.maximum(bucket[:, 0] / width, bucket[:, 1] / height)
    resized = np.stack([_round(width * scale), _round(height * scale)], 1)
    return _cut(bucket, np.maximum(resized, bucket))


def _cut(bucket: Sides, resized: Sides) -> Fits:
    fits = np.concatenate([bucket, resized, (resized - bucket) // 2], 1).astype(np.int32)
    fits[(bucket == 0).any(1)] = 0
    return fits


def _round(values: NDArray[np.float64]) -> Sides:
    return (values + 0.5).astype(np.int64)
