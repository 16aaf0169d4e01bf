"""What is in a catalogue, in numbers: the card's tables, tag counts, histograms, and what was left out for which reason.

DuckDB reads the rows where they are, Arrow in memory or Lance on disk, column by column. Pictures of the policy are counted and
that is all: everything else here is about the others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sotediffusion.curate.compose.cuts import Table, tags_of
from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.lists import Texts, encode, flatten
from sotediffusion.curate.step import DROP
from sotediffusion.safety.rating import RATINGS

POLICY = "policy"
NO_SCORE, NO_DATE, NO_RATING = "no score", "no date", "no rating"
TAGGED = ("custom", "character", "series", "rest")  # groups of a caption that are counted tag by tag
TOTAL = "Total"
CARD = ("source", "date", "aesthetic", "quality", "rating")  # columns of the card's tables
BATCH = 1 << 16  # rows


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    name: str
    count: int
    detail: str = ""


@dataclass(frozen=True)
class CardTable:
    """One of the card's tables; its lines add up to `total`."""

    title: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        return sum(line.count for line in self.lines)

    def markdown(self) -> str:
        """The table as the card has it."""
        head = ("Property", "Details", "Count") if any(line.detail for line in self.lines) else ("Property", "Details")
        rows = [(line.detail, line.name) if len(head) == 3 else (line.name,) for line in (*self.lines, Line(TOTAL, self.total))]
        counts = [f"{line.count:,}" for line in self.lines] + [f"{self.total:,}"]
        body = [" | ".join(["", *map(_cell, row), count, ""]).strip() for row, count in zip(rows, counts, strict=True)]
        return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body])


class _Readable(ds.Dataset):  # type: ignore[misc]
    """A dataset as DuckDB can read it: without columns of half-precision numbers, which it does not know."""

    def __init__(self, rows: Any):
        self.rows = rows
        self.kept = pa.schema([field for field in rows.schema if not _has_halves(field.type)])

    @property
    def schema(self) -> pa.Schema:
        """The columns that are left."""
        return self.kept

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **options: Any) -> Any:
        """What DuckDB asks for."""
        return self.rows.scanner(columns=self.kept.names if columns is None else columns, filter=filter)


def _has_halves(kind: pa.DataType) -> bool:
    return pa.types.is_float16(kind) or any(_has_halves(kind.field(place).type) for place in range(kind.num_fields))


