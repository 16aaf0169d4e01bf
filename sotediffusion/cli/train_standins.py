"""`sote train standins`: the small models that stand in for the published ones where drawn pictures are curated."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.progress import TrainingLine

PARTS = {
    "tagger": "the tagger: tags of figures and places",
    "aesthetic": "the aesthetic scorer: how beautiful a scene was meant to be",
    "quality": "the quality scorer: how damaged a picture is",
}
NO_LIMIT = 10**12  # images
AIMS = (("precision", "tag precision", 0.95), ("recall", "tag recall", 0.95),
        ("aesthetic", "aesthetic rank correlation", 0.9), ("quality", "quality rank correlation", 0.9))  # fmt: skip


@click.group()
def standins() -> None:
    """Train the small stand-ins for tagger and scorers, on `sote train render --area 147456` pictures."""


def _add(name: str, what: str) -> None:
    @standins.command(name, help=f"Train {what}. To resume, run the same command again.")
    @click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder made by `sote train render`.")
    @click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; each stand-in has a folder in it.")
    @click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time to train.")
    @click.option("--images", type=click.IntRange(min=1), help="Images to see, if that ends sooner.")
    @click.option("--batch", type=click.IntRange(min=1), help="Images a step.")
    @click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.")
    @click.option("--seed", type=int, help="Of order, variation and everything else random.")
    @click.option("--save-minutes", type=click.FloatRange(min=0), help="Between checkpoints.")
    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
    @click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
    @click.option("--bf16/--fp32", default=None, help="What is computed in; weights are always fp32.")
    def command(data: Path, out: Path, threads: int | None, **changes: Any) -> None:
        _train(name, data, out, threads, {key: value for key, value in changes.items() if value is not None})


def _train(name: str, data: Path, out: Path, threads: int | None, changes: dict[str, Any]) -> None:
    import torch

    from sotediffusion.train.loop import train
    from sotediffusion.train.standins import recipe_of

    if threads:
        torch.set_num_threads(threads)
    recipe, options = recipe_of(name, data, out / name)
    if "minutes" in changes:
        changes.setdefault("images", NO_LIMIT)
    with TrainingLine(name) as report:
        status = train(recipe, replace(options, **changes), out / name, report)
    click.echo(f"{name} {status.outcome} at {status.images} images; weights in {out / name / 'weights.safetensors'}")
    sys.exit(status.code)


for _name, _what in PARTS.items():
    _add(_name, _what)


@standins.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.argument("models", type=click.Path(path_type=Path))
def export(runs: Path, models: Path) -> None:
    """Write the stand-ins trained in RUNS as folders in MODELS, in the contracts of the published models."""
    from sotediffusion.train.standins import export as write

    files = write(runs, models)
    for path in files:
        click.echo(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}")
    click.echo(f"{sum(path.stat().st_size for path in files) / 2**20:8.2f} MiB in all")


@standins.command()
@click.argument("models", type=click.Path(path_type=Path, exists=True))
@click.option("--count", type=click.IntRange(min=3), default=300, show_default=True, help="Scenes to draw.")
@click.option("--seed", type=int, default=4242, show_default=True, help="Series of scenes; not the one trained on.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def check(models: Path, count: int, seed: int, threads: int | None) -> None:
    """Say how well the stand-ins in MODELS know scenes that they have not seen."""
    import torch

    from sotediffusion.train.standins_check import check as measure

    if threads:
        torch.set_num_threads(threads)
    with click.progressbar(length=count, label="drawing") as bar:
        found = measure(models, count, seed, lambda done: bar.update(done - bar.pos))
    for name, what, aim in AIMS:
        click.echo(f"{what:28} {getattr(found, name):6.3f}  aim {aim:.2f}")
    click.echo("most often wrong (missed, made up): " + "; ".join(f"{tag} {a}, {b}" for tag, a, b in found.wrong[:12]))
