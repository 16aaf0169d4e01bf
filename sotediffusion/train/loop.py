"""The one training loop: every part of the cascade is trained by this function, image by image, resumable to the bit.

To resume training, run the same command again. Nothing random is carried from step to step: batches follow from (seed,
epoch, sample), the networks' own randomness from (seed, images seen), so a checkpoint needs no random state. Several processes
walk through it in step, each with its rows of every batch.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sotediffusion.train import checkpoint, resume
from sotediffusion.train.data import Batch, prefetch
from sotediffusion.train.distributed import ALONE, Ranks, apart
from sotediffusion.train.ema import Ema
from sotediffusion.train.optim.kinds import Choice, groups
from sotediffusion.train.optim.schedule import Schedule, rate
from sotediffusion.train.optim.stepping import Stepper, Stepping
from sotediffusion.train.pieces import pieces
from sotediffusion.train.status import Health, Status, Window, signals


class Source(Protocol):
    """Where batches come from; the same (seed, epoch, sample) always give the same content."""

    @property
    def identity(self) -> str:
        """Changes with the data, so that no run goes on with other data than it began with."""

    def batches(self, seed: int, images: int, size: int) -> Iterator[Batch]:
        """Steps of about `size` samples for ever, whole or piece by piece, from the point where `images` have been seen."""


class Recipe(Protocol):
    """One thing to train."""

    source: Source
    progress: float  # of the run, in [0, 1]; told before each loss

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is saved; what requires gradients is trained."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, a mean over the samples, and numbers to log."""

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """After the losses of a step: learn from them. `join` makes of rows (n, k), one a sample, those of all processes."""

    def state_dict(self) -> dict[str, Any]:
        """What else a checkpoint must hold, such as an adaptive loss weight."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the averages of `modules`, the tensors that make up the trained part."""


class Milestone(Protocol):
    """Something to be done with the weights every so often, in all processes together; before a run too where `first` is true."""

    every: int  # images; 0 is at the end only
    first: bool = False

    def reach(self, place: dict[str, Any], weights: dict[str, Tensor], last: bool) -> None:
        """`place` says how many `images` and `steps` the run has behind it; of spread weights each process has its rows."""

    def wait(self) -> None:
        """Until all that was begun is on the disk: a checkpoint says that the run need not come by here again."""
        return


@dataclass(frozen=True)
class Options:
    """How long and how fast to train. A run ends at `images` or after `minutes`, whichever comes first."""

    images: int
    batch: int  # samples a step, of all processes together
    lr: float
    minutes: float = math.inf  # of training time, over all restarts
    seed: int = 0
    decay: float = 0.01
    clip: float = 1.0
    ema: float = 20_000  # half-life in images; 0 keeps no averages
    schedule: Schedule = field(default_factory=Schedule)
    save_minutes: float = 10.0
    report_seconds: float = 10.0
    keep: int = 2  # numbered checkpoints
    device: str = "cpu"
    bf16: bool = False  # compute under autocast; weights stay as they are
    optimizer: str = "adamw"  # a key of optim.kinds.KINDS
    arguments: dict[str, Any] = field(default_factory=dict)  # of the optimizer
    rates: dict[str, float] = field(default_factory=dict)  # learning rates of modules that have their own, by name
    micro: int = 0  # samples a forward pass, where the source gives whole batches; 0 is all that a process has of one
    stepping: Stepping = field(default_factory=Stepping)  # but for `clip`, which is above
    ema_on_host: bool = False
    average_file: bool = True  # write the averaged weights beside each checkpoint
    dry: int = 0  # steps of a run that changes and writes nothing; 0 is a real one
    full_speed: float = 0.0  # images a second of a device that did nothing but products; 0 is unknown
    kept_casts: bool = True  # autocast keeps the narrow weights of a whole forward pass


