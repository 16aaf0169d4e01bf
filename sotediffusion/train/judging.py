"""What a judge reads in a picture: groups of tags that can be seen, the truth of a caption in them, and how answers are scored.

N pictures, G groups. Series, characters and artists are no groups: a character is known by its looks, which are judged, and an
artist's hand by nothing that a tag names. Indoors, outdoors and solo follow from background and people.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sotediffusion.miniature import vocabulary

HIDDEN = -1  # the truth of a group that a picture does not show
NONE = "none"

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Group:
    """Tags of which a picture has at most one."""

    name: str
    choices: tuple[str, ...]  # tags; NONE comes first where the absence of them all can be seen
    personal: bool = False  # of one person, so that it is not told apart in a picture of two
    ordinal: bool = False  # levels in order: the neighbouring one counts as right


def _optional(name: str, tags: Sequence[str], personal: bool = True) -> Group:
    return Group(name, (NONE, *tags), personal)


GROUPS = (
    _optional("girls", ("1girl", "2girls"), personal=False),
    _optional("boys", ("1boy", "2boys"), personal=False),
    Group("hair colour", tuple(f"{color} hair" for color in vocabulary.HAIR_COLORS), personal=True),
    Group("hair length", vocabulary.HAIR_LENGTHS, personal=True),
    Group("hair style", vocabulary.HAIR_STYLES, personal=True),
    Group("eye colour", tuple(f"{color} eyes" for color in vocabulary.EYE_COLORS), personal=True),
    Group("expression", vocabulary.EXPRESSIONS, personal=True),
    Group("gaze", vocabulary.GAZES, personal=True),
    _optional("ears", vocabulary.ANIMAL_EARS),
    _optional("headwear", vocabulary.HEADWEAR),
    _optional("glasses", ("glasses",)),
    _optional("blush", ("blush",)),
    _optional("bare shoulders", ("bare shoulders",)),
    Group("outfit", vocabulary.OUTFITS, personal=True),
    _optional("held", tuple(vocabulary.HELD.values())),
    Group("background", tuple(vocabulary.BACKGROUNDS)),
    Group("framing", vocabulary.FRAMINGS),
    _optional("source", ("visual novel cg", "anime wallpaper"), personal=False),
    _optional("text", tuple(f'The text says "{word}"' for word in vocabulary.WORDS), personal=False),
    _optional("monochrome", ("monochrome",), personal=False),
    _optional("realistic", ("realistic",), personal=False),
    Group("era", tuple(vocabulary.ERAS), ordinal=True),
    Group("aesthetic", tuple(tag for _, tag in vocabulary.AESTHETIC_CUTS), ordinal=True),
    Group("quality", tuple(tag for _, tag in vocabulary.QUALITY_CUTS), ordinal=True),
)
NAMES = tuple(group.name for group in GROUPS)
SIZES = tuple(len(group.choices) for group in GROUPS)


def targets_of(tags: Mapping[str, Sequence[str]]) -> list[int]:
    """The choice of every group that a picture with these tags shows, HIDDEN where it shows none or one cannot say whose."""
    present = {tag for group in tags.values() for tag in group}
    return [HIDDEN if group.personal and "solo" not in present else _choice(group, present) for group in GROUPS]


def _choice(group: Group, present: set[str]) -> int:
    found = [i for i, tag in enumerate(group.choices) if tag in present]
    return found[0] if found else HIDDEN if group.choices[0] != NONE else 0


def hits(group: Group, truth: Numbers, told: Numbers) -> Numbers:
    """Which answers (N,) are right, for ordinal groups within one level."""
    return np.abs(told - truth) <= int(group.ordinal)


def balanced_accuracy(group: Group, truth: Numbers, told: Numbers) -> float:
    """Mean over the choices that occur of the share of their pictures told right; NaN where no picture shows the group."""
    right = hits(group, truth, told)
    shares = [right[truth == choice].mean() for choice in range(len(group.choices)) if (truth == choice).any()]
    return float(np.mean(shares)) if shares else math.nan


def rates(truth: Numbers, told: Numbers) -> dict[str, float]:
    """Balanced accuracy of every group, from choices (N, G)."""
    return {group.name: balanced_accuracy(group, truth[:, i], told[:, i]) for i, group in enumerate(GROUPS)}


def mean_rate(rates: Mapping[str, float], without: Sequence[str] = ()) -> float:
    """Mean over the groups that were measured; `without` leaves groups out. NaN where none was."""
    kept = [rate for name, rate in rates.items() if name not in without and not math.isnan(rate)]
    return float(np.mean(kept)) if kept else math.nan


def effect_size(high: Numbers, low: Numbers) -> float:
    """Cohen's d: difference of the means over the pooled standard deviation of both samples (N,), at least two each."""
    difference = float(np.mean(high) - np.mean(low))
    spread = math.sqrt((np.var(high, ddof=1) + np.var(low, ddof=1)) / 2)
    return difference / spread if spread else math.copysign(math.inf, difference) if difference else 0.0
