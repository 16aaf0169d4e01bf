"""`sote train run`: fine-tune a model by a preset, alone or in several processes, here or as one of a cluster's."""

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.launch import launch
from sotediffusion.cli.progress import TrainingLine
from sotediffusion.cli.weights import parts_options


def presets_folder() -> Path:
    """Where the presets of training lie."""
    return Path(str(files("sotediffusion"))) / "presets" / "train"


@click.command("run")
@click.argument("preset")
@click.option("--data", required=True, metavar="PLACE", help="A catalogue, a kohya folder, its dataset.toml or metadata .json.")
@click.option("--model", metavar="MODEL", help="What to start from: a folder, a file, a downloaded hub id or `miniature`.")
@parts_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder.  [runs/PRESET]")
@click.option("--nproc", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes here, one a GPU.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting on top of the preset.")
@click.option("--device", type=click.Choice(("cpu", "cuda")), help="[cuda where there is one]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each process.")
@click.option("--continue-from", type=click.Path(path_type=Path, exists=True), help="Folder of another run to start from.")
@click.option("--dry-run", is_flag=True, help="Do everything for two steps but change the weights and save.")
def command(preset: str, data: str, model: str | None, out: Path | None, nproc: int, assignments: tuple[str, ...],
            device: str | None, threads: int | None, continue_from: Path | None, dry_run: bool,
            **parts: Path | None) -> None:  # fmt: skip
    """Fine-tune a model on the pictures of PLACE by PRESET: a name, such as card-base, or a TOML file.

    Stopped at any moment, the same command goes on; Ctrl-C leaves with 130 and SIGTERM with 143, after saving. Models come into
    OUT/models, named by save.pattern and save.final out of {name}, {images}, {steps} and {epoch}; states to go on from into
    OUT/checkpoints.

    \b
    Examples:
      sote train run card-base --data catalogue --model model --out runs/base --nproc 8
      sote train run card-final --data catalogue --model runs/base/models/card-base -s train.epochs=4
      torchrun --nnodes 4 --nproc-per-node 8 --no-python sote train run card-base --data s3://bucket/catalogue --model model
    """
    from sotediffusion.train.contradictions import check
    from sotediffusion.train.settings import resolve

    number, count, local = _place()
    settings = resolve(preset, assignments, presets_folder())
    check(settings, max(count, nproc))
    if nproc > 1:
        sys.exit(launch(nproc, _without(sys.argv[1:], "--nproc")))
    outcome, code = _run(settings, preset, data, model_of(model, parts), out, (number, count, local),
                         device=device, threads=threads, continue_from=continue_from, dry=dry_run)
    if number == 0:
        click.echo(outcome)
    sys.exit(code)


def _place() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine, as torchrun says it in the environment."""
    number, count, local = (int(os.environ.get(name, default)) for name, default in
                            (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))  # fmt: skip
    return number, count, local


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments without an option and its value."""
    kept: list[str] = []
    following = iter(arguments)
    for argument in following:
        if argument == option:
            next(following)
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


def model_of(model: str | None, parts: dict[str, Path | None]) -> Any:
    """What was named by --model and the options of parts."""
    named = {name: path for name, path in parts.items() if path is not None}
    if not named:
        return model or "miniature"
    return named | ({"base": model} if model else {})


def _run(settings: Any, preset: str, data: str, model: Any, out: Path | None, place: tuple[int, int, int],
         **how: Any) -> tuple[str, int]:  # fmt: skip
    """What is said of a run, and the code that it leaves with."""
    import torch

    from sotediffusion.train.distributed import joined
    from sotediffusion.train.run import Order, run
    from sotediffusion.weights.store import present

    number, count, local = place
    device = how["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    present(f"cuda:{local}" if device == "cuda" else device)  # before anybody waits for this process
    if how["threads"]:
        torch.set_num_threads(how["threads"])
    folder = out or Path("runs") / Path(preset).stem
    order = Order(settings, data, model, folder, device, how["dry"], how["continue_from"])
    own = settings.distributed
    with joined(number, count, local, device, own.sharding, own.minutes) as ranks, TrainingLine(settings.name) as line:
        if number == 0:
            status = run(order, line, _preparing, ranks, lambda text: click.echo(f"note: {text}", err=True))
        else:
            status = run(order, lambda status: None, lambda *what: None, ranks)
    where = {"finished": f"models in {folder / 'models'}", "tried": "nothing was changed"}
    said = f"{settings.name} {status.outcome} at {status.images} images; {where.get(status.outcome, f'state in {folder}')}"
    return said, status.code


def _preparing(what: str, done: int, total: int) -> None:
    click.echo(f"\r{what}: {done} of {total}\033[K", nl=done == total, err=True)
