"""`sote curate tags`: search, rename and merge tags; write the list for autocompletion."""

from pathlib import Path

import click

from sotediffusion.cli.main import one_line


@click.group()
def command() -> None:
    """Work on the tags of a catalogue's captions."""


@command.command()
@click.argument("catalogue")
@click.argument("words")
@click.option("--most", type=click.IntRange(1, 10_000), default=30, show_default=True)
def search(catalogue: str, words: str, most: int) -> None:
    """List the tags in CATALOGUE that hold all of WORDS, with counts.

    Example: sote curate tags search CATALOGUE "long hair"
    """
    from sotediffusion.curate.catalogue import read
    from sotediffusion.curate.compose.tagwork import search as find
    from sotediffusion.curate.report.stats import Catalogue

    found = find(Catalogue(read(catalogue)), words, most)
    for line in found:
        click.echo(f"{line.count:>10}  {line.detail:<10} {one_line(line.name)}")
    if not found:
        click.echo(f"no tag holds {words!r}")


@command.command()
@click.argument("catalogue")
@click.argument("old")
@click.argument("new")
def rename(catalogue: str, old: str, new: str) -> None:
    """Write the tag OLD as NEW from the next run on; the same name again takes that back.

    Example: sote curate tags rename CATALOGUE "1girls" "1girl"
    """
    _rename(catalogue, [old], new)


@command.command()
@click.argument("catalogue")
@click.argument("tags", nargs=-1, required=True)
@click.option("--into", required=True, help="The tag that all of them become.")
def merge(catalogue: str, tags: tuple[str, ...], into: str) -> None:
    """Write all of TAGS as one tag from the next run on.

    Example: sote curate tags merge CATALOGUE "grin" "smirk" --into smile
    """
    _rename(catalogue, [tag for tag in tags if tag != into], into)


@command.command()
@click.argument("catalogue")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("tags.csv"), show_default=True)
@click.option("--least", type=click.IntRange(1), default=1, show_default=True, help="Leave out tags with fewer pictures.")
def autocomplete(catalogue: str, out: Path, least: int) -> None:
    """Write all tags as CSV (name,category,count,aliases) for editors that complete tags.

    Example: sote curate tags autocomplete CATALOGUE --out tags.csv
    """
    from sotediffusion.curate.catalogue import read
    from sotediffusion.curate.compose.tagwork import autocomplete as table
    from sotediffusion.curate.compose.tagwork import counted, read_rules
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.curate.report.stats import Catalogue
    from sotediffusion.pictures.files import write_whole

    lines = [line for line in counted(Catalogue(read(catalogue))) if line.count >= least]
    write_whole(out, table(lines, read_rules(Store(catalogue)).rename).encode("utf-8"))
    click.echo(f"{len(lines)} tags in {out}")


def _rename(catalogue: str, old: list[str], new: str) -> None:
    from sotediffusion.curate.catalogue import find_version
    from sotediffusion.curate.compose.tagwork import rename as keep
    from sotediffusion.curate.engine.store import Store

    store = Store(catalogue)
    find_version(store)
    keep(store, old, new)
    click.echo(f"{', '.join(map(one_line, old))}: written as {one_line(new)} from the next `sote curate run` on")
