"""What a run must hold to go on as if it had never stopped, and whether what lies in its folder is still that run."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from sotediffusion.train import checkpoint
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.status import Status
from sotediffusion.types import UserError

Holders = dict[str, Any]  # modules, optimizer, ema, recipe: everything with a state


def check(recipe: Any, folder: Path, options: Any, continue_from: Path | None = None) -> None:
    """UserError for what `begin` would refuse, and weights trained to expect something else; no weights are read."""
    name = checkpoint.latest(folder / "checkpoints")
    if name:
        state = checkpoint.outline(folder / "checkpoints", name)
        _check_data(state["place"].get("data"), recipe.source.identity, folder)
    elif continue_from:
        folder = continue_from
        state = checkpoint.outline(folder / "checkpoints", _warm(folder / "checkpoints"))
    else:
        return
    _check_state(state, recipe.modules, options.optimizer, bool(options.ema), folder)
    recipe.check(state["recipe"])


def begin(holders: Holders, folder: Path, source: str, optimizer: str, ranks: Ranks,
          continue_from: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """Go on from the folder's last checkpoint, or from another run's, or start; the place that the run is at.

    `source` is the identity of the data. UserError: other data, another optimizer or another architecture than before.
    """
    checkpoints = folder / "checkpoints"
    name = checkpoint.latest(checkpoints)
    place: dict[str, Any] = {"images": 0, "seconds": 0.0, "start_images": 0, "cooled": False}
    if name:
        state = checkpoint.load(checkpoints, name)
        _check_data(state["place"].get("data"), source, folder)
        place = _restore(holders, state, optimizer, folder, ranks)
    elif continue_from:
        checkpoints = continue_from / "checkpoints"
        place = _restore(holders, checkpoint.load(checkpoints, _warm(checkpoints)), optimizer, continue_from, ranks)
        place |= {"seconds": 0.0, "start_images": place["images"], "cooled": False}
    return place | {"data": source, "optimizer": optimizer}


def capture(holders: Holders, place: dict[str, Any]) -> dict[str, Any]:
    """The one dict."""
    return {key: holder.state_dict() for key, holder in holders.items()} | {"place": place}


def _restore(holders: Holders, state: dict[str, Any], optimizer: str, folder: Path, ranks: Ranks) -> dict[str, Any]:
    place: dict[str, Any] = state["place"]
    _check_state(state, holders["modules"], optimizer, bool(holders["ema"].values), folder)
    for key, holder in holders.items():
        there = holder.state_dict() if key in ("modules", "ema") else {}
        holder.load_state_dict({name: ranks.like(there.get(name), value) for name, value in state[key].items()})
    return place


def _check_state(state: dict[str, Any], modules: nn.Module, optimizer: str, averages: bool, folder: Path) -> None:
    """UserError unless a run with these goes on from this state."""
    place = state["place"]
    check_fits(state["modules"], modules, folder)
    if place.get("optimizer", "adamw") != optimizer:
        known = place.get("optimizer", "adamw")
        raise UserError("optimizer.kind", f"{folder} was trained with {known}, whose state means nothing to {optimizer}; take "
                                          "that again, or begin another run with --out")
    if averages and not state["ema"]:
        raise UserError("ema", f"{folder} kept no averages to go on with; leave them out, or begin another run with --out")


def check_fits(saved: dict[str, Any], modules: nn.Module, folder: Path) -> None:
    """UserError unless the saved weights are those of this architecture, naming the first that is not."""
    here = {key: tuple(value.shape) for key, value in modules.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in saved.items()}
    wrong = next((key for key in [*here, *there] if here.get(key) != there.get(key)), None)
    if wrong is not None:
        sizes = f"{there.get(wrong, 'missing')} in its checkpoint and {here.get(wrong, 'missing')} here"
        raise UserError("model", f"{folder} was trained with another architecture: {wrong} is {sizes}; give the model it began "
                                 "with, or another --out")


def _check_data(known: str | None, source: str, folder: Path) -> None:
    """UserError where a run would go on with other data; the first checkpoints did not say what they had seen."""
    if known is not None and known != source:
        raise UserError("data", f"{folder} was trained on other data than is given now; give that again, or begin another run "
                                f"with --out, which may start from this one by --continue-from {folder}")


def _warm(checkpoints: Path) -> str:
    """The name of the state another run had before its learning rate fell, or its last one."""
    name = "before-cooldown" if (checkpoints / "before-cooldown.json").is_file() else checkpoint.latest(checkpoints)
    if name is None:
        raise UserError("continue-from", f"{checkpoints} holds no checkpoint; name the folder of a run")
    return name


def open_log(folder: Path, options: Any, images: int, ranks: Ranks) -> Any:
    """Write the options down and open the log, without the lines of steps that are about to be run again.

    Processes that write nothing get a log that goes nowhere.
    """
    if options.dry or not ranks.first:
        return open(os.devnull, "a")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save_json(folder / "options.json", _plain(asdict(options)))
    path = folder / "stats.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["images"] <= images]
    checkpoint.replace_file(path, lambda temporary: temporary.write_text("".join(kept)))
    return open(path, "a")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON has them: an endless number of minutes is null."""
    return {key: None if value == math.inf else value for key, value in options.items()}


def write(log: Any, status: Status) -> None:
    """Add a line."""
    log.write(json.dumps(asdict(status)) + "\n")
    log.flush()
