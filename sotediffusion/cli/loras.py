"""LoRA and embeddings as they are given on a command line: FILE:0.8, or a name in one of the folders where they lie."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.main import one_line
from sotediffusion.types import UserError

NONE = "none"

Loras = tuple[tuple[str, float], ...]


def asked_loras(given: Sequence[str]) -> Loras:
    """The path and weight of each FILE[:WEIGHT]. UserError: no such file, or no number."""
    return tuple(_asked(text) for text in given if text != NONE)


def _asked(text: str) -> tuple[str, float]:
    from sotediffusion.weights.lora_sets import find

    file, colon, number = text.rpartition(":")
    if not colon or os.path.exists(text):
        return str(find(text, folders())), 1.0
    try:
        weight = float(number)
    except ValueError:
        raise UserError("lora", f"{number[:40]!r} after the colon is no weight; write for example {file[:80]}:0.8") from None
    return str(find(file, folders())), weight


def loras_like(like: dict[str, Any], given: Sequence[str]) -> Loras:
    """Those that a picture was drawn with, found by their names; a note where a file is another one than then.

    UserError: one is not here.
    """
    if NONE in given:
        return ()
    from sotediffusion.pictures.infotext import loras_in
    from sotediffusion.weights.lora import read
    from sotediffusion.weights.lora_sets import find

    found = []
    for told in loras_in(like):
        try:
            path = find(told["name"], folders())
        except UserError as error:
            where = error.message.partition(";")[0]
            raise UserError("lora", f"{where}, and that picture was drawn with it; give --lora FILE:{told['weight']:g}, or leave "
                                    f"it out with --lora {NONE}") from None  # fmt: skip
        if told["hash"] and not read(path).digest.startswith(told["hash"].lower()):
            click.echo(f"note: {one_line(str(path))} is not the LoRA that picture was drawn with; it will differ", err=True)
        found.append((str(path), told["weight"]))
    return tuple(found)


def asked_embeddings(given: Sequence[str]) -> tuple[str, ...]:
    """The path of each. UserError: no such file."""
    from sotediffusion.weights.lora_sets import find

    return tuple(str(find(name, folders("SOTE_EMBEDDINGS", "embeddings"), "embedding")) for name in given)


def embeddings_like(like: dict[str, Any]) -> tuple[str, ...]:
    """Those that a picture was drawn with. UserError: one is not here."""
    from sotediffusion.pictures.infotext import words_in

    return asked_embeddings([word["name"] for word in words_in(like)])


def folders(variable: str = "SOTE_LORAS", usual: str = "loras") -> list[Path]:
    """Where files are looked up by name: in the folder that the environment names, in the usual one, and here."""
    own = os.environ.get(variable)
    return [Path(folder) for folder in ((own, usual, ".") if own else (usual, "."))]
