"""`sote curate dedupe`: which pictures of a folder are there more than once; a report, nothing is changed or deleted."""

import json
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from sotediffusion.cli.main import one_line
from sotediffusion.types import UserError

OURS = ("reference", "radius", "candidates", "variants", "verdicts_file")  # options that mean nothing with --compat
CZKAWKAS = ("algorithm", "resize_filter", "hash_size", "similarity")  # and nothing without it
SHOWN = ["row", "path", "sha256", "bytes", "format", "width", "height"]


@click.command()
@click.argument("place", metavar="DIR")
@click.option("--reference", multiple=True, metavar="DIR", help="Name also what is in this folder or catalogue already.")
@click.option("--radius", type=click.IntRange(0, 40), help="Bits of 256 up to which two pictures are the same.  [10]")
@click.option("--candidates", type=click.IntRange(0, 40), help="Bits up to which two pictures are looked at closely.  [24]")
@click.option("--variants", type=click.Choice(["keep", "keep one", "link"]), help="Of one picture with a part redrawn.  [keep]")
@click.option("--verdicts", "verdicts_file", type=click.Path(path_type=Path), help="What was said of them on a review page.")
@click.option("--compat", type=click.Choice(["czkawka"]), help="Use Czkawka's hashes and tolerances instead of ours; with it:")
@click.option("--algorithm", default="gradient", help="mean, median, gradient, vertgradient, doublegradient or blockhash.")
@click.option("--filter", "resize_filter", default="nearest", help="nearest, lanczos3, triangle, gaussian or catmullrom.")
@click.option("--hash-size", type=int, default=16, help="8, 16, 32 or 64.")
@click.option("--similarity", default="high", help="original, very high, high, medium, small, very small, minimal, or bits.")
@click.option("--json", "as_json", is_flag=True, help="Print the groups as JSON.")
def command(place: str, reference: tuple[str, ...], compat: str | None, as_json: bool, verdicts_file: Path | None,
            **options: Any) -> None:  # fmt: skip
    """List near-duplicates in DIR: a folder, a .tar or a URL. Of each group the best picture is named first.

    \b
    Examples:
      sote curate dedupe scrape
      sote curate dedupe scrape --reference training-set --json
      sote curate dedupe scrape --compat czkawka --similarity medium
    """
    from tqdm import tqdm

    from sotediffusion.curate.dedupe.reference import scanned
    from sotediffusion.curate.scan.sources import open_source

    _check_options(compat)
    source = open_source(place)
    with tqdm(desc="looking", unit="picture", disable=None, leave=False) as bar:
        table = scanned(source, _memory(), bar.update)
    if compat:
        groups = _czkawka_groups(source, table, options)
    else:
        groups = _groups(source, table, {**options, "reference": reference}, verdicts_file)
    skipped = sum(value is None for value in table.column("phash").to_pylist())
    if as_json:
        click.echo(json.dumps([_as_json(group, compat) for group in groups], indent=1))
    else:
        _print(groups)
    copies = sum(len(group["left_out"]) for group in groups)
    note = f"; {skipped} files are no pictures that could be compared" if skipped else ""
    click.echo(f"{len(table)} files, {len(groups)} groups, {copies} pictures more than needed{note}", err=True)


def _memory() -> int:
    """Bytes that opening a picture may take, as in a run."""
    from sotediffusion.curate.pipeline import RunSettings

    return int(RunSettings().memory_gib * 2**30)


def _check_options(compat: str | None) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if given and option.name in (OURS if compat else CZKAWKAS):
            how = "with --compat czkawka, which goes by --similarity" if compat else "without --compat czkawka"
            raise UserError(option.opts[0].lstrip("-"), f"it does nothing {how}; leave {option.opts[0]} out")


def _groups(source: Any, table: Any, options: dict[str, Any], verdicts_file: Path | None) -> list[dict[str, Any]]:
    from sotediffusion.curate.dedupe.reference import Reading, read_reference
    from sotediffusion.curate.dedupe.review import groups_of
    from sotediffusion.curate.dedupe.step import READS, DedupeSettings, DedupeStep
    from sotediffusion.curate.dedupe.structure import square
    from sotediffusion.curate.dedupe.verdicts import Verdicts, read
    from sotediffusion.curate.engine.guarded import Guarded

    given = {name: options[name] for name in ("radius", "candidates", "variants", "reference") if options[name] is not None}
    settings = replace(DedupeSettings(), **given)
    verdicts = read(verdicts_file) if verdicts_file else Verdicts()
    memory = _memory()
    reference = read_reference(settings.reference, Reading(memory, say=lambda text: click.echo(one_line(text), err=True)))
    step = DedupeStep(settings, Guarded(source, memory, square), verdicts, reference)
    answers = step.process(table.select(READS).combine_chunks().to_batches()[0])
    return groups_of(table.select(SHOWN).to_pylist(), answers.to_pylist())


def _czkawka_groups(source: Any, table: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    import pyarrow as pa

    from sotediffusion.curate.dedupe.czkawka import czkawka_hash, similar, tolerance
    from sotediffusion.curate.dedupe.step import READS, DedupeSettings, best_first

    table = table.filter(table.column("phash").is_valid())
    size, similarity = options["hash_size"], options["similarity"]
    bits = int(similarity) if similarity.isdecimal() else tolerance(similarity, size)
    named = options["algorithm"], options["resize_filter"], size
    pictures = (_with_alpha(source, path) for path in table.column("path").to_pylist())
    found = [None if picture is None else czkawka_hash(picture, *named) for picture in pictures]
    table = table.filter(pa.array([hash is not None for hash in found], pa.bool_()))
    hashes = [hash for hash in found if hash is not None]
    if not hashes:
        return []
    order = best_first(table.select(READS).combine_chunks().to_batches()[0], DedupeSettings(), frozenset())
    keeper = similar(hashes, bits, order)
    rows = table.select([*SHOWN, "modified"]).to_pylist()
    groups: dict[int, dict[str, Any]] = {}
    for place in np.flatnonzero(keeper != np.arange(len(keeper))).tolist():
        best = int(keeper[place])
        group = groups.setdefault(best, {"keep": {**rows[best], "distance": 0}, "left_out": []})
        distance = (int.from_bytes(hashes[best], "little") ^ int.from_bytes(hashes[place], "little")).bit_count()
        group["left_out"].append({**rows[place], "distance": distance, "why": "duplicate"})
    return [groups[best] for best in sorted(groups)]


def _with_alpha(source: Any, path: str) -> "np.ndarray[Any, Any] | None":
    """As Czkawka sees a picture: upright, transparency left as it is. None for one that cannot be opened so, which is named."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(source.read(path))) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "a format that is not compared so" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        click.echo(one_line(f"{path}: passed over, {reason}"), err=True)
        return None


def _as_json(group: dict[str, Any], compat: str | None) -> Any:
    if compat is None:
        return group
    members = [group["keep"], *group["left_out"]]
    return [
        {"path": item["path"], "size": item["bytes"], "width": item["width"], "height": item["height"],
         "modified_date": item["modified"] // 10**9, "hashes": [], "difference": item["distance"]} for item in members
    ]  # fmt: skip


def _print(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        best = group["keep"]
        size = f"  {best['width']}x{best['height']}, {best['bytes']} bytes" if "width" in best else ""
        click.echo(f"{one_line(best['path'])}{size}")
        for item in group["left_out"]:
            about = f"{item['width']}x{item['height']}, {item['bytes']} bytes, {item['why']}, {item['distance']} bits"
            click.echo(f"  {one_line(item['path'])}  {about}")
    sys.stdout.flush()
