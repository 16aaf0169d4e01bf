"""Models of others, fetched from their hub into folders of their own, whole or not at all; pickles become safetensors once."""

import errno
import hashlib
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from sotediffusion.curate.inference.published import PUBLISHED, TAGGER, Model, Source, file_hash
from sotediffusion.pictures.files import write_whole
from sotediffusion.types import UserError

SHA256 = re.compile("[0-9a-f]{64}")
MLP = "mlp.safetensors"
CONVERTED = {"pytorch_model.bin": "model.safetensors", "aes-B32-v0.pth": MLP}  # a pickle, and what it becomes
MLP_SHAPES = {"fc1.weight": (256, 512), "fc1.bias": (256,), "fc2.weight": (128, 256), "fc2.bias": (128,),
              "fc3.weight": (1, 128), "fc3.bias": (1,)}  # fmt: skip # of aes-B32-v0
ALL = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")  # of a repository taken whole
Progress = Callable[[str], None]


def fetch_model(model: Model, models: str | Path, endpoint: str | None = None, say: Progress = lambda file: None) -> Path:
    """Fetch a published model into MODELS/<name> and convert what is a pickle; files already there stay.

    `say` is told each file's name before it is fetched. UserError: no connection, another file than was published, a full disk.
    """
    folder = Path(models) / model.name
    for source in model.sources:
        if source.files:
            fetch_files(source, folder, endpoint, say)
        else:
            say(source.id)
            _fetch_all(source, folder, endpoint)
    return folder


