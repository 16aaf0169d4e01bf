"""What a run is told: presets and recipes as TOML, laid over each other, as frozen dataclasses; bad mixes are refused.

`like` in a preset names another that it changes. `recipe` names a file of what the published model card leaves open. A setting
counts in this order: -s on the command line, the preset, the preset that it is like, the recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sotediffusion.config import build, override, read_toml
from sotediffusion.names import unknown
from sotediffusion.train.adapters import LoraSettings
from sotediffusion.train.inversion import EmbeddingSettings
from sotediffusion.train.loss import Objective
from sotediffusion.train.opening import DataSettings
from sotediffusion.types import UserError

UNITS = ("images", "steps", "epochs")
PARTS = ("stage_c", "stage_b")
NAME_FIELDS = ("name", "images", "steps", "epoch")


@dataclass(frozen=True)
class Training:
    """What is trained, how long and how fast. `epochs`, `images` or `steps` says when it ends; `minutes` may end it sooner."""

    part: Literal["stage_c", "stage_b"] = "stage_c"
    lr: float = 1e-5  # of the part; 0 leaves it as it is
    text_lr: float = 0.0  # of the text encoder; 0 leaves it as it is
    batch: int = 128  # samples a step, of all processes together
    micro: int = 0  # samples a process runs forward at a time; 0 is all its share of a step
    epochs: float = 0
    images: int = 0
    steps: int = 0
    minutes: float = 0
    seed: int = 0
    clip: float = 1.0  # largest norm of the gradients; 0 is none
    ema: float = 0  # half-life in images of the averaged weights, which are what is saved; 0 keeps no averages
    dropout: float | None = None  # of the network; none is its own

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each part that may learn, 0 where it does not."""
        return {"text": self.text_lr, self.part: self.lr}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that a step runs."""
        return ("stage_c", "text", "effnet") if self.part == "stage_c" else ("stage_b", "text", "effnet", "stage_a")


@dataclass(frozen=True)
class OptimizerSettings:
    """A key of optim.kinds.KINDS, its weight decay, and arguments of its own."""

    kind: str = "adafactor"
    decay: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleSettings:
    """A key of optim.schedule.SHAPES; `warmup` is a number of images, or as "500 steps" or "0.1 epochs"."""

    shape: str = "constant"
    warmup: str | int = 0
    restarts: int = 0
    cooldown: float = 0.25  # share of the run
    floor: float = 0.0  # lowest share of the rate


@dataclass(frozen=True)
class Precision:
    """`weights` are the trained ones, `frozen` those of networks that are only used, `compute` what layers compute in."""

    compute: Literal["bfloat16", "float32"] = "bfloat16"
    weights: Literal["float32", "bfloat16"] = "float32"
    rounding: Literal["nearest", "stochastic"] = "nearest"  # of bfloat16 weights
    frozen: Literal["float32", "bfloat16"] = "bfloat16"
    tf32: bool = True  # where layers compute in float32 on a GPU


@dataclass(frozen=True)
class Memory:
    """What is given for memory: time, or the joint norm of gradients."""

    recompute: tuple[Literal["residual", "attention", "text"], ...] = ()  # blocks whose insides are computed again for gradients
    recompute_share: float = 1.0  # of those blocks
    fused: bool = False  # gradients are used up in the backward pass, each clipped by itself
    gather: Literal["device", "host"] = "device"  # where gradients add up over micro-batches
    average: Literal["device", "host"] = "device"  # where averaged weights are kept
    compile: str = ""  # a backend of torch.compile for the blocks, such as inductor


@dataclass(frozen=True)
class Saving:
    """Models are saved as `pattern` every so often and as `final` at the end, states to resume from apart from them.

    `every` is as "5000 steps", "1 epoch" or a number of images, 0 is at the end only. Names are made of {name}, {images},
    {steps} and {epoch}, and may give a width as in {images:09d}.
    """

    every: str | int = 0
    pattern: str = "{name}-{images:09d}"
    final: str = "{name}"
    format: str = "folder"  # of `sote weights convert`
    dtype: str = "float16"
    state_minutes: float = 30  # between states
    states: int = 2  # that are kept
    report_seconds: float = 10  # between lines of stats.jsonl


@dataclass(frozen=True)
class Validating:
    """The loss of pictures that data.held_out keeps from training, every so often as in `save.every`, and at the start."""

    every: str | int = "1 epoch"
    samples: int = 256  # of them, at most
    readings: int = 4  # noise levels of each


@dataclass(frozen=True)
class Drawing:
    """Pictures drawn with the weights as they are, every so often as in `save.every`, at the start and at the end."""

    prompts: str | tuple[str, ...] = ()  # kohya's file of sample prompts, or such lines
    every: str | int = "1 epoch"


@dataclass(frozen=True)
class Log:
    """Where numbers and pictures go besides the run's folder. TensorBoard's files lie in it and need nothing installed."""

    to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    project: str = "sotediffusion"


@dataclass(frozen=True)
class Distributed:
    """How several processes share a run."""

    sharding: Literal["ddp", "fsdp"] = "ddp"  # each holds all weights, or its rows of them
    minutes: float = 60  # that one waits for another before it gives up


@dataclass(frozen=True)
class Settings:
    """All of it."""

    recipe: str = "default"
    name: str = "model"
    text_mask: Literal["masked", "unmasked", "model"] = "model"  # what the text tower sees of padding; kept as the model has it
    train: Training = Training()
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = ScheduleSettings()
    objective: Objective = Objective()
    precision: Precision = Precision()
    memory: Memory = Memory()
    lora: LoraSettings = LoraSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    save: Saving = Saving()
    validate: Validating = Validating()
    draw: Drawing = Drawing()
    log: Log = Log()
    distributed: Distributed = Distributed()
    data: DataSettings = DataSettings()

    @property
    def beside(self) -> bool:
        """Whether the model's own weights stay as they are, and what learns stands beside them."""
        return bool(self.lora.rank or self.embedding.vectors)


