"""Published weights: fetched from a hub with their connected repository, and those that are here."""

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..types import UserError
from .bundle import WHOLE, Choice
from .cache import cache_folder
from .components import LITE, meant, sized, variant_of
from .licences import PUBLISHED
from .reading import COMBINED, DECODER, EXTRAS, INDEX_FILE, MODEL_FILE, PRIOR, connected_ids

SMALL = (".json", ".txt", ".md", ".toml", ".model")  # always fetched, with licences and notices
WORDS = ("LICENSE", "NOTICE", "README")
ROLES = {"prior": "stage_c", "decoder": "stage_b"}  # what a README may name as the other half, and what that is for


class Silent(tqdm):
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{**options, "disable": True})


@dataclass(frozen=True)
class Fetched:
    """A repository in the cache, at one commit."""

    id: str
    commit: str
    path: Path


def download(id: str, revision: str | None = None, cache: Path | None = None, endpoint: str | None = None,
             progress: type[Any] | None = None, choice: Choice = WHOLE, token: str | bool | None = None) -> list[Fetched]:
    """Fetches a repository, and the prior or decoder that its README names, if chosen; what is there already stays as it is.

    `revision`: branch, tag or commit of the repository asked for. `progress`: a tqdm class. `choice`: what of it. `token`: shown
    to the hub in the place of the one signed in with. A connection that breaks is taken up where it broke. UserError: unknown id
    or revision, a closed repository, no connection, a full disk.
    """

    def fetch(id: str, revision: str | None = None) -> Fetched:
        return _fetch(id, revision, cache, endpoint, progress, choice, token)

    first = fetch(id, revision)
    roles = [role for role, stage in ROLES.items() if stage in choice.parts]
    others = [name for role in roles for name in connected_ids(first.path, role) if name != id]
    return [first, *(fetch(name) for name in others)]


def _fetch(
    id: str, revision: str | None, cache: Path | None, endpoint: str | None, progress: type[Any] | None, choice: Choice,
    token: str | bool | None,
) -> Fetched:  # fmt: skip
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi(endpoint=endpoint, token=token).list_repo_files(id, revision=revision)
        wanted = wanted_files(files, choice)
        if not any(name.endswith(".safetensors") for name in files):
            raise UserError("id", f"{id} holds no safetensors; only safetensors are fetched, choose another repository")
        _check_copies(id, files, choice)
        path = huggingface_hub.snapshot_download(
            id, revision=revision, cache_dir=cache, endpoint=endpoint, token=token, allow_patterns=wanted,
            tqdm_class=progress or Silent,
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # the HTTP library below, and with it what is raised, changes between versions
        raise _explained(id, revision, error) from error
    return Fetched(id, Path(path).name, Path(path))


def _check_copies(id: str, files: Iterable[str], choice: Choice) -> None:
    if choice.lite and not any(name.split("/")[0].endswith(LITE) for name in files):
        raise UserError("lite", f"{id} holds neither prior{LITE}/ nor decoder{LITE}/; leave it out for its full networks")
    if choice.variant and choice.variant not in {variant_of(Path(name).name) for name in files}:
        raise UserError("variant", f"{id} has no files of the variant {choice.variant!r}; leave it out for the plain ones")


def wanted_files(files: Iterable[str], choice: Choice = WHOLE) -> list[str]:
    """Which files of a repository a cascade is opened from: no pickles, and of each part one copy, the variant chosen if there.

    Where there are diffusers' folders, Stability's original files beside them are left out, and so is the decoder's own text
    encoder where Stage C is chosen: the prior's serves both stages.
    """
    files = list(files)
    small = [name for name in files if name.endswith(SMALL) or Path(name).name.startswith(WORDS)]
    weights = [name for name in files if name.endswith(".safetensors")]
    if INDEX_FILE in files:
        layouts = (COMBINED, PRIOR, DECODER, EXTRAS)
        folders = {name.split("/")[0] for name in files}
        chosen = [place for layout in layouts for part, place in layout.items() if part in choice.parts]
        places = {sized(place, folders, choice.lite) for place in chosen}
        others = {place.removesuffix(LITE) if place.endswith(LITE) else place + LITE for place in places}
        is_prior, is_decoder = ({place, place + LITE} & folders for place in ROLES)
        if is_decoder and not is_prior and ("stage_c" in choice.parts or "prior_prior" in folders):
            places -= {"text_encoder"}
        small = [name for name in small if name.split("/")[0] not in others]  # where a config is weights are sought
        weights = [name for name in weights if name.split("/")[0] in places]
        return _one_copy(small + weights, choice.variant)
    return small + weights


def _one_copy(names: Iterable[str], variant: str) -> list[str]:
    """Of weights and their indices, folder by folder, the copy that is meant."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        folders.setdefault(folder + slash, []).append(file)
    return [folder + file for folder, files in folders.items() for file in meant(files, variant)]


def _explained(id: str, revision: str | None, error: Exception) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError("id", f"{id} is closed to you; accept its terms on its page and sign in with `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError("revision", f"{revision!r} is not in {id}; give a branch, a tag or a commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError("id", f"{id} is not on the hub, or private; published are {', '.join(p.id for p in PUBLISHED)}")
    if isinstance(error, errors.HFValidationError):
        return UserError("id", f"{id[:80]!r} is not a hub id; it looks like {PUBLISHED[0].id}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "free some, or set HF_HOME to a larger disk, and run it again"
        return UserError("cache", f"no space left ({error.strerror}); {advice}")
    return UserError("id", f"{id} could not be fetched ({type(error).__name__}: {_first_line(error)}); "
                           "check the connection and run it again: finished files are kept")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def downloaded(cache: Path | None = None) -> list[Fetched]:
    """The cascades in the download cache, every commit of each."""
    snapshots = sorted((cache or cache_folder()).glob("models--*/snapshots/*"))
    found = [Fetched(path.parents[1].name.removeprefix("models--").replace("--", "/", 1), path.name, path) for path in snapshots]
    return [repository for repository in found if _is_cascade(repository.path)]


def _is_cascade(folder: Path) -> bool:
    if (folder / MODEL_FILE).is_file() or any(folder.glob("*stage_c*.safetensors")):
        return True
    try:
        return "StableCascade" in json.loads((folder / INDEX_FILE).read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
