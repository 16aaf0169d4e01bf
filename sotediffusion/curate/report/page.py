"""One page about a catalogue, whole in a single file: it asks nothing of any server and runs no script.

All text of strangers (file names, tags, artists, reasons) is escaped by the template; the page itself forbids browsers all but
inline pictures and one style sheet, by its hash. Of pictures that the policy dropped there is a count and nothing else, and of
pictures that no tagger has looked at there is no thumbnail in a catalogue that has tags, unless one looks now (`vouching`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from markupsafe import Markup

from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.compose.step import ComposeSettings
from sotediffusion.curate.inference.score import column_of
from sotediffusion.curate.report import plots, samples, stats
from sotediffusion.curate.report.samples import Sheet, Shown
from sotediffusion.curate.report.stats import CardTable, Catalogue, Line
from sotediffusion.curate.report.thumbnails import Thumbnails, sealed

HERE = Path(__file__).parent.parent / "page"
MOST_TAGS = 40  # of each group


@dataclass(frozen=True)
class ReportSettings:
    """What the page shows."""

    title: str = "Catalogue"
    each: int = 10  # pictures in a contact sheet
    groups: int = 18  # groups of duplicates
    about: dict[str, str] = field(default_factory=dict)  # said at the foot of the page


@dataclass(frozen=True)
class Facts:
    """Everything on the page."""

    title: str
    found: int
    kept: int
    seen: int  # kept, repeats counted
    bytes: int
    tables: tuple[CardTable, ...]
    scores: tuple[tuple[str, str, Markup], ...]  # title, note, plot
    plots: tuple[tuple[str, str, Markup], ...]
    tags: tuple[tuple[str, list[Line]], ...]
    drops: list[Line]
    dropped: tuple[Sheet, ...]
    refused: int  # by the policy
    grouped: int  # groups of duplicates
    groups: tuple[tuple[Shown, ...], ...]  # some of them
    sheets: tuple[tuple[str, tuple[Sheet, ...]], ...]
    about: dict[str, str]


def gather(
    catalogue: Catalogue, thumbnail: Thumbnails, compose: ComposeSettings, rules: RulesSettings, settings: ReportSettings
) -> Facts:
    """Ask the catalogue everything that the page says."""
    weight = catalogue.ask("SELECT coalesce(sum(bytes), 0)::BIGINT FROM known")[0][0] if catalogue.has("bytes") else 0
    return Facts(
        title=settings.title,
        found=catalogue.number("everything"),
        kept=catalogue.number(),
        seen=stats.repeated(catalogue),
        bytes=int(weight),
        tables=card_tables(catalogue, compose, rules),
        scores=tuple(_score_plots(catalogue, compose)),
        plots=tuple(_picture_plots(catalogue)),
        tags=tuple(_top_tags(catalogue)),
        drops=stats.drops(catalogue),
        dropped=samples.dropped(catalogue, settings.each, thumbnail),
        refused=catalogue.refused(),
        grouped=samples.grouped(catalogue),
        groups=samples.groups(catalogue, settings.groups, thumbnail),
        sheets=tuple(_sheets(catalogue, compose, rules, settings.each, thumbnail)),
        about=settings.about,
    )


def card_tables(catalogue: Catalogue, compose: ComposeSettings, rules: RulesSettings) -> tuple[CardTable, ...]:
    """The model card's four tables."""
    return (
        stats.partition(catalogue, rules),
        stats.score_table(catalogue, "Aesthetic Tags", "aesthetic", compose.aesthetic),
        stats.score_table(catalogue, "Quality Tags", "quality", compose.quality),
        stats.rating_table(catalogue),
    )


def render(facts: Facts) -> str:
    """The page."""
    return sealed(HERE, "report", facts, meter=plots.meter, share=plots.share, short=plots.short)


def _score_plots(catalogue: Catalogue, compose: ComposeSettings) -> Any:
    for table in (compose.aesthetic, compose.quality):
        column = column_of(table.score)
        if catalogue.has(column):
            counts = stats.histogram(catalogue, f'"{column}"', 0, 1, 80)
            marks = [plots.Mark(bound, f"> {bound:g} {tag}") for bound, tag in table.cuts]
            ticks = [(place / 5, f"{place / 5:g}") for place in range(6)]
            yield table.score, f"{sum(counts):,} pictures; lines are the cuts of the tags", plots.bars(counts, 0, 1, marks, ticks)


def _picture_plots(catalogue: Catalogue) -> Any:
    if catalogue.has("width", "height") and catalogue.number():
        found = catalogue.ask(
            "SELECT least(31, width * 32 // 4096)::INT, least(31, height * 32 // 4096)::INT, count(*) FROM pictures "
            "WHERE width IS NOT NULL GROUP BY ALL ORDER BY ALL"
        )
        edges = ["0", "1024", "2048", "3072", "4096+"]
        yield "Sizes", "width and height in px", plots.plane(found, 32, edges)
        counts = stats.histogram(catalogue, "log2(width / height)", -2, 2, 60)
        ticks = [(-2.0, "1:4"), (-1.0, "1:2"), (-0.585, "2:3"), (0.0, "1:1"), (0.585, "3:2"), (1.0, "2:1"), (2.0, "4:1")]
        yield "Aspect", "width to height, on a scale of doublings", plots.bars(counts, -2, 2, (), ticks)
        areas = stats.histogram(catalogue, "width::DOUBLE * height / 1e6", 0, 8, 64)
        yield "Megapixels", "larger ones are in the last bar", plots.bars(areas, 0, 8, (), [(float(n), f"{n}") for n in range(9)])
    if catalogue.has("side_date"):
        years = catalogue.ask("SELECT try_cast(left(side_date, 4) AS INT) AS year, count(*) FROM pictures GROUP BY 1 ORDER BY 1")
        known = {year: count for year, count in years if year is not None}
        if known:
            lines = [(f"{year}", known.get(year, 0)) for year in range(max(min(known), max(known) - 24), max(known) + 1)]
            labelled = [(f"'{name[2:]}" if len(lines) > 9 else name, count) for name, count in lines]
            yield "Years", "as the sidecars date them", plots.columns(labelled, 2 * plots.WIDTH)


def _top_tags(catalogue: Catalogue) -> Any:
    if not catalogue.has("caption"):
        return
    table = stats.tag_counts(catalogue)
    for group in stats.TAGGED:
        own = table.filter(pc.equal(table["group"], group))
        found = own.slice(0, MOST_TAGS).to_pylist()
        if found:
            yield f"{group} ({len(own):,})", [Line(line["tag"], line["count"]) for line in found]


def _sheets(catalogue: Catalogue, compose: ComposeSettings, rules: RulesSettings, each: int, thumbnail: Thumbnails) -> Any:
    """Sheets by the values of a column, of columns that any kept picture has."""
    kinds = {"Aesthetic Tags": "aesthetic", "Quality Tags": "quality", "Rating Tags": "rating"}
    tables = card_tables(catalogue, compose, rules)[1:]
    wanted = [(table.title, kinds[table.title], [line.name for line in table.lines if line.count]) for table in tables]
    wanted.append(("Date", "date", [era.tag for era in rules.eras]))
    wanted.append(("Source", "source", [source.name for source in rules.sources]))
    for title, column, names in wanted:
        if catalogue.has(column) and (found := samples.sheets(catalogue, column, names, each, thumbnail)):
            yield title, found