def resolve(preset: str, assignments: Sequence[str], folder: Path) -> Settings:
    """The settings of a preset by name in `folder`, or of a TOML file, `section.key=value` on top. UserError: unknown names."""
    values = _read(preset, folder)
    given = override({}, assignments)
    recipe = str(given.get("recipe", values.get("recipe", "default")))
    recipes = _names(folder / "recipes")
    if recipe not in recipes:
        raise unknown("recipe", recipe, recipes)
    layered = _over(read_toml(folder / "recipes" / f"{recipe}.toml"), values)
    return build(Settings, override(layered, assignments))


def presets(folder: Path) -> list[str]:
    """Their names."""
    return _names(folder)


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def _read(preset: str, folder: Path) -> dict[str, Any]:
    path = Path(preset) if preset.endswith(".toml") else folder / f"{preset}.toml"
    if not preset.endswith(".toml") and preset not in _names(folder):
        raise unknown("preset", preset, _names(folder))
    values = read_toml(path)
    like = values.pop("like", None)
    return values if like is None else _over(_read(str(like), folder), values)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with those of `above` on top, key by key."""
    result = dict(below)
    for key, value in above.items():
        known = result.get(key)
        result[key] = _over(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def images_of(field_name: str, amount: str | int, batch: int, epoch: int) -> int:
    """Images of an amount such as 20000, "500 steps", "1 epoch", from the start of a run on. UserError: anything else."""
    if isinstance(amount, int):
        return amount
    number, _, unit = amount.strip().partition(" ")
    unit = unit.strip()
    unit = unit if unit.endswith("s") else f"{unit}s"
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or unit not in UNITS:
        raise UserError(field_name, f"{amount!r} is no amount; write for example 20000, '500 steps' or '1 epoch'")
    return images_in(round(value), batch, epoch) if unit == "steps" else round(value * (epoch if unit == "epochs" else 1))


def images_in(steps: int, batch: int, epoch: int) -> int:
    """Images of the first steps of a run; the last step of an epoch is as small as what is left for it."""
    epochs, rest = divmod(steps, -(-epoch // batch))
    return epochs * epoch + rest * batch


def length(training: Training, epoch: int) -> int:
    """Images of the run."""
    return round(training.epochs * epoch) or training.images or images_in(training.steps, training.batch, epoch)


def epoch_of(settings: Settings, samples: int) -> int:
    """Images of an epoch of so many samples: with those that fill up its last step, where that is wanted."""
    batch = settings.train.batch
    return -(-samples // batch) * batch if settings.data.last == "fill" else samples
