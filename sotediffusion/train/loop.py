"""The one training loop: every part of the cascade is trained by this function, image by image, resumable to the bit.

To resume training, run the same command again. Nothing random is carried from step to step: batches follow from (seed,
epoch, sample), the networks' own randomness from (seed, images seen), so a checkpoint needs no random state.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sotediffusion.train import checkpoint
from sotediffusion.train.data import Batch, prefetch
from sotediffusion.train.ema import Ema
from sotediffusion.train.optim import Schedule, adamw, clip, groups, rate, set_rate
from sotediffusion.types import UserError


class Source(Protocol):
    """Where batches come from; the same (seed, epoch, sample) always give the same content."""

    @property
    def identity(self) -> str:
        """Changes with the data, so that no run goes on with other data than it began with."""

    def batches(self, seed: int, images: int, size: int) -> Iterator[Batch]:
        """Batches of about `size` samples for ever, from the point where `images` have been seen."""


class Recipe(Protocol):
    """One thing to train."""

    source: Source
    progress: float  # of the run, in [0, 1]; told before each loss

    @property
    def modules(self) -> nn.Module:
        """Everything that is saved; what requires gradients is trained."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, and numbers to log."""

    def state_dict(self) -> dict[str, Any]:
        """What else a checkpoint must hold, such as an adaptive loss weight."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the averages of `modules`, the tensors that make up the trained part."""


@dataclass(frozen=True)
class Options:
    """How long and how fast to train. A run ends at `images` or after `minutes`, whichever comes first."""

    images: int
    batch: int
    lr: float
    minutes: float = math.inf  # of training time, over all restarts
    seed: int = 0
    decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 20_000  # half-life in images
    schedule: Schedule = field(default_factory=Schedule)
    save_minutes: float = 10.0
    report_seconds: float = 10.0
    keep: int = 2  # numbered checkpoints
    device: str = "cpu"
    bf16: bool = False  # compute under autocast; weights stay float32


@dataclass
class Status:
    """Where a run stands; what a progress bar shows and `stats.jsonl` keeps."""

    images: int
    total: int
    progress: float  # of images or time, whichever is further
    loss: float
    lr: float
    speed: float  # images a second since the last report
    seconds: float  # trained, over all restarts
    numbers: dict[str, float] = field(default_factory=dict)
    outcome: str = "running"  # "finished", "interrupted"


def train(recipe: Recipe, options: Options, folder: Path, report: Callable[[Status], None],
          continue_from: Path | None = None) -> Status:
    """Train `recipe` in the run folder `folder` until done or told to stop by SIGTERM or Ctrl-C; both save first.

    `continue_from` is another run's folder to start from: its last checkpoint before the learning rate fell. Raises
    UserError naming the last good checkpoint when the loss or gradients are not finite.
    """
    # Set up the training state.
    modules = recipe.modules.to(options.device).train()
    optimizer = adamw(groups(modules, options.lr, options.decay), options.betas)
    ema = Ema(modules, options.ema)
    holders = {"modules": modules, "optimizer": optimizer, "ema": ema, "recipe": recipe}
    place: dict[str, Any] = {"images": 0, "seconds": 0.0, "start_images": 0, "cooled": False}
    parameters = [p for p in modules.parameters() if p.requires_grad]

    # Load the last checkpoint, or another run's, and write down what is going to be done.
    checkpoints = folder / "checkpoints"
    name = checkpoint.latest(checkpoints)
    if name:
        state = checkpoint.load(checkpoints, name)
        _check_data(state["place"].get("data"), recipe.source, folder)
        place = _restore(holders, state)
    elif continue_from:
        place = _restore(holders, _warm(continue_from / "checkpoints"))
        place |= {"seconds": 0.0, "start_images": place["images"], "cooled": False}
        for group in optimizer.param_groups:
            group["peak"] = options.lr
    place["data"] = recipe.source.identity
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save_json(folder / "options.json", _plain(asdict(options)))
    log = _open_stats(folder / "stats.jsonl", place["images"])
    total = place["start_images"] + options.images
    last_save = last_report = time.monotonic()
    window = _Window()
    outcome = "finished"

    with _signals() as stop, prefetch(recipe.source.batches(options.seed, place["images"], options.batch)) as batches, log:
        while True:
            # Done?
            progress = _progress(place, options)
            if progress >= 1 or stop:
                outcome = "finished" if progress >= 1 else "interrupted"
                break

            # Keep the point from which the run can be continued warm.
            if options.schedule.shape == "cooldown" and progress > 1 - options.schedule.cooldown and not place["cooled"]:
                place["cooled"] = True
                checkpoint.save(checkpoints, "before-cooldown", _capture(holders, place), options.keep)

            # Evaluate the loss and its gradients.
            started = time.monotonic()
            batch = next(batches)
            torch.manual_seed(_mix(options.seed, place["images"]))
            recipe.progress = progress
            with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
                loss, numbers = recipe.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]

            # Run the optimizer.
            norm = clip(parameters, options.clip)
            if not math.isfinite(norm) or not math.isfinite(loss.item()):
                raise UserError("train", f"loss {loss.item():g} (gradient norm {norm:g}) after {place['images']} images; "
                                f"the last good checkpoint is {checkpoints / str(checkpoint.latest(checkpoints))}, lower the lr")
            lr = set_rate(optimizer, rate(options.schedule, place["images"] - place["start_images"], progress))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            # Update the average and the training state.
            place["images"] += batch.size
            ema.update(modules, place["images"], batch.size)
            place["seconds"] += time.monotonic() - started
            window.add(loss.item(), numbers | {"gradient norm": norm}, batch.size)

            # Report status.
            if time.monotonic() - last_report >= options.report_seconds:
                status = window.status(place, total, _progress(place, options), lr)
                _write(log, status)
                report(status)
                last_report = time.monotonic()

            # Save a checkpoint.
            if time.monotonic() - last_save >= options.save_minutes * 60:
                _save(holders, place, folder, options)
                last_save = time.monotonic()

        status = window.status(place, total, _progress(place, options), optimizer.param_groups[0]["lr"])
        status = replace(status, outcome=outcome)
        _write(log, status)
    _save(holders, place, folder, options)
    report(status)
    return status


