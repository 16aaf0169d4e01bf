"""A version of a catalogue as samples: the pictures that stayed, their captions by groups, and how often each is seen."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate import catalogue
from sotediffusion.curate.engine.store import Store
from sotediffusion.names import listing
from sotediffusion.train.samples import ROWS, Coder, Part, Samples, content_of
from sotediffusion.types import UserError

NEEDED = ("path", "sha256", "width", "height", "caption", "repeats")
PROSE = "prose"
_BATCH = 1 << 16  # rows
_BUFFER = 1 << 27  # bytes that are read ahead


def is_catalogue(place: str) -> bool:
    """Whether a catalogue lies there, finished or not."""
    return Store(place).exists(catalogue.DATASET) or bool(Store(place).names(catalogue.VERSIONS))


def read_catalogue(place: str, version: str | None = None, where: str | None = None, source: str | None = None) -> Samples:
    """The samples of a version, the latest if none is named, for which `where` holds: a condition in SQL on its columns.

    `source` is where the pictures are now. Raises UserError for a version or condition that is none, and where nothing is left.
    """
    chosen = catalogue.find_version(Store(place), version)
    dataset = catalogue.read(place, chosen.name)
    names = dataset.schema.names
    if absent := [name for name in NEEDED if name not in names]:
        raise UserError("data", f"{place} has no column {absent[0]} yet; run the whole chain first, with compose")
    place_of_pictures = source or chosen.settings.get("source")
    if not place_of_pictures:
        raise UserError("data.source", f"{place} does not say where its pictures are; give their folder")
    coder = Coder()
    tables, lists = [], []
    for batch in _batches(dataset, where):
        tables.append(_plain(batch))
        lists.append(_coded(batch.column("caption"), coder))
    if not tables:
        which = f" where {where}" if where else ""
        raise UserError("data", f"{place} has no picture{which}; choose another version or condition")
    tags, vocabulary = coder.finish(lists)
    rows = pa.concat_tables(tables)
    rows = rows.set_column(ROWS.get_field_index("tags"), "tags", tags).cast(ROWS)
    return Samples(rows, vocabulary, (Part(chosen.name, _dropout(dataset.schema)),), str(place_of_pictures))


def _batches(dataset: Any, where: str | None) -> Iterator[pa.RecordBatch]:
    columns = [*NEEDED, *(name for name in (PROSE,) if name in dataset.schema.names)]
    condition = "NOT dropped AND caption IS NOT NULL" + (f" AND ({where})" if where else "")
    try:
        read = dataset.to_batches(columns=columns, filter=condition, batch_size=_BATCH, batch_readahead=2, io_buffer_size=_BUFFER)
        yield from (batch for batch in read if len(batch))
    except (ValueError, OSError) as error:
        if not where:
            raise
        reason = str(error).splitlines()[0][:150]
        raise UserError("data.where", f"{where!r} is no condition on this catalogue ({reason}); its columns are "
                                      f"{listing(dataset.schema.names, 60)}") from None  # fmt: skip


def _plain(batch: pa.RecordBatch) -> pa.Table:
    """The columns of ROWS that need no vocabulary."""
    count = len(batch)
    repeats = pc.max_element_wise(pc.fill_null(batch.column("repeats"), 1), pa.scalar(1, pa.int16()))
    # Copies, as one column held keeps alive all that was read with it.
    every = pa.array(np.arange(count))
    known = {name: batch.column(name).take(every) for name in ("path", "width", "height")}
    known |= {"content": content_of(batch.column("sha256")), "repeats": repeats, "weight": pa.array(np.ones(count, np.float32)),
              "part": pa.array(np.zeros(count, np.int16))}  # fmt: skip
    if PROSE in batch.schema.names:
        known["text"] = batch.column(PROSE).take(every)
    return pa.table([known.get(name.name, pa.nulls(count, name.type)) for name in ROWS], names=ROWS.names)


def _coded(captions: pa.ListArray, coder: Coder) -> pa.ListArray:
    """Captions by groups as lists of the numbers of their tags."""
    names, tags = captions.flatten().flatten()
    coded = names.dictionary_encode()
    lengths = pc.list_value_length(tags).to_numpy(zero_copy_only=False)
    numbers = coder.encode(coded.dictionary.to_pylist(), np.repeat(coded.indices.to_numpy(), lengths), tags.flatten())
    groups = np.concatenate([[0], np.cumsum(pc.list_value_length(captions).to_numpy(zero_copy_only=False))])
    offsets = np.concatenate([[0], np.cumsum(lengths)])[groups].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers))


def _dropout(schema: pa.Schema) -> dict[str, Any]:
    """What the catalogue says of groups to leave out of some readings."""
    told = (schema.field("caption").metadata or {}).get(b"dropout")
    shares = json.loads(told) if told else {}
    return {"drop_groups": shares} if shares else {}
