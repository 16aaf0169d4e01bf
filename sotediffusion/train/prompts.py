"""What is drawn while training: a few lines, or kohya's files of sample prompts, as drawing orders whose seeds stay.

A line is `prompt --n negative --w width --h height --d seed --l guidance --s steps`; a TOML has `[prompt]` with what all share
and `[[prompt.subset]]` for each, a JSON a list of such tables.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotediffusion.config import read_toml
from sotediffusion.diffusion.samplers import SAMPLERS
from sotediffusion.diffusion.schedule import SCHEDULES
from sotediffusion.limits import SIDE_STEP, SIDES, validate
from sotediffusion.safety.policy import check_request
from sotediffusion.types import Request, UserError

FIELD = "draw.prompts"
# kohya's names, in lines and in tables: our field, and what makes the value
LETTERS = {"n": "negative_prompt", "w": "width", "h": "height", "d": "seed", "l": "scale", "s": "sample_steps"}
FIELDS: dict[str, tuple[str, type]] = {
    "prompt": ("prompt", str), "negative_prompt": ("negative", str), "width": ("width", int), "height": ("height", int),
    "seed": ("seed", int), "scale": ("guidance", float), "sample_steps": ("steps", int),
}  # fmt: skip
_OPTION = re.compile(r"\s--(?=[a-z]+\s)")


def read_prompts(prompts: str | Sequence[str]) -> tuple[list[Request], list[str]]:
    """Drawing orders of a file or of lines, and what in them means nothing here.

    UserError: a file that is none, and an order that cannot or must not be drawn.
    """
    notes: list[str] = []
    tables = _file(Path(prompts)) if isinstance(prompts, str) else [_line(line) for line in prompts]
    if not tables and prompts:
        raise UserError(FIELD, f"{prompts} holds no prompts; write one a line, such as '1girl, cat ears --w 1024 --h 1024 --d 1'")
    requests = [_request(table, number, notes) for number, table in enumerate(tables)]
    for request in requests:
        validate(request, SAMPLERS, SCHEDULES)
        check_request(request.prompt, request.negative, request.guidance, request.decoder_guidance)
    return requests, notes


def _file(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(FIELD, f"{path} is no file; give a .txt of prompts, one a line, a .toml or a .json")
    if path.suffix == ".toml":
        shared = read_toml(path).get("prompt", {})
        shared = dict(shared) if isinstance(shared, Mapping) else {}
        subsets = shared.pop("subset", [{}])
        return [{**shared, **subset} for subset in subsets if {**shared, **subset}]
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return [dict(table) for table in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise UserError(FIELD, f"{path} cannot be read ({error}); write it as UTF-8, a .json as a list of tables") from None
    return [_line(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _line(line: str) -> dict[str, Any]:
    prompt, *options = _OPTION.split(f" {line.strip()}")
    table: dict[str, Any] = {"prompt": prompt.strip()}
    for option in options:
        letter, _, value = option.strip().partition(" ")
        table[LETTERS.get(letter, f"--{letter}")] = value.strip()
    return table


def _request(table: dict[str, Any], number: int, notes: list[str]) -> Request:
    """The order of one table; a seed that is not given is the table's number, so that it stays."""
    told: dict[str, Any] = {"seed": number}
    for name, value in table.items():
        if name not in FIELDS:
            notes.append(f"{FIELD}: prompt {number + 1} has {name[:40]}, which is not known here and is left out")
            continue
        field, kind = FIELDS[name]
        try:
            told[field] = kind(value)
        except (TypeError, ValueError):
            raise UserError(FIELD, f"{name} = {str(value)[:40]!r} of prompt {number + 1} is no {kind.__name__}") from None
    if not told.get("prompt"):
        raise UserError(FIELD, f"prompt {number + 1} says nothing; write what should be drawn")
    for side in ("width", "height"):
        if side in told:
            told[side] = max(SIDES[0], told[side] // SIDE_STEP * SIDE_STEP)  # as kohya's trainer does
    return Request(**told)
