"""Finished pictures as files: whole or not at all, named by a template, their settings inside and out again.

A PNG carries the infotext in a `parameters` chunk, every setting as JSON in a `sotediffusion` chunk, and XMP; WebP and JPEG carry
the infotext in Exif's UserComment and the JSON inside the XMP. The XMP names the IPTC digital source type, where tools look.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping, Set
from contextlib import suppress
from html import escape, unescape
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Any
from unicodedata import category, normalize

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from sotediffusion.names import unknown
from sotediffusion.pictures.decode import FORMATS
from sotediffusion.pictures.infotext import infotext_of, parse_infotext, settings_of
from sotediffusion.types import Picture, UserError

SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
PLACEHOLDERS = ("seed", "index", "date", "prompt")
CHUNK = "sotediffusion"

_QUALITY = {"png": {}, "webp": {"quality": 95, "method": 4}, "jpeg": {"quality": 95, "subsampling": 0}}
_EXIF, _USER_COMMENT, _XMP_CHUNK = 0x8769, 0x9286, "XML:com.adobe.xmp"
_UNICODE = b"UNICODE\0"
_MAX_NAME = 80  # bytes that a prompt may take in a file name
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # names that Windows keeps for devices

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:sote="urn:sotediffusion:1">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType><xmp:CreatorTool>{tool}</xmp:CreatorTool>{settings}
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
_XMP_SETTINGS = re.compile(r"<sote:settings>([^<]*)</sote:settings>")


def save_picture(picture: Picture, path: str | Path, format: str = "png") -> None:
    """Write `picture` with its settings to `path`, which afterwards is whole or as it was before.

    Raises UserError for an unknown format, for settings too long for it, and where the disk refuses.
    """
    if format not in _QUALITY:
        raise unknown("format", format, _QUALITY)
    write_whole(Path(path), encode_picture(picture, format))


def encode_picture(picture: Picture, format: str = "png") -> bytes:
    """The bytes of the picture file, settings inside."""
    marks = _png_marks(picture.settings) if format == "png" else _exif_marks(picture.settings)
    file = BytesIO()
    try:
        picture.image.save(file, format.upper(), **marks, **_QUALITY[format])
    except ValueError as error:
        raise UserError("format", f"{format} cannot hold this picture's settings ({error}); choose png") from None
    return file.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name beside `path`, then rename it; nothing half-written is left behind."""
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError("out", f"{path} cannot be written ({error.strerror}); free space or choose another place") from None
    finally:
        with suppress(OSError):
            part.unlink()


def read_settings(path: str | Path, field: str = "file") -> dict[str, Any]:
    """The settings in a picture of ours or of any program that writes A1111's infotext; none of it can be trusted.

    Keys are Request's fields and the marks of provenance; what an infotext has beside them is text under `other`.
    Raises UserError, under the name `field`, for an unreadable file and for one that carries no settings.
    """
    text, settings = _read_marks(Path(path), field)
    found = _json_settings(settings)
    if found is not None:
        return found
    if text:
        return settings_of(parse_infotext(text))
    raise UserError(field, f"{path} carries no settings; give a picture drawn here or by a program that writes A1111's infotext")


def choose_format(template: str, format: str | None) -> tuple[str, str]:
    """The template with a fitting suffix, and the format: as asked for, else by the suffix, else png."""
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

    The values cannot leave their place in the template. A path in `taken` is never given again, nor, where the template has
    placeholders, one that exists: then it is numbered on, `-2`, `-3`.
    """
    path = Path(_fill(template, values)).expanduser()
    named = any(name for _, name, _, _ in Formatter().parse(template))
    number, free = 1, path
    while free in taken or (named and free.exists()):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def check_template(template: str) -> None:
    """Raise UserError for a template that `picture_path` could not fill, and for a folder that cannot be written."""
    filled = Path(_fill(template, {"seed": 0, "index": 0, "date": "", "prompt": ""})).expanduser()
    if not Path(template).stem or template.endswith(("/", os.sep)):
        raise UserError("out", f"{template!r} names no file; write for example pictures/{{date}}-{{seed}}.png")
    folder = next(folder for folder in filled.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("out", f"{folder} is not a folder that can be written; choose another place")


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
            if name not in PLACEHOLDERS or conversion:
                raise unknown("out", f"{{{name}}}", [f"{{{known}}}" for known in PLACEHOLDERS])
            value = values[name]
            filled.append(format(value, form or "") if isinstance(value, int) else safe_name(str(value)))
    except ValueError as error:
        raise UserError("out", f"{template!r} is not a template ({error}); write for example {{date}}-{{seed:05}}.png") from None
    return "".join(filled)


def _png_marks(settings: Mapping[str, Any]) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", infotext_of(settings))
    info.add_itxt(CHUNK, _json(settings))
    info.add_itxt(_XMP_CHUNK, _xmp(settings, ""))
    return {"pnginfo": info}


def _exif_marks(settings: Mapping[str, Any]) -> dict[str, Any]:
    exif = Image.Exif()
    exif.get_ifd(_EXIF)[_USER_COMMENT] = _UNICODE + infotext_of(settings).encode("utf-16-be")
    inner = f"<sote:settings>{escape(_json(settings), quote=False)}</sote:settings>"
    return {"exif": exif.tobytes(), "xmp": _xmp(settings, inner).encode()}


def _xmp(settings: Mapping[str, Any], inner: str) -> str:
    tool = f"{settings.get('software', '')} {settings.get('version', '')}".strip()
    return _XMP.format(source=escape(str(settings.get("digital_source_type", ""))), tool=escape(tool), settings=inner)


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, ensure_ascii=False, allow_nan=False)


def _read_marks(path: Path, field: str) -> tuple[str, str]:
    """The infotext and the JSON of a file, empty where it has none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            info = dict(image.info)
            comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
    except FileNotFoundError:
        raise UserError(field, f"{path} does not exist; give the path of a picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "cannot be identified" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise UserError(field, f"{path} is no readable PNG, JPEG or WebP picture ({reason}); give the path of one") from None
    xmp = info.get("xmp", b"")
    inner = _XMP_SETTINGS.search(xmp.decode("utf-8", errors="replace") if isinstance(xmp, bytes) else str(xmp))
    text = str(info.get("parameters", "")) or _user_comment(comment)
    return text, str(info.get(CHUNK, "")) or (unescape(inner[1]) if inner else "")


def _user_comment(comment: bytes | str) -> str:
    """Exif's UserComment as text; others write UTF-16 in either order, with or without a mark."""
    if isinstance(comment, str):
        return comment
    code, body = comment[:8], comment[8:]
    if code == _UNICODE:
        if body[:2] == b"\xff\xfe" or (len(body) > 1 and body[1] == 0 != body[0]):
            return body.decode("utf-16-le", errors="replace").lstrip("\ufeff")
        return body.decode("utf-16-be", errors="replace").lstrip("\ufeff")
    return body.decode("utf-8", errors="replace").strip("\0 ")


def _json_settings(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
