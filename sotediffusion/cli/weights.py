"""`sote weights`: what lies in a file, from one format to another, from a hub to this disk."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.weights_lora import lora, merge

FORMATS = (
    "folder", "diffusers", "diffusers-connected", "stability", "comfyui", "comfyui-split", "kohya", "onetrainer", "loose",
)  # fmt: skip
PARTS = ("stage_c", "stage_b", "stage_a", "text_encoder", "effnet", "previewer", "image_encoder", "tokenizer")


@click.group("weights")
def group() -> None:
    """Inspect, convert, download and list models, and put LoRA into them."""


group.add_command(lora)
group.add_command(merge)


def parts_options(command: Any) -> Any:
    """The options that name parts one by one."""
    for part in reversed(PARTS):
        help = f"Where to take {part.replace('_', ' ')} from instead."
        command = click.option(f"--{part.replace('_', '-')}", type=click.Path(path_type=Path), help=help)(command)
    return command


def choice_options(command: Any) -> Any:
    """The options for what published repositories hold twice."""
    command = click.option("--lite", is_flag=True, help="The smaller networks, in prior_lite/ and decoder_lite/.")(command)
    help = "bf16 or fp16: the smaller copy of each part that has one."
    return click.option("--variant", metavar="KIND", default="", help=help)(command)


def _source(path: Path | None, parts: dict[str, Path | None]) -> Any:
    named = {name: value for name, value in parts.items() if value is not None}
    return named | ({"base": path} if path is not None else {}) if named or path is None else path


@group.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@parts_options
@choice_options
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def inspect(path: Path | None, as_json: bool, variant: str, lite: bool, **parts: Path | None) -> None:
    """Say what PATH holds: parts, kinds, sizes, licence, hashes. PATH is a file, a folder, a TOML of parts,
    a downloaded hub id, ID@REVISION or `miniature`."""
    import json

    from sotediffusion.weights.bundle import WHOLE
    from sotediffusion.weights.store import inspect as look

    found = look(_source(path, parts), replace(WHOLE, variant=variant, lite=lite))
    click.echo(json.dumps(asdict(found), indent=2) if as_json else "\n".join(_printable(line) for line in _lines(found)))


def _printable(text: str) -> str:
    """A file's own text cannot steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _lines(found: Any) -> list[str]:
    from sotediffusion.weights.bundle import WHERE
    from sotediffusion.weights.licences import describe

    lines = [f"{found.path}: {found.format}" + (f", {found.name}" if found.name else "")]
    lines.append(f"licence: {describe(found.license)}" + (f"; made from {found.base}" if found.base else ""))
    expects = found.conventions
    lines.append(f"trained for: {expects.width}x{expects.height}, {expects.compression:g} px a cell, "
                 f"text mask {expects.text_mask}, time {expects.time_condition}, says {expects.prediction_c}")
    lines.append(f"tokenizer: {found.tokenizer}")
    for part in found.parts:
        lines.append(f"{part.name:<10}{part.size:<10}{'/'.join(part.dtypes):<10}{part.parameters / 1e6:>9.2f} M "
                     f"{part.bytes / 1e6:>10.1f} MB  {part.hash[:10]}  {part.source}")
        if part.recorded not in ("", part.hash):
            lines.append(f"  its own record says {part.recorded[:10]}: the file was changed after it was written")
    lines += [f"{name:<10}missing; {WHERE[name][0]}: {WHERE[name][1]}" for name in found.missing]
    return lines + [f"not a part: {name}" for name in found.skipped]


@group.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", "format", required=True, metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.")
@click.option("--dtype", metavar="KIND", help="float32, bfloat16 or float16.  [as stored]")
@click.option("--unsafe-pickle", is_flag=True, help="Also read a .ckpt, .pt or .bin file, weights only.")
@parts_options
@choice_options
def convert(source: Path, target: Path, format: str, dtype: str | None, unsafe_pickle: bool, variant: str, lite: bool,
            **parts: Path | None) -> None:
    """Write the weights at IN in another format at OUT. Values are kept bit by bit unless --dtype is given."""
    from sotediffusion.weights.bundle import WHOLE
    from sotediffusion.weights.store import convert as write

    choice = replace(WHOLE, variant=variant, lite=lite)
    left = write(_source(source, parts), target, format, dtype, unsafe_pickle, choice)
    if left:
        click.echo(f"note: {format} has no place for {', '.join(left)}", err=True)
    click.echo(str(target))


@group.command()
@click.argument("id")
@click.option("--revision", metavar="REV", help="A branch, a tag or a commit; elsewhere it is named ID@REV.  [main]")
@choice_options
def download(id: str, revision: str | None, variant: str, lite: bool) -> None:
    """Fetch ID from the hub, and the prior or decoder that goes with it. Run it again to go on after a break."""
    from tqdm import tqdm

    from sotediffusion.weights.bundle import WHOLE
    from sotediffusion.weights.hub import download as fetch

    for fetched in fetch(id, revision, progress=tqdm, choice=replace(WHOLE, variant=variant, lite=lite)):
        click.echo(f"{fetched.id} {fetched.commit} {fetched.path}")


@group.command("list")
def list_models() -> None:
    """List the models that are published, and those that are here."""
    from sotediffusion.weights.cache import MINIATURE, embedded
    from sotediffusion.weights.hub import downloaded
    from sotediffusion.weights.licences import PUBLISHED, describe

    here = downloaded()
    ids = {fetched.id for fetched in here}
    built = "here" if (embedded() / "model.toml").is_file() else "not built"
    click.echo(f"{MINIATURE}  {built}  drawn by `sote generate` when no model is named; {describe('apache-2.0')}")
    for model in PUBLISHED:
        click.echo(f"{model.id}  {'here' if model.id in ids else 'not downloaded'}  {model.what}; {describe(model.license)}")
    for fetched in here:
        click.echo(f"{fetched.path}  {fetched.id} at {fetched.commit[:10]}")
