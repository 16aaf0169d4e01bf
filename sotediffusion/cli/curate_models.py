"""`sote curate models`: the published models that curation wants, fetched and converted."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import click


def models_folder() -> Path:
    """Where models lie unless --models says otherwise: $SOTE_MODELS, else a folder in the user's cache."""
    if "SOTE_MODELS" in os.environ:
        return Path(os.environ["SOTE_MODELS"])
    return cache_folder() / "models"


def stand_ins() -> Path:
    """Where the small models of the drawn world lie in the package."""
    return Path(str(files("sotediffusion"))) / "miniature" / "stand_ins"


def cache_folder() -> Path:
    """Where what can be had again is kept: $XDG_CACHE_HOME/sotediffusion."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sotediffusion"


def models_option(command: Any) -> Any:
    """The option --models."""
    return click.option(
        "--models", type=click.Path(file_okay=False, path_type=Path), default=models_folder,
        show_default="$SOTE_MODELS, or ~/.cache/sotediffusion/models", help="The folder that models lie in.",
    )(command)  # fmt: skip


@click.group("models", invoke_without_command=True)
@click.pass_context
@models_option
def command(ctx: click.Context, models: Path) -> None:
    """List, fetch and convert the published models that the steps of curation want."""
    if ctx.invoked_subcommand is None:
        _show(models)


@command.command("list")
@models_option
def list_models(models: Path) -> None:
    """List the models, their licences, and which are here."""
    _show(models)


def _show(models: Path) -> None:
    from sotediffusion.curate.inference.hashes import describe
    from sotediffusion.curate.inference.published import PUBLISHED, is_here

    for model in PUBLISHED.values():
        here = f"in {models / model.name}" if is_here(models, model) else f"`sote curate models download {model.name}`"
        click.echo(f"{model.name}  {model.step}  {model.what}")
        sources = ", ".join(f"{source.id} at {source.revision}" for source in model.sources)
        click.echo(f"  {model.licence}; {model.size}; {sources}")
        click.echo(f"  {describe(models, model)}")
        click.echo(f"  {here}")


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@models_option
def download(names: tuple[str, ...], models: Path) -> None:
    """Fetch models by NAME. Run it again to go on after a break; a file that came with another hash is refused.

    Example: sote curate models download wd-swinv2-tagger-v3 aes-B32-v0
    """
    from sotediffusion.curate.inference.fetch import fetch_model
    from sotediffusion.curate.inference.published import published

    wanted = [published(name) for name in names]
    for model in wanted:
        click.echo(f"{model.name}: {model.licence}", err=True)
        click.echo(fetch_model(model, models, say=lambda file: click.echo(f"fetching {file}", err=True)))


@command.command()
@click.argument("name")
@models_option
def accept(name: str, models: Path) -> None:
    """Take the files of the model NAME as they are now, where they are not those of their first use here.

    For a model that was exchanged on purpose or fetched anew after a change upstream. What it said of pictures is asked again.
    """
    from sotediffusion.curate.inference.hashes import accept_model
    from sotediffusion.curate.inference.published import published

    changed = accept_model(models, published(name))
    for file, sha256 in changed.items():
        click.echo(f"{file} is now {sha256}")
    if not changed:
        click.echo(f"the files of {name} are those of their first use; nothing to accept")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sha256", metavar="HEX", help="What the file must be, where that is not known here.")
@models_option
def convert(file: Path, sha256: str | None, models: Path) -> None:
    """Convert a published pickle, aes-B32-v0.pth or CLIP's pytorch_model.bin, into safetensors in its model's folder.

    The file is opened with weights only, and only if its sha256 is the published one.
    """
    from sotediffusion.curate.inference.fetch import convert_published

    click.echo(convert_published(file, models, sha256))