def fetch_files(source: Source, folder: Path, endpoint: str | None = None, say: Progress = lambda file: None) -> None:
    """Fetch a source's files into `folder`. A pickle is converted as soon as it is known to be the published file."""
    for there in source.files:
        name = there.rpartition("/")[2]
        target = folder / CONVERTED.get(name, name)
        if target.is_file():
            continue
        say(f"{source.id}/{there}")
        part = folder / ".part"
        try:
            got, published = _download(source, there, part, endpoint)
            known = source.sha256.get(there) or (published if SHA256.fullmatch(published) else None)
            if name in CONVERTED:
                convert_pickle(got, target, known)
            else:
                _check_hash(got, known)
                got.replace(target)
        except OSError as error:
            raise _disk(folder, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _download(source: Source, there: str, part: Path, endpoint: str | None) -> tuple[Path, str]:
    """The file, and what the hub says its content's hash is (of large files their sha256)."""
    import huggingface_hub

    try:
        address = huggingface_hub.hf_hub_url(source.id, there, revision=source.revision, endpoint=endpoint)
        etag = huggingface_hub.get_hf_file_metadata(address).etag or ""
        path = huggingface_hub.hf_hub_download(source.id, there, revision=source.revision, local_dir=part, endpoint=endpoint)
    except Exception as error:  # the HTTP library below, and with it what is raised, changes between versions
        raise _explained(source, there, error) from error
    return Path(path), etag


def _fetch_all(source: Source, folder: Path, endpoint: str | None) -> None:
    """Into a folder beside it that gets the name when it is whole; after a break it stays, and a later call goes on there.

    Where the folder is there already, what it lacks is brought into it.
    """
    import huggingface_hub

    into = folder if folder.exists() else folder.with_name(f".{folder.name}.new")
    try:
        huggingface_hub.snapshot_download(
            source.id, revision=source.revision, local_dir=into, endpoint=endpoint, allow_patterns=list(ALL)
        )
    except Exception as error:
        raise _explained(source, "", error) from error
    try:
        into.rename(folder)
    except OSError as error:
        raise _disk(folder, error) from error


def fetch_tagger(model_dir: Path, repo_id: str, force: bool = False, endpoint: str | None = None,
                 say: Progress = lambda file: None) -> Path:
    """kohya's place for a tagger, MODEL_DIR/<repo_id with _ for />; fetched where that folder is missing, or by `force`.

    `repo_id` is user/repo, or user/repo/revision. UserError where it cannot be fetched; then no half of it is left.
    """
    folder = model_dir / repo_id.replace("/", "_")
    if folder.exists() and not force:
        lacking = [file for file in TAGGER if not (folder / file).is_file()]
        if lacking:
            raise UserError("model_dir", f"{folder} has no {lacking[0]}; fetch the tagger again with --force_download")
        return folder
    user, _, rest = repo_id.partition("/")
    name, _, revision = rest.partition("/")
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        fetch_files(Source(f"{user}/{name}", TAGGER, revision or "main"), new, endpoint, say)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    except OSError as error:
        raise _disk(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def convert_published(file: Path, models: str | Path, sha256: str | None = None) -> Path:
    """Convert a pickle of a published model, known by its name, into MODELS/<model>; `sha256` serves where none is known here.

    UserError as for `convert_pickle`, and for a file of another name.
    """
    for model in PUBLISHED.values():
        for source in model.sources:
            for there in source.files:
                if there.rpartition("/")[2] == file.name and file.name in CONVERTED:
                    target = Path(models) / model.name / CONVERTED[file.name]
                    return convert_pickle(file, target, source.sha256.get(there) or sha256)
    raise UserError("file", f"{file.name!r} is not a published pickle; known are {', '.join(CONVERTED)}")


def convert_pickle(source: Path, target: Path, sha256: str | None) -> Path:
    """Write the tensors of a pickle as safetensors, opened with weights_only and by its hash.

    UserError: another file than the hash says, no hash to go by, anything in it but tensors, other shapes than the contract's.
    """
    content = _read(source)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is None:
        raise UserError("sha256", f"{source} has the sha256 {digest} and none is published here to compare it with; look it up "
                                  f"on the file's page, then give --sha256")  # fmt: skip
    if digest != sha256.lower():
        raise UserError("sha256", f"{source} has the sha256 {digest}, not {sha256}; it is not the published file, fetch it again")
    tensors = _tensors(content, source)
    if target.name == MLP:
        _check_shapes(tensors, source)
    from safetensors.torch import save

    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # no two share memory
    write_whole(target, save(whole, {"format": "pt", "source": digest}), "models")
    return target


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError("file", f"{path} cannot be read ({error.strerror}); give the path of the published file") from None


def _tensors(content: bytes, source: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what an unpickler meets in a strange file is anything
        raise UserError("file", f"{source} holds more than weights or is damaged ({str(error)[:80]}); fetch it again") from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError("file", f"{source} is not a plain table of weights; give the published file")
    return found


def _check_shapes(tensors: dict[str, Any], source: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != MLP_SHAPES:
        raise UserError("file", f"{source} has the weights {str(shapes)[:160]}; aes-B32-v0 has {', '.join(MLP_SHAPES)} "
                                "for 512, 256, 128 and 1 numbers")  # fmt: skip


def _check_hash(path: Path, sha256: str | None) -> None:
    if sha256 is not None and file_hash(path) != sha256:
        raise UserError("sha256", f"{path.name} came as {file_hash(path)}, published is {sha256}; fetch it again")


def _disk(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("models", f"no space left for {path}; free some, or give another folder")
    return UserError("models", f"{path} cannot be written ({error.strerror or error}); give another folder")


def _explained(source: Source, file: str, error: Exception) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("models", "no space left for what is fetched; free some, or give another folder")
    if isinstance(error, errors.GatedRepoError):
        return UserError("id", f"{source.id} is closed to you; accept its terms on its page and sign in with `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
        return UserError("id", f"{source.id} at {source.revision} is not on the hub, or private; check the name")
    if isinstance(error, errors.EntryNotFoundError):
        return UserError("id", f"{source.id} at {source.revision} has no {file}; choose a model in the contract wanted")
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
    return UserError("id", f"{source.id} could not be fetched ({type(error).__name__}: {reason}); check the connection and "
                           "run it again, or put the files where they are looked for yourself")  # fmt: skip
