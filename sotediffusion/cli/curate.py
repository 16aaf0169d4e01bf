"""`sote curate`: from a pile of pictures to a training catalogue."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.curate_models import models_folder, stand_ins
from sotediffusion.cli.main import one_line
from sotediffusion.names import listing, nearest, unknown
from sotediffusion.types import UserError

# name: what --help says of it; each is a file of its own, cli/curate_<name>.py, with a click command called `command`
OTHERS = {
    "report": "Write a catalogue as one page to look at.",
    "explain": "Tell one picture's whole story.",
    "tags": "Search, rename and merge tags; write the list for autocompletion.",
    "review": "Look at groups of near-duplicates, and take in what was decided.",
    "dedupe": "Find near-duplicates in a plain folder.",
    "tag": "Tag the pictures of a plain folder, by all of kohya's flags.",
    "export": "Write a catalogue for trainers: kohya, datasets, WebDataset.",
    "import": "Make a folder to curate out of another program's data.",
    "models": "List, fetch and convert the published models.",
}
PRESETS = ("card", "miniature")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1", "LANCE_LOG": "error", "NO_ALBUMENTATIONS_UPDATE": "1"}


class Curate(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in OTHERS:
            return self.commands.get(cmd_name)
        command: click.Command = import_module(f"sotediffusion.cli.curate_{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0][:80]!r}; did you mean {listing(nearest(args[0], known), 4)}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list((own | OTHERS).items()))


@click.group(cls=Curate)
def group() -> None:
    """Turn a pile of pictures into a training catalogue."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def _default_models(preset: str) -> Path:
    if preset == "miniature":
        return stand_ins()
    return models_folder()


