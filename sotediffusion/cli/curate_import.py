"""`sote curate import`: other people's data sets made ready for `sote curate run`."""

import shlex
from pathlib import Path

import click


@click.command("import")
@click.argument("dataset")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where what has to be written goes.")
def command(dataset: str, out: Path) -> None:
    """Read a data set in kohya's folders, in Parquet or in WebDataset's tars, so that its captions count as tags beside pictures.

    The data set is never changed. kohya's metadata.json becomes a table for the scan, pictures inside Parquet are laid out as
    files, tars are read as they are. The last line printed is the command to go on with.

    Example: sote curate import old-set --out imported
    """
    from sotediffusion.curate.exports.reading import import_dataset

    imported = import_dataset(dataset, out)
    click.echo(f"{imported.pictures} pictures")
    if imported.left_out:
        click.echo(f"left out, no picture or no such file: {imported.left_out}", err=True)
    if imported.refused:
        click.echo(f"left out, policy: {imported.refused}", err=True)
    table = ["-s", f"scan.sidecar_table={imported.table}"] if imported.table else []
    click.echo(shlex.join(["sote", "curate", "run", imported.source, "--out", "CATALOGUE", *table]))
