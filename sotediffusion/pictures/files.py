"""Finished pictures as files: whole or not at all, named by a template, their settings out again."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Any
from unicodedata import category, normalize

from PIL import Image, UnidentifiedImageError

from sotediffusion.names import unknown
from sotediffusion.pictures.decode import FORMATS
from sotediffusion.pictures.infotext import parse_infotext, settings_of
from sotediffusion.pictures.marks import mark, read_marks
from sotediffusion.types import Picture, UserError

SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
PLACEHOLDERS = ("seed", "index", "date", "prompt")

_QUALITY = {"png": {}, "webp": {"quality": 95, "method": 4}, "jpeg": {"quality": 95, "subsampling": 0}}
_MAX_NAME = 80  # bytes that a prompt may take in a file name
_LONGEST = {"seed": 2**63 - 1, "index": 99999, "date": "2026-01-01", "prompt": "x" * _MAX_NAME}  # what templates are filled with
_WIDTH = re.compile(r"0?\d{1,2}d?|d")  # of a number in a template
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # names that Windows keeps for devices


def save_picture(picture: Picture, path: str | Path, format: str = "png") -> None:
    """Write `picture` with its settings to `path`, which afterwards is whole or as it was before.

    Raises UserError for an unknown format, for settings too long for it, and where the disk refuses.
    """
    if format not in _QUALITY:
        raise unknown("format", format, _QUALITY)
    write_whole(Path(path), encode_picture(picture, format))


def save_by_template(
    picture: Picture, template: str, values: Mapping[str, Any], format: str = "png", taken: Set[Path] = frozenset()
) -> Path:
    """Write `picture` where `picture_path` says, and return that path; a name that another run takes meanwhile is numbered on."""
    content, named = encode_picture(picture, format), _place(template, values)
    while True:
        path = picture_path(template, values, taken)
        with suppress(FileExistsError):
            write_whole(path, content, over=path == named and _is_fixed(template))
            return path


def encode_picture(picture: Picture, format: str = "png") -> bytes:
    """The bytes of the picture file, settings inside."""
    file = BytesIO()
    mark(picture.image, picture.settings).save(file, format, **_QUALITY[format])
    return file.getvalue()


def write_whole(path: Path, content: bytes, field: str = "out", over: bool = True) -> None:
    """Write a file under another name beside `path`, then rename it; nothing half-written is left behind.

    FileExistsError where it is there already and not to be written `over`, UserError for what else the disk refuses.
    """
    try:
        with beside(path, over) as part, open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not over and isinstance(error, FileExistsError) and os.path.lexists(path):  # not where a folder's name is a file's
            raise
        raise refused(path, error, field) from None


@contextmanager
def beside(path: Path, over: bool = True) -> Iterator[Path]:
    """A name to write a file to, beside `path`: renamed to it when all went well, removed when not. OSError as it comes.

    Not `over` a file that is there: then FileExistsError, also where it came in the same moment.
    """
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if over:
            os.replace(part, path)
        else:
            _rename_new(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def _rename_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except OSError:  # there, or on a file system without links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Make names that were just given in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError, field: str = "out") -> UserError:
    """What to tell of a disk that does not take a file."""
    return UserError(field, f"{path} cannot be written ({error.strerror or error}); free space or choose another place")


def read_settings(path: str | Path, field: str = "file") -> dict[str, Any]:
    """The settings in a picture of ours or of any program that writes A1111's infotext; none of it can be trusted.

    Keys are Request's fields and the marks of provenance; what an infotext has beside them is text under `other`.
    Raises UserError, under the name `field`, for an unreadable file and for one that carries no settings.
    """
    text, settings = _read_marks(Path(path), field)
    if settings is not None:
        return settings
    if text:
        return settings_of(parse_infotext(text))
    raise UserError(field, f"{path} carries no settings; give a picture drawn here or by a program that writes A1111's infotext")


def choose_format(template: str, format: str | None, field: str = "out") -> tuple[str, str]:
    """The template with a fitting suffix, and the format: as asked for, else by the suffix, else png.

    UserError where they do not go together, or where the template is a folder's name, or none.
    """
    _check_is_name(template, field)
    suffix = Path(template).suffix.lower()
    by_suffix = SUFFIXES.get(suffix)
    if format is None:
        return (template, by_suffix) if by_suffix else (f"{template}.png", "png")
    if format not in _QUALITY:
        raise unknown("format", format, _QUALITY)
    if by_suffix is None:
        return f"{template}.{'jpg' if format == 'jpeg' else format}", format
    if by_suffix != format:
        raise UserError("format", f"{format} does not go with the suffix {suffix} of --out; leave one of them out")
    return template, format


def picture_path(template: str, values: Mapping[str, Any], taken: Set[Path] = frozenset()) -> Path:
    """The path a template gives with {seed} {index} {date} {prompt} filled in.

    The values cannot leave their place in the template. A path in `taken` is never given again, nor one that exists, unless it is
    what a template without placeholders names: then it is numbered on, `-2`, `-3`.
    """
    path = _place(template, values)
    number, free = 1, path
    while free in taken or (os.path.lexists(free) and not (number == 1 and _is_fixed(template))):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _place(template: str, values: Mapping[str, Any]) -> Path:
    return Path(os.path.expanduser(_fill(template, values)))


def _is_fixed(template: str) -> bool:
    return not any(name for _, name, _, _ in Formatter().parse(template))


def check_template(template: str) -> None:
    """Raise UserError for a template that `picture_path` could not fill, or not with a name that can be written."""
    _check_is_name(template, "out")
    check_folder(_place(template, _LONGEST))


def _check_is_name(template: str, field: str) -> None:
    """Raise UserError for what ends in no file's name: a folder, or a suffix alone."""
    last = template.replace(os.sep, "/").rpartition("/")[2]
    if last in ("", ".", "..") or last.lower() in SUFFIXES:
        raise UserError(field, f"{template!r} names no file; write for example pictures/{{date}}-{{seed}}.png")
    if os.path.isdir(_place(template, _LONGEST)):
        raise UserError(field, f"{template} is a folder; write for example {template}/{{date}}-{{seed}}.png")


