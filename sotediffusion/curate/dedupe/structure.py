"""Whether two pictures of similar hashes are one picture: laid over each other, what differs, and where.

Both are looked at as squares of SIDE x SIDE. The luma of one is fitted onto that of the other by scale and shift (Lucas and
Kanade 1981), which finds crops; then the places where they still differ tell a copy from a watermark at the edge and from a
variant, where somebody redrew a part: another face, another dress.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Kind = Literal["copy", "crop", "watermark", "variant", "other"]

SIDE = 64
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_STARTS = (1.0, 0.9, 0.8)  # share of the larger picture's width that the other may show
_STEPS = 12
_LEAST_SHARE = 0.7  # a smaller part of a picture is a picture of its own
_ALIKE = 0.93  # correlation from which the pictures show the same thing
_LOUD = 28.0  # grey levels: what differs more is a change and not the noise of encoding
_SPECKS = 3  # changed 2 x 2 blocks that encoding and resizing alone bring about
_LOCAL = 0.3  # share of changed places up to which it is one picture with a part changed
_BORDER = SIDE // 5  # how deep from the edge a watermark stands


class Finding(NamedTuple):
    """What two pictures are to each other; share of the one that the other shows; share of that which differs."""

    kind: Kind
    shown: float
    changed: float


def square(picture: Array) -> Array:
    """A picture (H, W, 3) uint8 as (SIDE, SIDE, 3) uint8, averaged over areas."""
    import cv2

    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def compare(one: Array, other: Array) -> Finding:
    """What two squares from `square` are to each other, whichever is the crop."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    return max((_directed(a, b), _directed(b, a)), key=_rank)


def _rank(finding: Finding) -> tuple[bool, float]:
    return finding.kind != "other", -finding.changed


def _directed(whole: Array, part: Array) -> Finding:
    """`part` looked for in `whole`."""
    light, target = whole @ _LUMA, part @ _LUMA
    correlation, box = max((_fit(light, target, start) for start in _STARTS), key=lambda fit: fit[0])
    shown = float(box[0] * box[1])
    if correlation < _ALIKE or not _inside(box):
        return Finding("other", shown, 1.0)
    laid = [_sample(whole[:, :, channel], box)[0] for channel in range(3)]
    changed = np.any([_changed(laid[channel], part[:, :, channel]) for channel in range(3)], axis=0)
    share = float(changed.mean())
    if share > _LOCAL:
        return Finding("other", shown, share)
    if _solid(changed) > _SPECKS:
        return Finding("watermark" if _at_border(changed) else "variant", shown, share)
    return Finding("crop" if min(box[:2]) < 0.98 else "copy", shown, share)


def _inside(box: Array) -> bool:
    """Whether the box (width, height, x and y of its middle, as shares) is a large part of the picture and within it."""
    reach = np.abs(box[2:] - 0.5) + box[:2] / 2
    return bool((box[:2] > _LEAST_SHARE).all() and (box[:2] < 1.03).all() and (reach < 0.53).all())


def _fit(whole: Array, part: Array, start: float) -> tuple[float, Array]:
    """The box of the luma `whole` that looks most like `part`, from a centred one on, with its correlation."""
    box = np.array([start, start, 0.5, 0.5])
    target, blurred = _blur(part), _blur(whole)
    best = (-1.0, box)
    for _ in range(_STEPS):
        laid, slopes = _sample(blurred, box)
        score = _correlation(laid, target)
        if score > best[0] + 1e-5:
            best = (score, box.copy())
        change = np.linalg.lstsq(slopes, _standard(target).ravel() * laid.std() + laid.mean() - laid.ravel(), rcond=None)[0]
        box = box + np.clip(change, -0.1, 0.1)
        if not (0.5 < box[0] < 1.3 and 0.5 < box[1] < 1.3):
            break
    return _correlation(_sample(whole, best[1])[0], part), best[1]


def _sample(picture: Array, box: Array) -> tuple[Array, Array]:
    """What the box shows at (SIDE, SIDE), and how each place changes with (width, height, x, y): (SIDE^2, 4)."""
    grid = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    x = (box[2] + box[0] * grid) * SIDE - 0.5
    y = (box[3] + box[1] * grid) * SIDE - 0.5
    rows, columns = _weights(y), _weights(x)
    laid = rows @ picture @ columns.T
    down, right = np.gradient(picture)
    by_x = (rows @ right @ columns.T) * SIDE
    by_y = (rows @ down @ columns.T) * SIDE
    slopes = np.stack([by_x * grid[None, :], by_y * grid[:, None], by_x, by_y], axis=-1)
    return laid, slopes.reshape(-1, 4)


def _weights(places: Array) -> Array:
    """(len(places), SIDE) linear interpolation at the places, clamped to the picture."""
    places = np.clip(places, 0, SIDE - 1)
    low = np.minimum(places.astype(int), SIDE - 2)
    weights = np.zeros((len(places), SIDE), np.float32)
    rows = np.arange(len(places))
    weights[rows, low] = 1 - (places - low)
    weights[rows, low + 1] = places - low
    return weights


def _changed(laid: Array, part: Array) -> Array:
    """Where they differ by one channel, a shift by a pixel forgiven."""
    low, high = _spread(laid)
    return (part < low - _LOUD) | (part > high + _LOUD)


def _spread(picture: Array) -> tuple[Array, Array]:
    """The darkest and the lightest of each place's 3 x 3 neighbours."""
    padded = np.pad(picture, 1, mode="edge")
    shifted = np.stack([padded[y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)])
    return shifted.min(0), shifted.max(0)


def _solid(changed: Array) -> int:
    """How many 2 x 2 blocks are changed throughout: thin lines, which resizing leaves at sharp edges, do not count."""
    return int((changed[:-1, :-1] & changed[1:, :-1] & changed[:-1, 1:] & changed[1:, 1:]).sum())


def _at_border(changed: Array) -> bool:
    inner = changed[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return bool(inner.sum() <= 0.1 * changed.sum())


def _standard(picture: Array) -> Array:
    return (picture - picture.mean()) / max(float(picture.std()), 1e-3)


def _correlation(one: Array, other: Array) -> float:
    return float((_standard(one) * _standard(other)).mean())


def _blur(picture: Array) -> Array:
    """Softened by (1 2 1) twice each way, so that slopes reach further than a pixel."""
    for _ in range(2):
        padded = np.pad(picture, 1, mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        picture = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return picture
