"""The catalogue: a Lance dataset with a row for every file, in named versions.

One committer writes it, under the run's lock. Columns are added or replaced whole and rows only appended; nothing is deleted or
updated in place. Readers open a named version; names move only after the last commit of a run, and a run that was killed before
that is undone by the next.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.engine.columns import DROPPED, REASON, ROWS, Finished
from sotediffusion.curate.engine.shards import ROW, Rows, phrase
from sotediffusion.curate.engine.store import Store, refused
from sotediffusion.names import listing
from sotediffusion.types import UserError

DATASET = "catalogue.lance"
VERSIONS = "versions"
LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Version:
    """What is recorded beside the data of a named version."""

    name: str
    number: int  # of the Lance dataset
    created: str
    rows: int
    kept: int
    reasons: dict[str, int]  # phrase -> pictures left out for it
    states: dict[str, str]  # step -> digest of what its columns say
    settings: dict[str, Any] = field(default_factory=dict)


def read(place: str | Path, version: str | None = None) -> Any:
    """The Lance dataset of a catalogue at a named version, the latest if none is named. UserError where there is none."""
    store = Store(place)
    chosen = find_version(store, version)
    return _open(store, chosen.number)


def versions(store: Store) -> list[Version]:
    """All named versions, oldest first."""
    named = _tags(store)
    return sorted((v for v in _recorded(store) if named.get(v.name) == v.number), key=lambda v: (v.number, v.created))


def _recorded(store: Store) -> list[Version]:
    """What is recorded of versions, of those too that a killed run had not named yet, or not yet forgotten."""
    names = [name for name in store.names(VERSIONS) if name.endswith(".json")]
    return [Version(**json.loads(store.read(f"{VERSIONS}/{name}"))) for name in names]


def find_version(store: Store, name: str | None = None) -> Version:
    known = versions(store)
    if not known:
        raise UserError("catalogue", f"{store.place} holds no finished catalogue; make one with `sote curate run`")
    if name is None or name == LATEST:
        number = _tags(store).get(LATEST)  # none where a first run was killed before its last word
        return next((version for version in reversed(known) if version.number == number), known[-1])
    for version in known:
        if version.name == name:
            return version
    raise UserError("version", f"{name[:80]!r} is not in {store.place}; there are {listing([v.name for v in known])}")


def check_name(name: str, known: Iterable[Version]) -> None:
    """Raise UserError for a name that a new version cannot have."""
    if not _NAME.fullmatch(name) or name == LATEST:
        raise UserError("name", f"{name[:80]!r} cannot name a version; take up to 64 letters, digits and . - _")
    if any(version.name == name for version in known):
        raise UserError("name", f"{name} is taken; a version does not change, choose another name")


def commit(finished: Finished, settings: Mapping[str, Any], name: str | None = None) -> Version | None:
    """Bring the dataset up to what is finished and name it; None where there is nothing new and no name was asked for.

    Only for the holder of the run's lock. Raises UserError where the place takes no more.
    """
    finished.store.check_ours()
    try:
        return _commit(finished, settings, name)
    except OSError as error:
        raise refused(_uri(finished.store), error) from None


def _commit(finished: Finished, settings: Mapping[str, Any], name: str | None) -> Version | None:
    store = finished.store
    known = versions(store)
    asked, name = name is not None, name or _next_name(known)
    check_name(name, known)
    latest = find_version(store) if known else None
    dataset = _update(finished, latest)
    if dataset is None:
        assert latest is not None
        dataset = _open(store, latest.number)
        if not asked:
            _forget_refused(store, dataset, latest)
            return None
    version = _describe(finished, dataset, name, settings, latest)
    store.write(f"{VERSIONS}/{name}.json", json.dumps(asdict(version), indent=1).encode())
    there = _tags(store)
    for tag in (name, LATEST):
        (dataset.tags.update if tag in there else dataset.tags.create)(tag, dataset.version)  # at no moment without it
    _forget_refused(store, dataset, version)
    return version


def _update(finished: Finished, latest: Version | None) -> Any:
    """The dataset with every column and row as finished, None where it was so."""
    if latest is None:
        return _create(finished)
    dataset = _open(finished.store, None)
    if dataset.version != latest.number:  # left by a run that was killed while it committed
        dataset = _open(finished.store, latest.number)
        dataset.restore()
        dataset = _open(finished.store, None)
    held = dataset.to_table(columns=[ROW]).column(ROW).to_numpy()
    if int(finished.ledger.erased[held].sum()) > _erased(latest):
        return _create(finished)  # anew, as a replaced column stays in the file of its neighbours
    states = finished.states(held)
    changed = [step for step, state in states.items() if latest.states.get(step) != state]
    fresh = _without(finished.rows, held)
    steps = [step for step in changed if step != REASON]
    schema = finished.schema([finished.placed[step] for step in steps], REASON in changed)
    whole = finished.schema(finished.placed.values(), True)
    stale = [column for column in dataset.schema.names if column != ROW and (column in schema.names or column not in whole.names)]
    if not stale and not schema.names and not len(fresh):
        return None
    if stale:
        dataset.drop_columns(stale)
    if schema.names:
        dataset.add_columns(pa.RecordBatchReader.from_batches(schema, finished.batches(steps, REASON in changed, held)))
    if len(fresh):
        dataset = _append(finished, dataset, fresh)
    return dataset


def _create(finished: Finished) -> Any:
    import lance

    schema, batches = _rows(finished, finished.rows)
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    lance.write_dataset(reader, _uri(finished.store), mode="overwrite", storage_options=finished.store.lance_options)
    return _open(finished.store, None)


def _append(finished: Finished, dataset: Any, rows: Rows) -> Any:
    import lance

    _, batches = _rows(finished, rows)
    schema = dataset.schema
    ordered = (batch.select(schema.names).cast(schema) for batch in batches)
    reader = pa.RecordBatchReader.from_batches(schema, ordered)
    return lance.write_dataset(reader, dataset, mode="append", storage_options=finished.store.lance_options)


def _rows(finished: Finished, rows: Rows) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Whole rows, with their number in front."""
    schema = pa.schema([*ROWS, *finished.schema(finished.placed.values(), True)])

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in finished.batches(finished.placed, True, rows):
            numbers = pa.array(rows[start : start + len(batch)], pa.int64())
            start += len(batch)
            yield pa.record_batch([numbers, *batch.columns], schema=schema)

    return schema, batches()


