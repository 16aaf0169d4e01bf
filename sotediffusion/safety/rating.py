"""The tagger's rating head, read into the card's four rating tags."""

from collections.abc import Sequence
from math import isfinite

RATINGS = ("general", "sensitive", "nsfw", "explicit nsfw")  # the head's order; it calls the last two questionable and explicit


def rating_of(probabilities: Sequence[float]) -> str:
    """The likeliest of the four ratings, the milder one on a tie; ValueError unless there are four finite numbers."""
    if len(probabilities) != len(RATINGS) or not all(isfinite(p) for p in probabilities):
        raise ValueError(f"the rating head gives {len(RATINGS)} finite probabilities, not {list(probabilities)!r}")
    return RATINGS[max(range(len(RATINGS)), key=lambda place: probabilities[place])]
