"""Export to kohya's folders: `<repeats>_<name>` with pictures and .txt captions, metadata.json for fine-tuning, dataset.toml."""

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sotediffusion.config import to_toml
from sotediffusion.curate.engine.shelves import Folder, raw_name
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.exports.entries import SUFFIXES, Done, Entry, ExportSettings, contents, groups_of
from sotediffusion.curate.exports.places import claim
from sotediffusion.curate.scan.sources import MEMBER, PictureSource
from sotediffusion.pictures.files import beside, write_whole
from sotediffusion.types import UserError

IMAGES = "img"
_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of another file
_AT_ONCE = 16
_OURS = re.compile(r"\d{8,}-[0-9a-f]{8}\.\w+")


def export_kohya(some: Iterable[Entry], source: PictureSource, out: str | Path, settings: ExportSettings, done: Done,
                 on_progress: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """Write pictures and captions under `out`, in one folder per number of repeats.

    Files share their blocks with the source where the file system can (reflink), else they are copied. Pictures there from an
    earlier run are kept, captions are brought up to date, and what no longer belongs goes. UserError for a URL.
    """
    out = _folder_here(out)
    claim(out, "kohya")
    metadata: dict[str, dict[str, Any]] = {}
    written: set[str] = set()
    for group in groups_of(some, _AT_ONCE):
        there = {entry.row: name for entry in group if (name := _there(out, entry, settings))}
        for entry, suffix, data, own in contents([e for e in group if e.row not in there], source, settings, done):
            there[entry.row] = f"{_folder(entry, settings)}/{entry.name}{suffix}"
            _place_file(out / there[entry.row], data, _original(source, entry) if own else None)
            done.converted += not own
        for entry in (entry for entry in group if entry.row in there):
            name = there[entry.row]
            _write_caption((out / name).with_suffix(".txt"), entry.line + "\n")
            written |= {name, str(Path(name).with_suffix(".txt"))}
            metadata[str(Path(name).with_suffix(""))] = {"tags": entry.line, "train_resolution": list(entry.size)}
        done.pictures = len(metadata)
        if on_progress:
            on_progress(done.pictures)
    _remove_others(out, written, settings)
    write_whole(out / "metadata.json", json.dumps(metadata, ensure_ascii=False, indent=1).encode())
    write_whole(out / "dataset.toml", dataset_toml(out, written, settings).encode())


def _folder_here(out: str | Path) -> Path:
    store = Store(out)
    if store.remote:
        raise UserError("out", f"{store.place} is no folder of this machine, and kohya's scripts read nothing else; "
                               "name a folder, or take --form webdataset")  # fmt: skip
    return Path(store.root)


def _folder(entry: Entry, settings: ExportSettings) -> str:
    return f"{IMAGES}/{entry.repeats}_{settings.name}"


def _there(out: Path, entry: Entry, settings: ExportSettings) -> str | None:
    """The picture's file where an earlier run has written it; its name vouches for its content."""
    own = [SUFFIXES[entry.format]] if entry.format in settings.keep else []
    names = (f"{_folder(entry, settings)}/{entry.name}{suffix}" for suffix in dict.fromkeys([*own, ".png"]))
    return next((name for name in names if (out / name).is_file()), None)


def _original(source: PictureSource, entry: Entry) -> str | None:
    """The file on this machine that the picture is, if it is one."""
    if isinstance(source.shelf, Folder) and MEMBER not in entry.path:
        return os.path.join(source.shelf.root, raw_name(entry.path))
    return None


def _place_file(path: Path, data: bytes, original: str | None) -> None:
    if original is None or not clone(original, path):
        write_whole(path, data)


def clone(original: str, path: Path) -> bool:
    """Make `path` share its blocks with another file, whole or not at all; False where the file system cannot."""
    try:
        with beside(path) as part, open(original, "rb") as source, open(part, "xb") as copy:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        return True
    except OSError:
        return False


def _write_caption(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_whole(path, text.encode())


def _remove_others(out: Path, written: set[str], settings: ExportSettings) -> None:
    """Delete what earlier runs of this export wrote and this one did not; only files named as ours, in folders named as ours."""
    for folder in (out / IMAGES).glob(f"*_{settings.name}"):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and str(path.relative_to(out)) not in written:
                path.unlink()


def dataset_toml(out: Path, written: Iterable[str], settings: ExportSettings) -> str:
    """kohya's settings of a data set: one subset per number of repeats. Paths are absolute, as kohya wants them."""
    folders = Counter(str(Path(name).parent) for name in written)
    subsets = [{"image_dir": str((out / folder).resolve()), "num_repeats": int(Path(folder).name.partition("_")[0])}
               for folder in sorted(folders)]  # fmt: skip
    # `shuffle_caption`: the card's model was trained on tags in random order.
    general = {"shuffle_caption": True, "keep_tokens": 0, "caption_extension": ".txt"}
    size = {"resolution": settings.resolution, "enable_bucket": True, "bucket_no_upscale": True}
    text = to_toml({"general": general})
    text += "\n[[datasets]]\n" + to_toml(size)
    return text + "".join("\n[[datasets.subsets]]\n" + to_toml(subset) for subset in subsets)


def check_name(name: str) -> None:
    """UserError for a name that cannot be part of a folder's."""
    if not re.fullmatch(r"[\w][\w .-]*", name):
        raise UserError("name", f"{name!r} cannot be part of a file name; take letters, digits, blanks, dots and dashes")
