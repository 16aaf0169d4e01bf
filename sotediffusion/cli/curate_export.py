"""`sote curate export`: a catalogue as a folder that trainers read."""

from typing import Any

import click

FORMS = ("kohya", "parquet", "webdataset")


@click.command("export")
@click.argument("catalogue")
@click.option("--out", metavar="PLACE", required=True, help="A new folder, one exported to before, or a URL for packed forms.")
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default="kohya",
    show_default=True,
    help="For whom: kohya's scripts, datasets, WebDataset.",
)
@click.option("--version", "version", metavar="NAME", help="A named version of the catalogue.  [the latest]")
@click.option("--source", metavar="DIR", help="Where the pictures are now, if they have moved.")
@click.option("--name", default="card", show_default=True, help="Of the set, in the names of folders and files.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="per_file, resolution, keep.")
def command(
    catalogue: str, out: str, form: str, version: str | None, source: str | None, name: str, assignments: tuple[str, ...]
) -> None:
    """Export the pictures of CATALOGUE that stayed, with their captions, to a folder or URL. Run it again to bring it up to date.

    kohya: folders `<repeats>_<name>` with .txt files, metadata.json, dataset.toml; files share their blocks with the source where
    the file system can. parquet: data/train-*.parquet for `datasets`. webdataset: tars of pictures, captions and JSON.

    Example: sote curate export CATALOGUE --out for-kohya --form kohya
    """
    from tqdm import tqdm

    from sotediffusion.config import build, override
    from sotediffusion.curate.exports.entries import Done, ExportSettings
    from sotediffusion.curate.exports.run import Wish, export

    settings = build(ExportSettings, override({"name": name}, assignments), "export")
    done = Done()
    with tqdm(desc="exporting", unit="picture", disable=None, leave=False) as bar:
        export(Wish(catalogue, form, version, source, settings), out, done, lambda count: _show(bar, count))
    _tell(out, form, done)


def _show(bar: Any, count: int) -> None:
    bar.update(count - bar.n)


def _tell(out: str, form: str, done: Any) -> None:
    click.echo(f"{done.pictures} pictures in {out} as {form}")
    if done.converted:
        click.echo(f"{done.converted} of them made new as PNG, which others would have shown turned, transparent or not at all")
    for reason, count in sorted(done.left_out.items()):
        click.echo(f"left out, {reason}: {count}", err=True)