def _progress(place: dict[str, Any], options: Options) -> float:
    return max((place["images"] - place["start_images"]) / options.images, place["seconds"] / (options.minutes * 60))


def _mix(seed: int, images: int) -> int:
    """A seed of its own for every step; the multiplier is SplitMix64's, so that neighbours differ in all bits."""
    return (seed * 0x9E3779B97F4A7C15 + images * 0xBF58476D1CE4E5B9) % 2**63


def _capture(holders: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    return {key: holder.state_dict() for key, holder in holders.items()} | {"place": place}


def _restore(holders: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    for key, holder in holders.items():
        holder.load_state_dict(state[key])
    place: dict[str, Any] = state["place"]
    return place


def _check_data(known: str | None, source: Source, folder: Path) -> None:
    """UserError where a run would go on with other data; the first checkpoints did not say what they had seen."""
    if known is not None and known != source.identity:
        raise UserError("data", f"{folder} was trained on other data than is given now; give that again, or begin another run "
                                f"with --out, which may start from this one by --continue-from {folder}")


def _warm(checkpoints: Path) -> dict[str, Any]:
    """The state another run had before its learning rate fell, or its last one."""
    name = "before-cooldown" if (checkpoints / "before-cooldown.json").is_file() else checkpoint.latest(checkpoints)
    if name is None:
        raise UserError("continue-from", f"{checkpoints} holds no checkpoint; name the folder of a run")
    return checkpoint.load(checkpoints, name)


def _save(holders: dict[str, Any], place: dict[str, Any], folder: Path, options: Options) -> None:
    """A numbered checkpoint, and beside it the averaged weights for drawing."""
    checkpoint.save(folder / "checkpoints", f"{place['images']:012d}", _capture(holders, place), options.keep)
    weights = holders["recipe"].weights(holders["ema"].values)
    checkpoint.save_tensors(folder / "weights.safetensors", weights, {"images": str(place["images"])})


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON has them: an endless number of minutes is null."""
    return {key: None if value == math.inf else value for key, value in options.items()}


def _open_stats(path: Path, images: int) -> Any:
    """The log, without the lines of steps that are about to be run again."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["images"] <= images]
    checkpoint.replace_file(path, lambda temporary: temporary.write_text("".join(kept)))
    return open(path, "a")


def _write(log: Any, status: Status) -> None:
    log.write(json.dumps(asdict(status)) + "\n")
    log.flush()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or Ctrl-C comes, so that the loop can end its step; a second one acts as usual."""
    received: list[int] = []
    earlier: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, earlier[number])

    for wanted in (signal.SIGTERM, signal.SIGINT):
        earlier[wanted] = signal.signal(wanted, note)
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Window:
    """Means over the steps since the last report."""

    def __init__(self) -> None:
        self.last: tuple[float, dict[str, float]] = (math.nan, {})
        self.begin()

    def begin(self) -> None:
        self.started, self.images, self.loss = time.monotonic(), 0, 0.0
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, loss: float, numbers: dict[str, float], images: int) -> None:
        self.images += images
        self.loss += loss * images
        for key, value in numbers.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = (total + value, count + 1)

    def status(self, place: dict[str, Any], total: int, progress: float, lr: float) -> Status:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        if self.images:
            self.last = (self.loss / self.images, {key: value / count for key, (value, count) in self.sums.items()})
        result = Status(place["images"], total, progress, self.last[0], lr, self.images / elapsed, place["seconds"], self.last[1])
        self.begin()
        return result
