"""`sote info`: the settings inside a picture."""

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(file: Path, as_json: bool) -> None:
    """Print the settings inside FILE, a picture drawn by sote or by a program that writes A1111's infotext."""
    from sotediffusion.pictures.files import read_settings

    settings = read_settings(file)
    if as_json:
        click.echo(json.dumps(settings, ensure_ascii=True, indent=2))
        return
    for name, value in _flat(settings, ""):
        click.echo(f"{name}: {value}")


def _flat(settings: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Dotted names and printable values; a file's text cannot steer the terminal."""
    lines: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = prefix + _printable(str(key))
        lines += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, _printable(str(value)))]
    return lines


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
