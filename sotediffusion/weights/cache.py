"""Where weights lie: the embedded model, and the hub's cache, read without its network half.

`os.path` says of a name that is too long, and of a folder closed to us, that it is not there; Path would raise.
"""

import os
from importlib.resources import files
from pathlib import Path

from ..types import UserError

MINIATURE = "miniature"  # the model inside the package


def embedded() -> Path:
    """The folder of the model inside the package."""
    return Path(str(files("sotediffusion") / "miniature" / "weights"))


def cache_folder() -> Path:
    """Where downloads are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def pinned(model: str) -> tuple[str, str | None]:
    """A hub id, and the branch, tag or commit that it is named at: ID@REVISION."""
    id, _, revision = model.partition("@")
    return id, revision or None


def find(id: str, revision: str | None = None, cache: Path | None = None) -> Path | None:
    """A downloaded repository in the cache, by branch, tag or commit; None where it is not there.

    Where no revision is named that is main, or what was downloaded in its place, if that is one only.
    """
    folder = (cache or cache_folder()) / ("models--" + id.replace("/", "--"))
    ref = folder / "refs" / (revision or "main")
    commit = ref.read_text().strip() if os.path.isfile(ref) else revision or _only(folder / "snapshots")
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and os.path.isdir(snapshot) else None


def _only(snapshots: Path) -> str:
    commits = os.listdir(snapshots) if os.path.isdir(snapshots) else []
    return commits[0] if len(commits) == 1 else ""


def locate(model: str | Path, revision: str | None = None, cache: Path | None = None) -> Path:
    """The path of a model given as "miniature", as a path or as a hub id that was downloaded. UserError: none of them.

    An id may say its revision, ID@REVISION.
    """
    if model == MINIATURE or (model == Path(MINIATURE) and not os.path.exists(model)):  # the bare word, or no folder of that name
        model = embedded()
        if not os.path.exists(model):
            raise UserError("model", "the embedded weights are not in this build; train them with `make miniature`, or give "
                                     "a folder, a file or a downloaded hub id")
    if os.path.exists(model):
        return Path(model)
    id, named = pinned(str(model))
    revision = revision or named
    found = find(id, revision, cache) if id.count("/") == 1 else None
    if found is None:
        wanted = f"{id} --revision {revision}" if revision else id
        hint = f", or run `sote weights download {wanted}`" if id.count("/") == 1 else ""
        raise UserError("model", f"{str(model)[:200]} is not here; give a file, a folder or a downloaded hub id{hint}")
    return found
