"""`sote train`: fine-tune a model; draw training pictures, train the parts of a cascade, put them together."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.progress import TrainingLine
from sotediffusion.cli.train_plan import command as plan
from sotediffusion.cli.train_run import command as run
from sotediffusion.cli.train_standins import standins
from sotediffusion.cli.train_watch import report, watch


@click.group()
def group() -> None:
    """Train a cascade, or a part of it."""


group.add_command(run)
group.add_command(plan)
group.add_command(watch)
group.add_command(report)
group.add_command(standins)


@group.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Data folder to write.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Pictures in all; a larger number later draws the rest.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--area", type=click.IntRange(min=1024), default=65536, show_default=True, help="Pixels of a picture, about.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
def render(out: Path, count: int, seed: int, area: int, processes: int) -> None:
    """Draw pictures of the miniature world for training. Run it again to go on."""
    from sotediffusion.train.draw import Drawing, draw

    with click.progressbar(length=count, label="drawing") as bar:
        for done in draw(out, count, Drawing(seed, area), processes):
            bar.update(done - bar.pos)


@group.command()
@click.argument("place")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Data folder to write.")
@click.option("--area", type=click.IntRange(min=4096), default=65536, show_default=True, help="Pixels of a picture, at most.")
@click.option("--skip", type=click.IntRange(min=0), default=100, show_default=True, help="Pictures that may be unreadable.")
def pack(place: str, out: Path, area: int, skip: int) -> None:
    """Fit the pictures of PLACE, a catalogue or a kohya folder, into OUT, from which `sote train miniature` trains parts.

    Run it again to go on.
    """
    from sotediffusion.train.fit import Faults
    from sotediffusion.train.pack import pack as write

    faults = Faults(skip)
    for done, total in write(place, out, area, faults):
        _told("pictures:", done, total)
    if faults.found:
        click.echo(f"note: {faults.sentence()}", err=True)
    click.echo(f"data folder: {out}")


# Of the time, in the order of training; the last two are no parts, but measure what came out.
SHARES = {"effnet": 0.16, "stage-a": 0.12, "text": 0.05, "stage-c": 0.34, "stage-b": 0.23, "judge": 0.07, "probe": 0.03}
READERS = {"judge": "the judge, which reads tags in pictures", "probe": "the probe, which reads tags in EffNet latents"}
NO_LIMIT = 10**12  # images


@group.group()
def miniature() -> None:
    """Train the parts of the miniature, in this order: effnet, stage-a, text, stage-c, stage-b; and what measures them."""


def _options(function: Any) -> Any:
    for option in reversed((
        click.option("--data", type=click.Path(path_type=Path), required=True, help="Made by `sote train render` or `pack`."),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; each part has a folder in it."),
        click.option("--size", default="miniature", show_default=True, help="Size of the networks."),
        click.option("--images", type=click.IntRange(min=1), help="Images to see."),
        click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time to train, if that ends sooner."),
        click.option("--batch", type=click.IntRange(min=1), help="Images a step."),
        click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate."),
        click.option("--cooldown", type=click.FloatRange(0, 1, min_open=True), help="Last share, in which the rate falls."),
        click.option("--warmup", type=click.IntRange(min=0), help="Images until the rate has risen."),
        click.option("--seed", type=int, help="Of order, noise and everything else random."),
        click.option("--save-minutes", type=click.FloatRange(min=0), help="Between checkpoints."),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option("--bf16/--fp32", default=None, help="What is computed in; weights are always fp32."),
        click.option("--continue-from", type=click.Path(path_type=Path, exists=True), help="Folder of another run of this part."),
    )):  # fmt: skip
        function = option(function)
    return function


def _train(part: str, data: Path, out: Path, size: str, threads: int | None, continue_from: Path | None,
           **changes: Any) -> None:
    import torch

    from sotediffusion.train.loop import train
    from sotediffusion.train.parts import Place, recipe_of

    if threads:
        torch.set_num_threads(threads)
    recipe, options = recipe_of(part, Place(data, out, size, changes["device"]), _preparing)
    shape = {key: changes.pop(key) for key in ("cooldown", "warmup")}
    schedule = replace(options.schedule, **_given(shape))
    options = replace(options, schedule=schedule, **_given(changes))
    with TrainingLine(part) as report:
        status = train(recipe, options, out / part, report, continue_from)
    click.echo(f"{part} {status.outcome} at {status.images} images; weights in {out / part / 'weights.safetensors'}")
    if status.code:
        sys.exit(status.code)


def _preparing(what: str, done: int, total: int) -> None:
    _told(f"{what}: shard", done, total)


def _told(what: str, done: int, total: int) -> None:
    click.echo(f"\r{what} {done} of {total}\033[K", nl=done == total, err=True)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _add(part: str, what: str) -> None:
    @miniature.command(part, help=f"Train {what}. To resume, run the same command again.")
    @_options
    def command(**options: Any) -> None:
        _train(part, **options)


for _part in SHARES:
    _add(_part, READERS.get(_part, _part))


@miniature.command("all")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Data folder; drawn where it is missing.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; each part has a folder in it.")
@click.option("--model", type=click.Path(path_type=Path), help="Model folder to write, or an earlier one.  [OUT/model]")
@click.option("--count", type=click.IntRange(min=1), default=40_000, show_default=True, help="Pictures to draw.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=600, show_default=True, help="In all.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="That draw.")
@click.option("--size", default="miniature", show_default=True, help="Size of the networks.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.pass_context
def everything(ctx: click.Context, data: Path, out: Path, model: Path | None, count: int, minutes: float, processes: int,
               size: str, threads: int | None, device: str) -> None:
    """Draw the pictures, train all parts, the judge and the probe, and put the parts together, offline.

    To resume, run the same command again.
    """
    ctx.invoke(render, out=data, count=count, seed=0, area=65536, processes=processes)
    for part, share in SHARES.items():
        options = {"cooldown": None, "warmup": None, "minutes": minutes * share, "images": NO_LIMIT, "device": device}
        _train(part, data, out, size, threads, None, **options)
    ctx.invoke(assemble, runs=out, out=model or out / "model", size=size, dtype="float16")


@miniature.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", default="miniature", show_default=True, help="Size of the networks.")
@click.option("--dtype", default="float16", show_default=True, help="What is stored.")
def assemble(runs: Path, out: Path, size: str, dtype: str) -> None:
    """Write the trained parts in RUNS as the model folder OUT, in the place of an earlier one."""
    from sotediffusion.train.assemble import assemble as write

    write(runs, out, size, dtype)
    click.echo(f"model folder: {out}")