def read_preset(preset: str, assignments: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a preset by name, or of a TOML file, with overrides, as each room's dataclass."""
    from sotediffusion.config import override, read_toml
    from sotediffusion.curate.pipeline import resolve

    path = Path(preset)
    if preset in PRESETS:
        path = Path(str(files("sotediffusion"))) / "presets" / "curate" / f"{preset}.toml"
    elif path.suffix != ".toml":
        raise unknown("preset", preset, PRESETS)
    return resolve(override(read_toml(path), assignments))


@group.command()
@click.argument("source", metavar="DIR")
@click.option("--out", metavar="CATALOGUE", required=True, help="A new folder or URL, or a catalogue to go on with.")
@click.option("--preset", default="card", show_default=True, help="Settings to start from: card, miniature or a TOML file.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting on top of the preset.")
@click.option("--skip", multiple=True, metavar="STEP", help="Leave a step out, such as score, tag or dedupe; repeatable.")
@click.option("--models", type=click.Path(file_okay=False, path_type=Path), help="Where models lie; see `sote curate models`.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes.  [one per core]")
@click.option("--name", help="Of the version that comes of it.  [v1, v2, ...]")
@click.option("--ray", metavar="ADDRESS", help="A Ray cluster to run on, such as ray-head:6379, or `local` for one started here.")
@click.option("--again", is_flag=True, help="Open once more what killed its decoder, or what dedupe could not open.")
def run(source: str, out: str, preset: str, assignments: tuple[str, ...], skip: tuple[str, ...], models: Path | None,
        workers: int | None, name: str | None, ray: str | None, again: bool) -> None:  # fmt: skip
    """Curate the pictures in DIR, a folder, a .tar or a URL, into CATALOGUE. DIR is only read.

    Stopped at any moment, the same command goes on; with more pictures, other settings or new models only the new work is done.

    Example: sote curate run pictures --out catalogue --preset card -s filter.min_area=600000 --skip score
    """
    from sotediffusion.curate import pipeline
    from sotediffusion.curate.text.endpoint import read_key

    settings = read_preset(preset, assignments)
    keys = {step: read_key(settings[step].endpoint.key_file, os.environ) for step in ("text", "prose")}
    cores = workers or len(os.sched_getaffinity(0))
    order = pipeline.Order(source, out, settings, models or _default_models(preset), cores, skip, name, ray, keys, again)
    if ray:
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported; without a token it then connects to nothing
    with _Line() as line:
        version, runner, notes = pipeline.run(order, line.show, lambda text: click.echo(text, err=True))
    for text in summary(runner.ledger.reasons):
        click.echo(text)
    if "passed over" in notes:
        click.echo(f"passed over: {one_line(notes['passed over'])}")
    if version is None:
        click.echo(f"nothing new; {out} stays as it is")
    else:
        click.echo(f"{version.kept} of {version.rows} pictures kept; version {version.name} of {out}")


def summary(reasons: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What was left out, by step and reason; of the policy's a count alone."""
    refused = reasons.get("policy", {}).get("policy", 0)
    lines = [f"policy: {refused} refused; of these nothing is kept but a hash of their content"] if refused else []
    ranked = ((step, reason, count) for step, found in reasons.items() if step != "policy" for reason, count in _ranked(found))
    return lines + [f"{step}: {count} left out, {one_line(reason)}" for step, reason, count in ranked if count]


class _Line:
    """One line on the terminal that is written over; without a terminal a line now and then."""

    EVERY = 30.0  # seconds between lines where they stay

    def __enter__(self) -> "_Line":
        self.terminal, self.last, self.stage = sys.stderr.isatty(), -self.EVERY, ""
        return self

    def __exit__(self, *error: object) -> None:
        if self.terminal:
            click.echo("\r\033[K", nl=False, err=True)

    def show(self, progress: Any) -> None:
        import time

        text = describe(progress)
        if self.terminal:
            click.echo(f"\r{text[: os.get_terminal_size(sys.stderr.fileno()).columns - 1]}\033[K", nl=False, err=True)
        elif progress.total and (progress.stage != self.stage or time.monotonic() - self.last > self.EVERY):
            self.last, self.stage = time.monotonic(), progress.stage
            click.echo(text, err=True)


def describe(progress: Any) -> str:
    """`[3/6] tag 1200 of 5000, 41.0 pictures/s, 2 min left; left out: 31 too small, 8 same as another`."""
    text = f"[{progress.number + 1}/{progress.stages}] {progress.stage}" if progress.stages else progress.stage
    if progress.total:
        text += f" {progress.done} of {progress.total}"
    if progress.speed:
        text += f", {progress.speed:.1f} pictures/s"
    if progress.left is not None and progress.done < progress.total:
        text += f", {_duration(progress.left)} left"
    reasons = [(count, reason) for found in progress.dropped.values() for reason, count in found.items() if count]
    if reasons:
        text += "; left out: " + ", ".join(f"{count} {one_line(reason)}" for count, reason in sorted(reasons, reverse=True))
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@group.command()
@click.argument("catalogue")
def status(catalogue: str) -> None:
    """Say what CATALOGUE holds: its versions, and how much of each step is on file."""
    from sotediffusion.curate.catalogue import versions
    from sotediffusion.curate.engine.store import Store
    from sotediffusion.curate.status import Held, held_work, writer_of

    store = Store(catalogue)
    work: list[Held] = held_work(store)
    known = versions(store)
    if not work and not known:
        raise UserError("catalogue", f"{catalogue} holds no catalogue; make one with `sote curate run DIR --out {catalogue}`")
    click.echo(writer_of(store) or "nobody is writing to it")
    for held in work:
        used = "" if held.used else "  of other settings"
        click.echo(f"{held.step:<28}{held.rows:>10} rows {held.parts:>7} files {held.fingerprint}{used}")
    if known:
        _show_version(known[-1])


@group.command()
@click.argument("catalogue")
def versions(catalogue: str) -> None:
    """List the versions of CATALOGUE, oldest first."""
    from sotediffusion.curate.catalogue import find_version
    from sotediffusion.curate.catalogue import versions as known
    from sotediffusion.curate.engine.store import Store

    store = Store(catalogue)
    find_version(store)
    for version in known(store):
        _show_version(version)


def _show_version(version: Any) -> None:
    click.echo(f"{version.name}  {version.created}  {version.kept} of {version.rows} pictures kept")
    for reason, count in _ranked(version.reasons):
        click.echo(f"  {count:>9} {one_line(reason)}")


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@group.command()
@click.argument("catalogue")
@click.argument("before")
@click.argument("after", required=False)
def diff(catalogue: str, before: str, after: str | None) -> None:
    """Compare version BEFORE of CATALOGUE with AFTER, the latest if not given."""
    from sotediffusion.curate.changes import compare

    found = compare(catalogue, before, after)
    click.echo(f"{found.before} -> {found.after}: {found.rows_added} rows added, {found.now_kept} now kept, "
               f"{found.now_dropped} now left out")  # fmt: skip
    for reason, (was, now) in found.reasons.items():
        if was != now:
            click.echo(f"  left out, {one_line(reason)}: {was} -> {now}")
    for what, names in (("added", found.columns_added), ("removed", found.columns_removed)):
        if names:
            click.echo(f"  columns {what}: {', '.join(names)}")
    for column, count in found.columns_changed.items():
        click.echo(f"  {column}: {count} of {found.rows_shared} pictures differ")
    for what, paths in (("now kept", found.kept_paths), ("now left out", found.dropped_paths)):
        for path in paths:
            click.echo(f"  {what}: {one_line(path)}")