def train(recipe: Recipe, options: Options, folder: Path, report: Callable[[Status], None], continue_from: Path | None = None,
          ranks: Ranks = ALONE, milestones: Sequence[Milestone] = ()) -> Status:
    """Train `recipe` in the run folder `folder` until done or told to stop by SIGTERM or Ctrl-C; both save first.

    `continue_from` is another run's folder to start from: its last checkpoint before the learning rate fell. Raises
    UserError naming the last good checkpoint when the loss or gradients are not finite or the loss explodes.
    """
    # Set up the training state.
    modules = recipe.modules.train()
    ranks.spread(modules, options.device)
    stepper = _stepper(modules, options)
    ema = Ema(modules, options.ema, options.ema_on_host)
    holders = {"modules": modules, "optimizer": stepper, "ema": ema, "recipe": recipe}
    checkpoints = folder / "checkpoints"

    # Load the last checkpoint, or another run's, and write down what is going to be done.
    place = resume.begin(holders, folder, recipe.source.identity, options.optimizer, ranks, continue_from)
    place.setdefault("steps", place["images"] // options.batch)
    saved = place["images"] if checkpoint.latest(checkpoints) else -1
    first_step, total = place["steps"], place["start_images"] + options.images
    window, health = Window(), Health(place, checkpoints)
    forward = ranks.forward(recipe)
    log = resume.open_log(folder, options, place["images"], ranks)
    for milestone in milestones if saved < 0 and not options.dry else ():
        if milestone.first:
            _reach(milestone, holders, place, last=False)
    window.begin()
    last_save = last_report = time.monotonic()

    with signals() as stop, prefetch(recipe.source.batches(options.seed, place["images"], options.batch)) as batches, log:
        while True:
            # Done?
            progress = _progress(place, options)
            stopped, ended = ranks.total([len(stop), stop.count(signal.SIGTERM)])
            if progress >= 1 or stopped or place["steps"] - first_step == options.dry > 0:
                outcome = "finished" if progress >= 1 else "interrupted" if stopped else "tried"
                break

            # Keep the point from which the run can be continued warm.
            if options.schedule.shape == "cooldown" and progress > 1 - options.schedule.cooldown and not place["cooled"]:
                place["cooled"] = True
                if not options.dry:
                    checkpoint.save(checkpoints, "before-cooldown", resume.capture(holders, place), options.keep, ranks)

            # Evaluate the loss and its gradients.
            started = time.monotonic()
            seed = _mix(options.seed, place["images"])
            torch.manual_seed(seed + ranks.number)
            recipe.progress = progress
            lr = stepper.begin(rate(options.schedule, place["images"] - place["start_images"], progress), seed)
            loss, whole = 0.0, 0
            for piece in pieces(batches, options.micro, ranks):
                whole = piece.whole
                with apart(forward, piece.last):
                    with torch.autocast(options.device, torch.bfloat16, options.bf16, options.kept_casts):
                        mean, numbers = forward(piece.batch)
                    loss += mean.item() * piece.share
                    if options.stepping.fused:  # the step is taken in the backward pass
                        health.finite(loss)
                    weight = stepper.take(piece.share) * ranks.count
                    if piece.share or ranks.count > 1:
                        (mean if weight == 1 else mean * weight).backward()
                window.note(numbers if piece.share else {})
            recipe.conclude(lambda rows, whole=whole: ranks.join(rows, whole))  # type: ignore[misc]

            # Run the optimizer.
            norm = stepper.norm()
            (loss,) = ranks.total([loss])
            health.check(loss, norm)
            stepper.step()

            # Update the average and the training state.
            place["images"] += whole
            place["steps"] += 1
            ema.update(modules, place["images"], whole)
            window.note({"gradient norm": norm})
            window.add(loss, whole)
            now = time.monotonic()
            seconds, report_due, save_due = ranks.lead([
                now - started, now - last_report >= options.report_seconds, now - last_save >= options.save_minutes * 60,
            ])  # fmt: skip
            place["seconds"] += seconds

            # Report status.
            if report_due:
                status = _busy(window.status(place, total, _progress(place, options), lr, ranks), options)
                resume.write(log, status)
                report(status)
                last_report = time.monotonic()

            # Do with the weights what is done every so often, then save a checkpoint.
            for milestone in milestones:
                if due(milestone.every, place["images"], whole) and _progress(place, options) < 1 and not options.dry:
                    window.pause(lambda milestone=milestone: _reach(milestone, holders, place, last=False))  # type: ignore[misc]
            if save_due and not options.dry:
                _save(holders, place, folder, options, ranks, milestones)
                saved, last_save = place["images"], time.monotonic()

        status = window.status(place, total, _progress(place, options), stepper.optimizer.param_groups[0]["lr"], ranks)
        number = 0 if outcome != "interrupted" else signal.SIGTERM if ended else signal.SIGINT
        status = _busy(replace(status, outcome=outcome, signal=int(number)), options)
        resume.write(log, status)
    if not options.dry and saved != place["images"]:
        _save(holders, place, folder, options, ranks, milestones)
    for milestone in milestones if outcome in ("finished", "tried") else ():
        _reach(milestone, holders, place, last=outcome == "finished")
    report(status)
    return status


def _stepper(modules: nn.ModuleDict, options: Options) -> Stepper:
    choice = Choice(options.optimizer, options.decay, options.arguments)
    parameters = groups(modules, options.lr, options.decay, options.rates)
    return Stepper(modules, choice, parameters, replace(options.stepping, clip=options.clip), bool(options.dry))


def due(every: int, images: int, step: int) -> bool:
    """Whether a step of `step` images that brought the run to `images` passed a multiple of `every`."""
    return every > 0 and images // every > (images - step) // every


def _progress(place: dict[str, Any], options: Options) -> float:
    return max((place["images"] - place["start_images"]) / options.images, place["seconds"] / (options.minutes * 60))


def _mix(seed: int, images: int) -> int:
    """A seed of its own for every step; the multiplier is SplitMix64's, so that neighbours differ in all bits."""
    return (seed * 0x9E3779B97F4A7C15 + images * 0xBF58476D1CE4E5B9) % 2**63


def _busy(status: Status, options: Options) -> Status:
    """With the share of the device's rate that its products took (MFU), where that is known."""
    more = {"MFU": status.speed / options.full_speed} if options.full_speed else {}
    return replace(status, numbers=status.numbers | more)


def _weights(holders: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of the trained part, or where no averages are kept the weights themselves."""
    weights: dict[str, Tensor] = holders["recipe"].weights(holders["ema"].of(holders["modules"]))
    return weights


def _reach(milestone: Milestone, holders: dict[str, Any], place: dict[str, Any], last: bool) -> None:
    with holders["optimizer"].averaged():
        milestone.reach(dict(place), _weights(holders), last)


def _save(holders: dict[str, Any], place: dict[str, Any], folder: Path, options: Options, ranks: Ranks,
          milestones: Sequence[Milestone]) -> None:  # fmt: skip
    """A numbered checkpoint, and beside it the averaged weights for drawing."""
    for milestone in milestones:
        milestone.wait()
    checkpoint.save(folder / "checkpoints", f"{place['images']:012d}", resume.capture(holders, place), options.keep, ranks)
    if options.average_file and ranks.first:
        with holders["optimizer"].averaged():
            checkpoint.save_tensors(folder / "weights.safetensors", _weights(holders), {"images": str(place["images"])})