class Catalogue:
    """A catalogue opened for questions. `rows` is an Arrow table or dataset (Lance too) with the catalogue's columns."""

    def __init__(self, rows: Any, memory: str = "3GB", threads: int | None = None):
        self.connection = duckdb.connect(config={"memory_limit": memory, **({"threads": threads} if threads else {})})
        # Lance would be handed filters as Substrait, which has no half-precision numbers in a schema.
        self.connection.execute("SET disabled_optimizers='filter_pushdown'")
        self.rows = ds.dataset(rows) if isinstance(rows, pa.Table) else rows
        self.connection.register("everything", _Readable(self.rows))
        self.names = [name for name, *_ in self.connection.execute("DESCRIBE everything").fetchall()]
        dropped = "coalesce(dropped, false)" if "dropped" in self.names else "false"
        reason = "coalesce(reason, '')" if "reason" in self.names else "''"
        self.connection.execute(f"CREATE VIEW known AS SELECT * FROM everything WHERE split_part({reason}, ':', 1) <> '{POLICY}'")
        self.connection.execute(f"CREATE VIEW pictures AS SELECT * FROM known WHERE NOT {dropped}")

    def halves(self, column: str, row: int) -> Any:
        """The value of a column of half-precision numbers, which SQL does not see, in one row; None without such a column."""
        if column not in self.rows.schema.names:
            return None
        place = pc.index(self.rows.to_table(columns=["row"]).column("row"), pa.scalar(row, pa.int64())).as_py()
        return self.rows.take([place], columns=[column]).column(column)[0].as_py() if place >= 0 else None

    def has(self, *columns: str) -> bool:
        """Whether the catalogue has all these columns."""
        return all(column in self.names for column in columns)

    def ask(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that answer a question about `pictures` (kept), `known` (kept or dropped) or `everything`."""
        return self.connection.execute(sql, values).fetchall()

    def number(self, view: str = "pictures") -> int:
        """How many rows a view has."""
        return int(self.ask(f"SELECT count(*) FROM {view}")[0][0])

    def refused(self) -> int:
        """How many pictures the policy dropped."""
        return self.number("everything") - self.number("known")

    def counts(self, column: str) -> dict[str | None, int]:
        """How many kept pictures have each value of one of the columns of CARD; none where there is no such column."""
        found: Counter[str | None] = Counter()
        for values, count in self.crossed.items():
            found[values[CARD.index(column)]] += count
        return dict(found)

    @cached_property
    def crossed(self) -> dict[tuple[str | None, ...], int]:
        """How many kept pictures have each combination of values of the columns of CARD, in one pass over the rows."""
        asked = ", ".join(f'"{column}"::VARCHAR' if self.has(column) else "NULL" for column in CARD)
        return {tuple(values): count for *values, count in self.ask(f"SELECT {asked}, count(*) FROM pictures GROUP BY ALL")}

    def kept(self, column: str) -> Iterator[pa.Array]:
        """A column of the kept pictures, some thousands at a time."""
        marks = [name for name in ("dropped", "reason") if self.has(name)]
        for batch in self.rows.scanner(columns=[column, *marks], batch_size=BATCH).to_batches():
            left_out = pa.array(np.zeros(len(batch), bool))
            if "dropped" in marks:
                left_out = batch.column("dropped").fill_null(False)
            if "reason" in marks:
                refused = pc.match_substring_regex(batch.column("reason"), f"^{POLICY}(:|$)").fill_null(False)
                left_out = pc.or_(left_out, refused)
            values = batch.column(column)
            yield values.filter(pc.invert(left_out)) if left_out.true_count else values


def partition(catalogue: Catalogue, rules: RulesSettings) -> CardTable:
    """Every kept picture once: by source where the rules name its source, by date where it is of any other."""
    named = [source.name for source in rules.sources]
    names = [*(era.tag for era in rules.eras), *named]
    found: Counter[str | None] = Counter()
    for (source, date, *_), count in catalogue.crossed.items():
        found[source if source in named else date] += count
    if not catalogue.has("source", "date"):
        return CardTable("Images", (Line(NO_DATE, found.total()),))
    return CardTable("Images", _lines(found, names, NO_DATE))


def score_table(catalogue: Catalogue, title: str, column: str, table: Table) -> CardTable:
    """A score's tags from best to worst, with the cuts, and those without a score."""
    places = 2 if all(round(bound, 2) == bound for bound, _ in table.cuts) else 3
    details = [f"> {bound:.{places}f}" for bound, _ in table.cuts] + ["rest"]
    return CardTable(title, _lines(catalogue.counts(column), tags_of(table), NO_SCORE, details))


def rating_table(catalogue: Catalogue) -> CardTable:
    """The four ratings."""
    return CardTable("Rating Tags", _lines(catalogue.counts("rating"), RATINGS, NO_RATING))


def repeated(catalogue: Catalogue) -> int:
    """How many pictures an epoch has, repeats counted."""
    return int(catalogue.ask("SELECT coalesce(sum(repeats), 0) FROM pictures")[0][0]) if catalogue.has("repeats") else 0


def tag_counts(catalogue: Catalogue) -> pa.Table:
    """A table (group, tag, count) of the captions of kept pictures, most frequent first, ties by name."""
    texts, counts = Texts(), np.zeros((0, len(TAGGED)), np.int64)
    for captions in catalogue.kept("caption"):
        codes, places, known = _tagged(captions)
        found = np.bincount(codes * (len(TAGGED) + 1) + places, minlength=(len(known) + 1) * (len(TAGGED) + 1))
        numbers = texts.numbers(known.to_pylist())
        counts = np.pad(counts, ((0, len(texts) - len(counts)), (0, 0)))
        counts[numbers] += found.reshape(-1, len(TAGGED) + 1)[:-1, :-1]
    tags, places = np.nonzero(counts)
    columns = [pa.array(TAGGED).take(pa.array(places)), texts.array.take(pa.array(tags)), pa.array(counts[tags, places])]
    table = pa.table(columns, names=["group", "tag", "count"])
    return table.sort_by([("count", "descending"), ("tag", "ascending"), ("group", "ascending")])


def _tagged(captions: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], pa.Array]:
    """Of all tags of captions: codes into the distinct ones, and the group's place in TAGGED, len(TAGGED) for other groups."""
    groups = captions.flatten()
    starts, tags = flatten(groups.field("tags"))
    (codes,), known = encode([tags])
    places = pc.index_in(groups.field("group"), pa.array(TAGGED)).fill_null(len(TAGGED)).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64), np.repeat(places, np.diff(starts)), known


def drops(catalogue: Catalogue) -> list[Line]:
    """Reasons and how many pictures were left out for each; the detail is the step. The policy's is a line like any other."""
    columns = [name for name in catalogue.names if name.startswith(DROP)]
    if not catalogue.has("reason"):
        return []
    step = "CASE " + "".join(f"WHEN \"{name}\" IS NOT NULL THEN '{name.removeprefix(DROP)}' " for name in columns) + "ELSE '' END"
    found = catalogue.ask(
        f"SELECT split_part(reason, ':', 1) AS why, {step if columns else chr(39) * 2}, count(*) AS count FROM known "
        "WHERE dropped AND reason IS NOT NULL GROUP BY ALL ORDER BY count DESC, why"
    )
    lines = [Line(why, count, step) for why, step, count in found]
    return [*lines, Line(POLICY, refused, POLICY)] if (refused := catalogue.refused()) else lines


def histogram(catalogue: Catalogue, expression: str, low: float, high: float, bins: int, view: str = "pictures") -> list[int]:
    """How many pictures have an expression's value in each of equal steps from low to high; what is beyond joins the ends."""
    place = f"least({bins - 1}, greatest(0, floor(({expression} - {low}) / {high - low} * {bins})))::INT"
    rows = catalogue.ask(f"SELECT {place} AS bin, count(*) FROM {view} WHERE isfinite(({expression})::DOUBLE) GROUP BY 1")
    found = {place: count for place, count in rows if place is not None}
    return [found.get(place, 0) for place in range(bins)]


def _lines(found: Mapping[str | None, int], names: Iterable[str], nothing: str, details: Sequence[str] = ()) -> tuple[Line, ...]:
    """A line for each name in order, one for other values if there are any, and one for none."""
    names = list(names)
    details = list(details) or [""] * len(names)
    lines = [Line(name, found.get(name, 0), detail) for name, detail in zip(names, details, strict=True)]
    others = [Line(str(name), count) for name, count in sorted(found.items(), key=str) if name is not None and name not in names]
    lacking = found.get(None, 0)
    return (*lines, *others, *([Line(nothing, lacking)] if lacking else []))


def _cell(text: str) -> str:
    """A name that cannot leave its cell of a Markdown table, nor bring markup."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return "".join(f"\\{c}" if c in "\\|`*_[]<>&" else c for c in flat)
