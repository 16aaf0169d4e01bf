"""The first step: what each file is, measured on a cheap small decode, and what the scraper noted beside it."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.config import plain
from sotediffusion.curate.dedupe.phash import phash
from sotediffusion.curate.policy import is_refused
from sotediffusion.curate.scan.side import SIDE, Side
from sotediffusion.curate.scan.sidecars import CONTENT, Table, read_sidecars, read_table
from sotediffusion.curate.scan.sources import PICTURES, PictureSource
from sotediffusion.curate.step import Step
from sotediffusion.pictures.headers import Header, Limits, Undecodable, read_header, sniff
from sotediffusion.pictures.pixels import Pixels, decode_as
from sotediffusion.types import UserError

SMALL = 256  # px that the shorter side keeps in the cheap decode: enough for every measure, little enough for most of the saving
AT_ONCE = 16  # files that are asked of an object store together
BLANK_RANGE = 6  # grey levels: less than this between the darkest and the lightest cell of any channel is a blank
TINT = 24  # grey levels between a pixel's channels: more of it counts as colour
COLOURED = 0.002  # share of coloured pixels from which a picture is not monochrome
_ERASED = "policy"
MATCHING = 2  # raised when the same table would say something of other pictures

SCANNED = pa.schema([
    ("sha256", pa.string()), ("format", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("mode", pa.string()),
    ("frames", pa.int32()), ("phash", pa.binary(32)), ("luma_mean", pa.float32()), ("luma_std", pa.float32()),
    ("chroma", pa.float32()), ("blank", pa.bool_()), ("monochrome", pa.bool_()), *SIDE, ("drop_scan", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class ScanSettings:
    """The section [scan]."""

    max_pixels: int = 80_000_000
    max_megabytes: int = 256  # of one file
    first_frame: bool = False  # keep frame one of animations instead of quarantining them
    sidecar_table: Path | None = None  # a CSV or JSON Lines file with a column `path` or `file_name` and what is known of each


class ScanStep(Step):
    """Hash, size, format, light and colour of every file, and its sidecars; files that give no picture are quarantined."""

    name = "scan"
    version = 1
    reads = ("path", "bytes")
    writes = SCANNED

    def __init__(self, source: PictureSource, settings: ScanSettings = ScanSettings()):
        if not 1 <= settings.max_pixels <= 178_000_000:
            raise UserError("scan.max_pixels", f"{settings.max_pixels} is out of range; take one up to 178000000")
        self.source, self.settings = source, settings
        self.limits = Limits(settings.max_pixels, settings.max_megabytes * 2**20)
        self.table: Table = {}

    def identity(self) -> dict[str, Any]:
        """The settings, and the content of the user's table instead of its place."""
        given = plain(self.settings)
        if self.settings.sidecar_table is not None:
            content = hashlib.sha256(_table_bytes(self.settings.sidecar_table)).hexdigest()
            given["sidecar_table"] = f"{content} {MATCHING}"
        return given

    def setup(self) -> None:
        if self.settings.sidecar_table is not None:
            self.table = read_table(self.settings.sidecar_table.name, _table_bytes(self.settings.sidecar_table))

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return self._scan(rows, self._measured)

    def give_up(self, rows: pa.RecordBatch, reason: str) -> pa.RecordBatch:
        """Hash and sidecars are still read: only the decoder is not trusted with these files again."""
        return self._scan(rows, lambda data, found: found.update(drop_scan=reason))

    def _scan(self, rows: pa.RecordBatch, measure: Callable[[bytes, dict[str, Any]], None]) -> pa.RecordBatch:
        paths, sizes = rows.column("path").to_pylist(), rows.column("bytes").to_pylist()
        found: list[dict[str, Any]] = []
        for start in range(0, len(paths), AT_ONCE):
            found += self._scan_some(paths[start : start + AT_ONCE], sizes[start : start + AT_ONCE], measure)
        return pa.RecordBatch.from_pylist(found, schema=SCANNED)

    def _scan_some(
        self, paths: list[str], sizes: list[int], measure: Callable[[bytes, dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        small = [path for path, size in zip(paths, sizes, strict=True) if (size or 0) <= self.limits.max_bytes]
        contents = dict(zip(small, self.source.read_all(small), strict=True))
        results = []
        for path, beside in zip(paths, self.source.sidecars(paths), strict=True):
            side = read_sidecars(path, beside, self.table)
            results.append(self._row(path, contents.get(path), side, measure))
        return results

    def _row(self, path: str, content: bytes | OSError | None, side: Side,
             measure: Callable[[bytes, dict[str, Any]], None]) -> dict[str, Any]:  # fmt: skip
        found: dict[str, Any] = {}
        if isinstance(content, bytes):
            found["sha256"] = hashlib.sha256(content).hexdigest()
        if is_refused(path, side) or f"{CONTENT}{found.get('sha256')}" in self.table:
            return {**found, "drop_scan": _ERASED}
        found.update(side.columns())
        if isinstance(content, bytes):
            measure(content, found)
        elif content is None:
            found["drop_scan"] = f"bomb: the file is larger than {self.settings.max_megabytes} MiB"
        else:
            found["drop_scan"] = f"unreadable: {content.strerror or 'the file is gone'}"
        return found

    def _measured(self, data: bytes, found: dict[str, Any]) -> None:
        try:
            reason = moving_kind(data)
            if reason:
                found["drop_scan"] = reason
                return
            header = read_header(data, self.limits)
            found.update(facts(header))
            if header.frames > 1 and not self.settings.first_frame:
                found["drop_scan"] = (
                    f"animation: {header.frames} frames of {header.format}" if header.format != "jxl" else "animation: jxl"
                )
                return
            found.update(measures(decode_as(data, header, SMALL)))
        except Undecodable as error:
            found["drop_scan"] = str(error)


def _table_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            "scan.sidecar_table", f"{path} cannot be read ({error.strerror}); give a CSV or JSON Lines file"
        ) from None


def moving_kind(data: bytes) -> str | None:
    """`video` or `ugoira` for what is no still picture, by content whatever its name."""
    kind = sniff(data)
    if kind in ("video", "flash"):
        return "video"
    if kind == "zip" and _holds_frames(data):
        return "ugoira"
    return None


def _holds_frames(data: bytes) -> bool:
    """Whether a zip is a ugoira: pictures, one per frame, and at most a JSON of their delays."""
    try:
        names = zipfile.ZipFile(BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return False
    suffixes = {Path(name).suffix.lower() for name in names if not name.endswith("/")}
    return bool(suffixes - {".json", ".js"}) and suffixes - {".json", ".js"} <= PICTURES - {""}


def facts(header: Header) -> dict[str, Any]:
    """The columns that the header alone tells; width and height are those of the upright picture."""
    width, height = header.upright
    return {"format": header.format, "width": width, "height": height, "mode": header.mode, "frames": header.frames}


def measures(picture: Pixels) -> dict[str, Any]:
    """Light, colour and the look-alike hash of a picture (H, W, 3), on areas averaged in floating point.

    `chroma` is the mean spread between a pixel's largest and smallest channel, grey levels; so is `luma_std` of the 64x64 luma.
    """
    import cv2

    picture = _smaller(picture)
    rgb = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA) if min(picture.shape[:2]) > 128 else picture
    spread = rgb.max(axis=2).astype(np.int16) - rgb.min(axis=2)
    luma = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    cells = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    return {
        "phash": phash(luma), "luma_mean": float(luma.mean()), "luma_std": float(luma.std()), "chroma": float(spread.mean()),
        "blank": bool(np.ptp(cells, axis=0).max() < BLANK_RANGE), "monochrome": bool((spread > TINT).mean() < COLOURED),
    }  # fmt: skip


def _smaller(picture: Pixels) -> Pixels:
    """A picture that came in full size as the cheap decode would have given it: averaged down to SMALL or a little more."""
    import cv2

    height, width = picture.shape[:2]
    factor = min(height, width) // SMALL
    if factor <= 1:
        return picture
    return np.asarray(cv2.resize(picture, (width // factor, height // factor), interpolation=cv2.INTER_AREA), np.uint8)
