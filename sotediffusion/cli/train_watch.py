"""`sote train watch` and `sote train report`: a run looked at while it goes on and afterwards."""

import time
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.main import one_line

RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
QUIET = 600  # seconds without a report after which one may wonder


@click.command()
@RUN
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [RUN/report.html]")
def report(run: Path, out: Path | None) -> None:
    """Write RUN, the folder of a run, as one self-contained page: curves, pictures drawn on the way, settings."""
    from sotediffusion.pictures.files import write_whole
    from sotediffusion.train.report.page import gather, render
    from sotediffusion.train.report.reading import read_run

    page = render(gather(read_run(run)))
    out = out or run / "report.html"
    write_whole(out, page.encode("utf-8"))
    click.echo(f"{out} ({len(page) / 2**10:.0f} KiB)")


@click.command()
@RUN
@click.option("--every", type=click.FloatRange(0.5), default=5.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once and leave.")
def watch(run: Path, every: float, once: bool) -> None:
    """Show RUN, the folder of a run, in the terminal until the run ends or you press Ctrl-C; the run does not notice."""
    from sotediffusion.train.report.reading import read_run

    while True:
        seen = read_run(run)
        if not once:
            click.clear()
        click.echo("\n".join(_lines(seen, run)))
        if once or seen.last["outcome"] != "running":
            return
        time.sleep(every)


def _lines(seen: Any, run: Path) -> list[str]:
    from sotediffusion.train.report.lines import lines
    from sotediffusion.train.status import span

    quiet = time.time() - (run / "stats.jsonl").stat().st_mtime
    note = seen.last["outcome"] == "running" and quiet > QUIET
    doubt = [f"nothing was reported for {span(quiet)}; the run may have been stopped"] if note else []
    return [one_line(line) for line in [*lines(seen), *doubt]]
