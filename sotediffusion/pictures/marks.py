"""Settings and marks of provenance inside pictures: an image that saves itself with them, and the way out of a file again.

A PNG carries the infotext in a `parameters` chunk, every setting as JSON in a `sotediffusion` chunk, and XMP; WebP and JPEG carry
the infotext in Exif's UserComment and the JSON inside the XMP. The XMP names the IPTC digital source type, where tools look.
"""

import json
import os
import re
from collections.abc import Mapping
from html import escape, unescape
from typing import Any

from PIL import Image, PngImagePlugin

from sotediffusion.pictures.infotext import infotext_of
from sotediffusion.types import UserError

CHUNK, INFOTEXT = "sotediffusion", "parameters"

_EXIF, _USER_COMMENT, _XMP_CHUNK = 0x8769, 0x9286, "XML:com.adobe.xmp"
_UNICODE = b"UNICODE\0"

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:sote="urn:sotediffusion:1">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType><xmp:CreatorTool>{tool}</xmp:CreatorTool>{settings}
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
_XMP_SETTINGS = re.compile(r"<sote:settings>([^<]*)</sote:settings>")


class MarkedImage(Image.Image):
    """An image whose `save` writes its marks into PNG, WebP and JPEG; what is cut, scaled or copied of it has them too.

    They are in `info` under the names that an opened PNG has them by: `parameters` and `sotediffusion`.
    """

    def _new(self, im: Any) -> Image.Image:  # Pillow's own maker of all that is derived from an image
        return _as_marked(super()._new(im))

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As Pillow's; what the caller gives for the same place in the file goes before the marks.

        Raises UserError for settings too long for the format.
        """
        kind = (format or _format_of(fp)).upper()
        settings = _settings_in(self.info.get(CHUNK, ""))
        if settings is not None and kind in _MARKS:
            theirs, params = params, _MARKS[kind](settings) | params
            if kind == "PNG" and "pnginfo" in theirs:
                params["pnginfo"] = _joined(theirs["pnginfo"], settings)
        try:
            super().save(fp, format, **params)
        except ValueError as error:
            if "too long" not in str(error):
                raise
            raise UserError("format", f"{kind.lower()} cannot hold this picture's settings ({error}); choose png") from None


def mark(image: Image.Image, settings: Mapping[str, Any]) -> MarkedImage:
    """The image with these settings, Request's fields and the marks of provenance, to go into every file of it."""
    marked = _as_marked(image.copy())
    marked.info |= {INFOTEXT: infotext_of(settings), CHUNK: _json(settings)}
    return marked


def read_marks(image: Image.Image) -> tuple[str, dict[str, Any] | None]:
    """The infotext and the settings in an opened picture, empty and None where it has none."""
    info, comment = image.info, image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
    xmp = info.get("xmp", b"")
    inner = _XMP_SETTINGS.search(xmp.decode("utf-8", errors="replace") if isinstance(xmp, bytes) else str(xmp))
    text = str(info.get(INFOTEXT, "")) or _user_comment(comment)
    return text, _settings_in(str(info.get(CHUNK, "")) or (unescape(inner[1]) if inner else ""))


def _as_marked(image: Image.Image) -> MarkedImage:
    marked = MarkedImage()
    vars(marked).update(vars(image))
    return marked


def _format_of(fp: Any) -> str:
    """What Pillow takes the suffix of a file's name for, "" where it knows none."""
    name = fp if isinstance(fp, str | bytes | os.PathLike) else getattr(fp, "name", "")
    suffix = os.path.splitext(os.fsdecode(name))[1].lower() if isinstance(name, str | bytes | os.PathLike) else ""
    return Image.registered_extensions().get(suffix, "")


def _png_marks(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"pnginfo": _joined(PngImagePlugin.PngInfo(), settings)}


def _joined(info: PngImagePlugin.PngInfo, settings: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """The caller's chunks and then ours."""
    joined = PngImagePlugin.PngInfo()
    joined.chunks = [*info.chunks]
    joined.add_text(INFOTEXT, infotext_of(settings))
    joined.add_itxt(CHUNK, _json(settings))
    joined.add_itxt(_XMP_CHUNK, _xmp(settings, ""))
    return joined


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


def _settings_in(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_MARKS = {"PNG": _png_marks, "WEBP": _exif_marks, "JPEG": _exif_marks}
