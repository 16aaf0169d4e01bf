"""`sote curate review`: a page of near-duplicates to decide on, and taking in what was decided."""

from pathlib import Path
from typing import Any

import click

COLUMNS = ["row", "path", "sha256", "bytes", "format", "width", "height", "group", "distance", "candidate", "drop_dedupe"]

GROUPED = "`group` is not null or candidate is not null or drop_dedupe is not null"


@click.command()
@click.argument("catalogue")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here.")
@click.option("--apply", "verdicts_file", type=click.Path(dir_okay=False, path_type=Path), help="Take in a page's verdicts.json.")
@click.option("--source", metavar="DIR", help="Where the pictures are now, if they have moved.")
@click.option("--models", type=click.Path(file_okay=False, path_type=Path), help="Where the tagger lies, for what was left out.")
@click.option("--all", "everything", is_flag=True, help="Show groups that were decided already, too.")
def command(catalogue: str, out: Path | None, verdicts_file: Path | None, **options: Any) -> None:
    """Decide which near-duplicates of CATALOGUE are one picture, and which one is kept.

    \b
    Examples:
      sote curate review catalogue --out groups.html
      sote curate review catalogue --apply ~/Downloads/verdicts.json
    """
    if (out is None) == (verdicts_file is None):
        raise click.UsageError("give either --out, for a page to decide on, or --apply, for what was decided")
    if verdicts_file is not None:
        _apply(catalogue, verdicts_file)
    elif out is not None:
        _write(catalogue, out, **options)


def _write(catalogue: str, out: Path, source: str | None, models: Path | None, everything: bool) -> None:
    from sotediffusion.cli.curate_report import opener, voucher_of
    from sotediffusion.curate.catalogue import find_version, read
    from sotediffusion.curate.dedupe.review import groups_of, undecided, write_page
    from sotediffusion.curate.dedupe.verdicts import Verdicts, held
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.curate.pipeline import resolve, sections
    from sotediffusion.curate.report.stats import Catalogue
    from sotediffusion.curate.report.thumbnails import Thumbnails

    chosen = find_version(Store(catalogue))
    dataset = read(catalogue)
    if "drop_dedupe" not in dataset.schema.names:
        raise click.UsageError(f"{catalogue} was made without the step dedupe; run `sote curate run` without --skip dedupe")
    tagged = "tag_ids" in dataset.schema.names
    vouched = "tag_ids is not null and drop_dedupe is null" if tagged else "true"
    rows = dataset.to_table(columns={name: f"`{name}`" for name in COLUMNS} | {"vouched": vouched}, filter=GROUPED).to_pylist()
    verdicts = Verdicts() if everything else held(Store(catalogue))
    groups = undecided(groups_of(rows, rows), verdicts)
    settings = resolve({name: table for name, table in chosen.settings.items() if name in sections()})
    see = opener(source or chosen.settings["source"], settings["run"].memory_gib)
    count = write_page(out, groups, Thumbnails(see, voucher_of(Catalogue(dataset), settings["tag"], models)))
    click.echo(f"{out}: {count} of {len(groups)} undecided groups; open it in a browser, then give what it downloads to --apply")


def _apply(catalogue: str, verdicts_file: Path) -> None:
    from sotediffusion.curate.catalogue import find_version
    from sotediffusion.curate.dedupe.verdicts import FILE, held, read, to_json
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.types import UserError

    if not verdicts_file.is_file():
        raise UserError("apply", f"{verdicts_file} does not exist; give the file that the page downloaded")
    store = Store(catalogue)
    find_version(store)
    before = held(store)
    after = before.then(read(verdicts_file))
    store.write(FILE, to_json(after).encode())
    new = len((after.same | after.different) - (before.same | before.different))
    click.echo(f"{new} new verdicts, {len(after.same | after.different)} in all; the next `sote curate run` goes by them")
