"""What to say about a name that nobody knows: the known ones, nearest first."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from sotediffusion.types import UserError


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, most alike first (difflib's ratio, case ignored); equals stay in their own order."""
    return sorted(known, key=lambda k: -SequenceMatcher(None, k.casefold(), name.casefold()).ratio())


def listing(names: list[str], most: int = 12) -> str:
    """Names as prose, `a, b, c`; of a long list the first `most` and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def unknown(field: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name, to be raised by the caller."""
    return UserError(field, f"{name[:80]!r} is not known; known are, nearest first, {listing(nearest(name, known))}")