def check_folder(path: Path, field: str = "out") -> None:
    """Raise UserError where no file can be written at this path."""
    path = path.absolute()
    folder = next(folder for folder in path.parents if os.path.exists(folder))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(field, f"{folder} is not a folder that can be written; choose another place")
    new = path.with_name(f"{path.stem}-99999{path.suffix}").parts[len(folder.parts) :]
    longest, most = max(len(os.fsencode(name)) for name in new), os.pathconf(folder, "PC_NAME_MAX")
    if 0 < most < longest:
        raise UserError(field, f"a name in it may come to {longest} bytes, and {folder} takes {most}; choose a shorter one")


def safe_name(text: str) -> str:
    """A piece of file name from any text: letters and digits of any script, the rest as single dashes, at most 80 bytes."""
    letters = "".join(c if category(c)[0] in "LN" else "-" for c in normalize("NFC", text))
    name = re.sub("-+", "-", letters).strip("-").encode()[:_MAX_NAME].decode(errors="ignore").strip("-")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def _fill(template: str, values: Mapping[str, Any]) -> str:
    filled = []
    try:
        for text, name, form, conversion in Formatter().parse(template):
            filled.append(text)
            if name is None:
                continue
            if name not in PLACEHOLDERS:
                raise unknown("out", f"{{{name}}}", [f"{{{known}}}" for known in PLACEHOLDERS])
            value = values[name]
            if conversion or (form and not (isinstance(value, int) and _WIDTH.fullmatch(form))):
                raise ValueError(f"of {{{name}}} only a number can be said more, and only its digits")
            filled.append(format(value, form or "") if isinstance(value, int) else safe_name(str(value)))
    except ValueError as error:
        raise UserError("out", f"{template!r} is not a template ({error}); write for example {{date}}-{{seed:05}}.png") from None
    return "".join(filled)


def _read_marks(path: Path, field: str) -> tuple[str, dict[str, Any] | None]:
    """What `read_marks` finds in a file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return read_marks(image)
    except FileNotFoundError:
        raise UserError(field, f"{path} does not exist; give the path of a picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "cannot be identified" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise UserError(field, f"{path} is no readable PNG, JPEG or WebP picture ({reason}); give the path of one") from None
