"""`sote train plan`: the memory, steps, time and cost of a run before it begins."""

from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.train_run import model_of, presets_folder
from sotediffusion.cli.weights import parts_options
from sotediffusion.types import UserError


@click.command("plan")
@click.argument("preset")
@click.option("--data", metavar="PLACE", help="A catalogue, a kohya folder, its dataset.toml or metadata .json.")
@click.option("--samples", type=click.IntRange(min=1), help="Pictures of an epoch, where there are no data yet.")
@click.option("--model", metavar="MODEL", help="Whose shapes count: a folder, a file, a downloaded hub id or `miniature`.")
@parts_options
@click.option("--size", help="Shapes, where there is no model yet: tiny, miniature, lite or full.  [the preset's]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder, which remembers what was read.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting on top of the preset.")
@click.option("--nproc", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes in all, one a GPU.")
@click.option("--gpu", metavar="NAME", help="Only this GPU; a run that does not fit into it is refused.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Images a second, as a run has shown.")
@click.option("--price", type=click.FloatRange(min=0), help="Of a GPU for an hour, in your money.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(preset: str, data: str | None, samples: int | None, model: str | None, size: str | None,
            out: Path | None, assignments: tuple[str, ...], nproc: int, gpu: str | None, speed: float | None,
            price: float | None, as_json: bool, **parts: Path | None) -> None:  # fmt: skip
    """Reckon a run of PRESET: memory, disk, steps, and time and cost by kind of GPU. No weights and no GPU are needed.

    \b
    Examples:
      sote train plan card-base --samples 6200000 --nproc 8 --price 2
      sote train plan card-final --data catalogue --model runs/base/models/card-base --gpu rtx4090
    """
    import json

    from sotediffusion.train import plan as own
    from sotediffusion.train.contradictions import check
    from sotediffusion.train.settings import resolve

    settings = resolve(preset, assignments, presets_folder())
    check(settings, nproc)
    load = _load(settings, data, samples, out)
    found = own.plan(settings, _configs(preset, size, model, parts), load, ranks=nproc)
    machines = {gpu: own.fit(found, gpu)} if gpu else own.MACHINES
    rows = [_row(found, settings, name, machine, (nproc, speed, price)) for name, machine in machines.items()]
    if as_json:
        click.echo(json.dumps(_numbers(found) | {"gpus": rows}, indent=2))
        return
    click.echo("\n".join([*_lines(found, settings, nproc), "", *_table(rows, price)]))
    if speed is None:
        click.echo(f"\nTimes take {own.EFFICIENCY:.0%} of a GPU's published rate for granted; --speed takes a measured one.")


def _load(settings: Any, data: str | None, samples: int | None, out: Path | None) -> Any:
    from tempfile import TemporaryDirectory

    from sotediffusion.train import opening
    from sotediffusion.train import plan as own

    if data is None and samples is None:
        raise UserError("data", "nothing says how many pictures an epoch has; give --data PLACE or --samples N")
    if data is None:
        return own.load_for(settings, samples or 0)
    with TemporaryDirectory() as memory:
        return own.load_of(opening.read_data(data, settings.data, str(out / "data") if out else memory), settings)


def _configs(preset: str, size: str | None, model: str | None, parts: dict[str, Path | None]) -> dict[str, Any]:
    from sotediffusion.models.cascade import PARTS, SIZES
    from sotediffusion.names import unknown
    from sotediffusion.train import plan as own

    if size is None and (model or any(parts.values())):
        return own.configs_of(model_of(model, parts))
    size = size or ("miniature" if preset.startswith("miniature-") else "lite" if preset == "lite" else "full")
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    return {name: getattr(SIZES[size], name) for name in PARTS}


def _row(found: Any, settings: Any, name: str, machine: Any, told: tuple[int, float | None, float | None]) -> dict[str, Any]:
    from sotediffusion.train.plan import GIB

    count, speed, price = told
    if found.footprint.gpu > machine.memory * GIB:
        return {"gpu": name, "memory": machine.memory, "fits": False}
    speed = speed or found.speed(machine, settings.precision.compute == "bfloat16", count)
    hours = found.seconds(speed) / 3600
    row = {"gpu": name, "memory": machine.memory, "fits": True, "speed": speed, "hours": hours, "gpu_hours": hours * count}
    return row if price is None else row | {"cost": hours * count * price}


def _numbers(found: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found) | {"tensors": found.footprint.tensors, "gpu_memory": found.footprint.gpu}


def _lines(found: Any, settings: Any, nproc: int) -> list[str]:
    foot, load, own = found.footprint, found.load, settings.train
    processes = f" by {nproc} processes" if nproc > 1 else ""
    parts = {"trained weights": foot.weights, "frozen weights": foot.frozen, "optimizer": foot.optimizer,
             "averages": foot.averages, "gradients and activations": max(foot.passes, foot.step)}  # fmt: skip
    return [
        f"{settings.name}: {found.images:,} images in {found.steps:,} steps of {own.batch}{processes}, {own.micro or 'all'} at a "
        f"time; an epoch has {found.epoch:,}",
        f"pictures  {load.buckets} bucket{'s' * (load.buckets > 1)}, largest {load.cells[1]}x{load.cells[0]} latent cells, "
        f"{load.mean:.0f} cells on average, {foot.operations / 1e12:.3g} TFLOP each",
        f"memory    {_size(foot.gpu)} on a GPU: {', '.join(f'{what} {_size(value)}' for what, value in parts.items() if value)}",
        f"          {_size(foot.host)} of main memory besides the data and what Python takes",
        f"disk      {_size(found.states)} of states, {_size(found.models)} of models, {_size(found.latents)} of latents",
    ]


def _table(rows: list[dict[str, Any]], price: float | None) -> list[str]:
    from sotediffusion.train.status import span

    head = ("gpu", "GiB", "images/s", "time", "GPU hours") + (("cost",) if price is not None else ())
    lines = [head]
    for row in rows:
        told = ("does not fit",) if not row["fits"] else (
            f"{row['speed']:.3g}", span(row["hours"] * 3600), _hours(row["gpu_hours"]),
            *((f"{row['cost']:,.2f}",) if price is not None else ()))  # fmt: skip
        lines.append((row["gpu"], f"{row['memory']:g}", *told))
    return ["  ".join(f"{cell:<11}" for cell in line).rstrip() for line in lines]


def _hours(count: float) -> str:
    return f"{count:,.1f}" if count >= 0.05 else "< 0.1"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
