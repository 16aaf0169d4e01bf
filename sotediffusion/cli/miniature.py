"""`sote miniature`: the drawn world that the embedded model was trained on."""

import os
from pathlib import Path

import click


@click.group()
def group() -> None:
    """Draw the small world that the embedded model was trained on."""


@group.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(1, 10_000_000), required=True, help="Pictures in all; more later draws the rest.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which endless series of pictures.")
@click.option("--raw", is_flag=True, help="Add the mess of a scrape: near-duplicates, small, broken and undated files.")
@click.option("--processes", type=click.IntRange(1, 256), default=os.cpu_count(), show_default="one per core")
def draw(out: Path, count: int, seed: int, raw: bool, processes: int) -> None:
    """Draw pictures with captions and their truth into the folder OUT. Run it again to go on where it stopped.

    Example: sote miniature draw drawn --count 1000 --seed 1
    """
    from sotediffusion.miniature.dataset import draw as draw_all

    with click.progressbar(length=count, label="drawing") as bar:
        truth = draw_all(out, count, seed, raw, processes, lambda done: bar.update(done - bar.pos))
    click.echo(f"{count} pictures in {out}, the truth about them in {truth}")
