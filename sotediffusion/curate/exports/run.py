"""Export of a named version of a catalogue, in one of the forms."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sotediffusion.curate import catalogue
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.exports.entries import Done, ExportSettings, columns_of, entries
from sotediffusion.curate.exports.kohya import check_name, export_kohya
from sotediffusion.curate.exports.packed import export_parquet, export_webdataset
from sotediffusion.curate.scan.sources import PictureSource, open_source
from sotediffusion.names import unknown
from sotediffusion.types import UserError

FORMS = {"kohya": export_kohya, "parquet": export_parquet, "webdataset": export_webdataset}


@dataclass(frozen=True)
class Wish:
    """What to export, and as what."""

    catalogue: str
    form: str = "kohya"
    version: str | None = None  # a name; the latest if none
    source: str | None = None  # where the pictures are now, if they have moved
    settings: ExportSettings = ExportSettings()


def export(wish: Wish, out: str | Path, done: Done, on_progress: Callable[[int], None] | None = None) -> None:
    """Export a catalogue to a folder or URL; `done` tells what it came to. UserError for an unknown form, version or source."""
    chosen = catalogue.find_version(Store(wish.catalogue), wish.version)
    dataset = catalogue.read(wish.catalogue, chosen.name)
    source = wish.source or chosen.settings.get("source")
    if not source:
        raise UserError("source", f"{wish.catalogue} does not say where its pictures are; give --source DIR")
    columns = columns_of(dataset.schema.names)
    batches = dataset.to_batches(columns=columns, filter="NOT dropped", batch_size=1024)
    export_rows(batches, open_source(source), out, wish.form, wish.settings, done, on_progress)


def export_rows(
    batches: Iterable[pa.RecordBatch], source: PictureSource, out: str | Path, form: str, settings: ExportSettings, done: Done,
    on_progress: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """The same from record batches of a catalogue's columns."""
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    check_name(settings.name)
    if settings.per_file < 1:
        raise UserError("export.per_file", f"{settings.per_file} pictures cannot be in a file; take 1 or more")
    FORMS[form](entries(batches, done), source, out, settings, done, on_progress)
