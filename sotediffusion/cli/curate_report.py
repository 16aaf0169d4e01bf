"""`sote curate report`: a catalogue as one page to look at."""

from pathlib import Path
from typing import Any

import click

from sotediffusion.types import UserError


@click.command()
@click.argument("catalogue")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--version", "version", metavar="NAME", help="A named version of the catalogue.  [the latest]")
@click.option("--source", metavar="DIR", help="Where the pictures are now, if they have moved.")
@click.option(
    "--models", type=click.Path(file_okay=False, path_type=Path), help="Where the tagger lies that looks at pictures left out."
)
@click.option("--markdown", is_flag=True, help="Print the card's tables as Markdown and write no page.")
@click.option("--title", help="Of the page.  [the catalogue's name]")
def command(
    catalogue: str, out: Path, version: str | None, source: str | None, models: Path | None, markdown: bool, title: str | None
) -> None:
    """Write CATALOGUE as one self-contained page: the card's tables, tags, scores, what was left out, duplicates, contact sheets.

    Example: sote curate report CATALOGUE --out report.html
    """
    from sotediffusion.curate.catalogue import find_version, read
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.curate.pipeline import resolve, sections
    from sotediffusion.curate.report import page as report
    from sotediffusion.curate.report.stats import Catalogue
    from sotediffusion.pictures.files import write_whole

    if out.suffix == ".md" and not markdown:
        raise UserError("out", f"{out} would hold an HTML page; name it .html, or print the card's tables with --markdown")
    chosen = find_version(Store(catalogue), version)
    settings = resolve({name: table for name, table in chosen.settings.items() if name in sections()})
    rows = Catalogue(read(catalogue, version))
    if markdown:
        for table in report.card_tables(rows, settings["compose"], settings["rules"]):
            click.echo(f"### {table.title}\n\n{table.markdown()}\n")
        return
    wanted = report.ReportSettings(
        title or Path(catalogue).absolute().name,
        about={"version": chosen.name, "made": chosen.created, "source": chosen.settings["source"],
               **chosen.settings.get("notes", {})},  # fmt: skip
    )
    see = opener(source or chosen.settings["source"], settings["run"].memory_gib)
    thumbnails = report.Thumbnails(see, voucher_of(rows, settings["tag"], models))
    page = report.render(report.gather(rows, thumbnails, settings["compose"], settings["rules"], wanted))
    write_whole(out, page.encode("utf-8"))
    click.echo(f"{out} ({len(page) / 2**20:.1f} MiB)")


def opener(source: str, memory_gib: float) -> Any:
    """How a page opens its pictures: in a process apart and under a run's limit, as some harm the one they are opened in."""
    import numpy as np

    from sotediffusion.curate.engine.guarded import Guarded
    from sotediffusion.curate.scan.sources import open_source

    return Guarded(open_source(source), int(memory_gib * 2**30), np.asarray).decode


def voucher_of(rows: Any, settings: Any, models: Path | None) -> Any:
    """Whoever may look at pictures that were left out before tagging; nobody where the tagger is not there."""
    from sotediffusion.cli.curate_models import models_folder, stand_ins
    from sotediffusion.curate.report.vouching import Voucher
    from sotediffusion.curate.tag.step import TagStep

    if not rows.has("tag_ids"):
        return None
    for folder in [models] if models else [models_folder(), stand_ins()]:
        try:
            return Voucher(rows, TagStep(settings, folder))
        except UserError:
            continue
    click.echo("note: the tagger is not here, so pictures left out before tagging are named and not shown; --models", err=True)
    return None
