"""The models that are here, and which of them a picture was drawn with."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..types import UserError
from .bundle import REQUIRED
from .cache import MINIATURE, embedded
from .hub import downloaded
from .reading import MODEL_FILE, read


def models() -> Iterator[tuple[str, Path]]:
    """Name and path of the embedded model, where it is built, and of every download."""
    if (embedded() / MODEL_FILE).is_file():
        yield MINIATURE, embedded()
    yield from ((fetched.id, fetched.path) for fetched in downloaded())


def find_model(name: str, hashes: Mapping[str, str]) -> Path | None:
    """The model that has these hashes on record, else the one of this name; None where neither is here.

    A hash may be given by its first digits, and parts may be left out. Nothing but headers is read.
    """
    here = list(models())
    wanted = {part: hash for part, hash in hashes.items() if part in REQUIRED and hash}
    if wanted:
        for _, path in here:
            recorded = _recorded(path)
            if all(recorded.get(part, "").startswith(hash) for part, hash in wanted.items()):
                return path
    return next((path for known, path in here if known == name), None)


def _recorded(path: Path) -> dict[str, str]:
    try:
        return {name: part.hash for name, part in read(path).parts.items()}
    except UserError:  # half a download, say
        return {}
