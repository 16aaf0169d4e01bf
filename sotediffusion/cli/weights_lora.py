"""`sote weights lora` and `sote weights merge`: what a LoRA file holds, in another form, and put into a model for good."""

import json
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.loras import asked_loras

FORMS = ("sote", "kohya", "comfyui", "peft")


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("target", metavar="[OUT]", required=False, type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(FORMS), help="Write it to OUT in the names of this form.")
@click.option("--trigger", help="Words that call it up, to be written into OUT.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def lora(path: Path, target: Path | None, form: str | None, trigger: str | None, as_json: bool) -> None:
    """Say what a LoRA holds: its form, ranks, scales, what it changes, its trigger words. With OUT also write it there.

    \b
    Examples:
      sote weights lora style.safetensors
      sote weights lora style.safetensors for-comfyui.safetensors --to comfyui
    """
    from dataclasses import replace

    from sotediffusion.types import UserError
    from sotediffusion.weights.lora import TRIGGER, read, save

    found = read(path)
    if target is None and (form or trigger):
        raise UserError("out", f"nothing says where to write it; give a second path after {path}")
    if target is not None:
        if target.exists():
            raise UserError("out", f"{target} is there already; remove it or choose another name")
        metadata = found.metadata | ({TRIGGER: trigger} if trigger else {})
        click.echo(str(save(replace(found, metadata=metadata), target, form or (found.form if found.form in FORMS else "kohya"))))
        return
    about = _about(found)
    click.echo(json.dumps(about, indent=2) if as_json else "\n".join(_lines(about)))


def _about(found: Any) -> dict[str, Any]:
    scales = sorted({round(pair.scale, 6) for pair in found.pairs.values()})
    parts = {part: sum(name.startswith(f"{part}.") for name in found.pairs) for part in ("stage_c", "text")}
    return {
        "name": found.name, "form": found.form, "hash": found.digest, "kinds": found.kinds, "ranks": found.ranks,
        "scales": scales, "modules": {part: count for part, count in parts.items() if count}, "trigger": found.trigger,
        "said": {key: value for key, value in sorted(found.metadata.items()) if len(value) <= 500},
    }  # fmt: skip


def _lines(about: dict[str, Any]) -> list[str]:
    from sotediffusion.cli.main import one_line

    changed = ", ".join(f"{count} modules of {part}" for part, count in about["modules"].items())
    lines = [
        f"{about['name']}: {about['form']} form, {about['hash'][:10]}",
        f"{' and '.join(about['kinds'])}, rank {_listed(about['ranks'])}, scale {_listed(about['scales'])}; changes {changed}",
    ]
    if about["trigger"]:
        lines.append(f"trigger words: {', '.join(about['trigger'])}")
    lines += [f"{key}: {value}" for key, value in about["said"].items()]
    return [one_line(line) for line in lines]


def _listed(values: list[Any]) -> str:
    return "/".join(f"{value:g}" for value in values)


@click.command()
@click.argument("model")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--lora", "files", metavar="FILE[:WEIGHT]", multiple=True, required=True, help="A LoRA, and how much of it.  [1]")
@click.option("--to", "format", metavar="FORMAT", default="folder", show_default=True, help="As in `sote weights convert`.")
@click.option("--dtype", metavar="KIND", help="float32, bfloat16 or float16.  [as stored]")
@click.option("--name", help="What the new model is called.  [OUT's name]")
def merge(model: str, target: Path, files: tuple[str, ...], format: str, dtype: str | None, name: str | None) -> None:
    """Write MODEL with LoRA put into its weights for good at OUT. Sums are made in float32 and rounded once.

    \b
    Example:
      sote weights merge miniature pink --lora style.safetensors:0.8 --lora light.safetensors:0.3
    """
    from sotediffusion.weights.store import merge as write

    left = write(model, target, asked_loras(files), format, dtype, name or target.name.removesuffix(".safetensors"))
    if left:
        click.echo(f"note: {format} has no place for {', '.join(left)}", err=True)
    click.echo(str(target))