def _without(rows: Rows, held: Rows) -> Rows:
    """The rows that are not held yet."""
    there = np.zeros(int(max(rows.max(initial=-1), held.max(initial=-1))) + 1, bool)
    there[held] = True
    return rows[~there[rows]]


def _describe(finished: Finished, dataset: Any, name: str, settings: Mapping[str, Any], latest: Version | None) -> Version:
    held = dataset.to_table(columns=[ROW]).column(ROW).to_numpy()
    states = finished.states(held) | {"erased": str(int(finished.ledger.erased[held].sum()))}
    same = latest is not None and (latest.rows, latest.states.get(REASON)) == (len(held), states[REASON])
    reasons = latest.reasons if latest and same else dict(count_reasons(dataset))
    created, kept = time.strftime("%Y-%m-%d %H:%M:%S"), len(held) - sum(reasons.values())
    return Version(name, dataset.version, created, len(held), kept, reasons, states, dict(settings))


def count_reasons(dataset: Any) -> Counter[str]:
    """How many rows are left out for each reason, by the part of it before the colon."""
    counts: Counter[str] = Counter()
    for batch in dataset.to_batches(columns=[REASON], filter=DROPPED):
        for entry in pc.value_counts(batch.column(REASON)):
            counts[phrase(entry["values"].as_py())] += entry["counts"].as_py()
    return Counter(dict(counts.most_common()))


def _erased(version: Version) -> int:
    """How many of its rows are erased."""
    return int(version.states.get("erased", "0"))


def _forget_refused(store: Store, dataset: Any, latest: Version) -> None:
    """Older versions show pictures that the policy has refused since; nothing of those may stay.

    Their records go last, so that what a killed run had begun is found and finished by the next.
    """
    older = [version.name for version in _recorded(store) if _erased(version) < _erased(latest)]
    if not older:
        return
    for name in set(older) & set(_tags(store)):
        dataset.tags.delete(name)
    dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    for name in older:
        store.remove(f"{VERSIONS}/{name}.json")


def _next_name(known: list[Version]) -> str:
    taken = {version.name for version in known}
    number = len(known) + 1
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


def _uri(store: Store) -> str:
    return f"{store.root}/{DATASET}"


def _open(store: Store, number: int | None) -> Any:
    import lance

    return lance.dataset(_uri(store), version=number, storage_options=store.lance_options)


def _tags(store: Store) -> dict[str, int]:
    """The number of each name; none where there is no dataset, or but what a first run that was killed had begun."""
    if not store.names(f"{DATASET}/_versions"):
        return {}
    try:
        return {name: tag["version"] for name, tag in _open(store, None).tags.list().items()}
    except (ValueError, OSError) as error:
        raise UserError("catalogue", f"{_uri(store)} cannot be opened ({str(error)[:120]}); try again, or put its files back "
                                     "from a copy") from None  # fmt: skip
