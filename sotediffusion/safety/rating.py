"""The tagger's rating head, read into the card's four rating tags."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

RATINGS = ("general", "sensitive", "nsfw", "explicit nsfw")  # the head's order; it calls the last two questionable and explicit


def rating_of(probabilities: ArrayLike) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The place in RATINGS of each picture's likeliest rating (N, 4) -> (N,), the milder one on a tie.

    ValueError unless every picture has four finite numbers.
    """
    given = np.asarray(probabilities, np.float32)
    if given.ndim != 2 or given.shape[1] != len(RATINGS) or not np.isfinite(given).all():
        raise ValueError(f"the rating head gives {len(RATINGS)} finite probabilities a picture, not {given.shape} {given[:1]}")
    return given.argmax(axis=1)
