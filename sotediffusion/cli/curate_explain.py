"""`sote curate explain`: one picture's whole story."""

from collections.abc import Mapping
from typing import Any

import click

from sotediffusion.cli.main import one_line


@click.command()
@click.argument("catalogue")
@click.argument("picture", metavar="PATH")
@click.option("--version", "version", metavar="NAME", help="A named version of the catalogue.  [the latest]")
def command(catalogue: str, picture: str, version: str | None) -> None:
    """Tell what each step found of one picture in CATALOGUE and why it was kept or left out.

    PATH is its path in the source, the end of it, or its sha256.

    Example: sote curate explain CATALOGUE pixiv/12345_p0.png
    """
    from sotediffusion.curate.catalogue import find_version, read
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.curate.report.explain import find, story
    from sotediffusion.curate.report.stats import Catalogue

    store = Store(catalogue)
    chosen = find_version(store, version)
    rows = Catalogue(read(catalogue, version))
    row = find(rows, picture)
    for title, lines in story(rows, row, _tag_names(store, chosen.settings), _fingerprints(chosen.states)):
        click.secho(title, bold=True)
        for line in lines:
            click.echo(f"  {one_line(line)}")


def _tag_names(store: Any, settings: Mapping[str, Any]) -> Mapping[int, str]:
    """The tagger's tags by number: of the list that the version was made with, or of the only one that is kept."""
    from sotediffusion.curate.tag.taglist import taglist_of, words

    names = store.names("taglists")
    own = f"{settings.get('taglist')}.csv"
    if own not in names and len(names) != 1:
        return {}
    chosen = f"taglists/{own if own in names else names[0]}"
    return {place: words(name) for place, name in enumerate(taglist_of(store.read(chosen), chosen).names)}


def _fingerprints(states: Mapping[str, str]) -> dict[str, str]:
    return {step: state.split()[0] for step, state in states.items() if state.split()}
