"""Settings that cannot hold together, each said in one sentence before a model or a picture is opened."""

from string import Formatter

import torch

from sotediffusion.names import unknown
from sotediffusion.train import captions
from sotediffusion.train.optim import schedule
from sotediffusion.train.optim.kinds import Choice, Kind
from sotediffusion.train.optim.rounding import check_rate
from sotediffusion.train.optim.stepping import Stepping
from sotediffusion.train.settings import NAME_FIELDS, Saving, Settings, Training, images_of, length
from sotediffusion.types import UserError
from sotediffusion.weights.store import DTYPES, FORMATS

EXAMPLE = {"name": "model", "images": 1, "steps": 1, "epoch": 1}


def check(settings: Settings, ranks: int) -> None:
    """Raise UserError for the first contradiction, for a run of `ranks` processes."""
    _check_training(settings.train, ranks)
    kind = _check_optimizer(settings)
    schedule.check(schedule_of(settings, 1))
    settings.objective.check()
    captions.check(settings.data.captions)
    share = -(-settings.train.batch // ranks)
    micro_batches = -(-share // settings.train.micro) if settings.train.micro else 1
    stepping_of(settings).check(kind, settings.optimizer.kind, micro_batches, ranks)
    for name in ("lr", "text_lr"):
        by_chance = settings.precision.rounding == "stochastic"
        check_rate(f"train.{name}", getattr(settings.train, name), DTYPES[settings.precision.weights], by_chance)
    _check_memory(settings, ranks)
    _check_beside(settings, ranks)
    _check_saving(settings.save)


def schedule_of(settings: Settings, epoch: int) -> schedule.Schedule:
    """The schedule in images, for epochs of `epoch` images."""
    own = settings.schedule
    warmup = images_of("schedule.warmup", own.warmup, settings.train.batch, epoch)
    return schedule.Schedule(own.shape, warmup, own.cooldown, own.floor, own.restarts)


def notes(settings: Settings, epoch: int) -> list[str]:
    """What holds together and may yet not be meant, for epochs of `epoch` images."""
    warmup, images = schedule_of(settings, epoch).warmup, length(settings.train, epoch)
    if warmup <= images / 2:
        return []
    return [f"the rate rises over the first {warmup} images and the run has {images}; give a shorter schedule.warmup, or 0"]


def stepping_of(settings: Settings) -> Stepping:
    """How gradients become a step."""
    precision = settings.precision
    rounding = precision.rounding if precision.weights == "bfloat16" else "nearest"
    return Stepping(settings.train.clip, settings.memory.fused, settings.memory.gather, rounding)


def _check_training(own: Training, ranks: int) -> None:
    ends = [name for name in ("epochs", "images", "steps") if getattr(own, name)]
    if len(ends) != 1:
        given = f"{' and '.join(ends)} are all given" if ends else "nothing says when the run ends"
        raise UserError("train", f"{given}; give one of train.epochs, train.images and train.steps")
    for name in ("epochs", "images", "steps", "minutes", "lr", "text_lr", "micro", "clip", "ema"):
        if getattr(own, name) < 0:
            raise UserError(f"train.{name}", f"{getattr(own, name):g} is below 0; give 0 or more")
    if own.batch < ranks:
        raise UserError("train.batch", f"{own.batch} samples a step are not enough for {ranks} processes; give at least one each")
    if not own.lr and not own.text_lr:
        raise UserError("train.lr", "nothing is trained at rates of 0; give train.lr or train.text_lr")
    if own.part == "stage_b" and (own.text_lr or not own.lr):
        raise UserError("train.text_lr", "Stage B is trained alone, on a text encoder that stays as it is; give train.lr only")
    if own.dropout is not None and not 0 <= own.dropout < 1:
        raise UserError("train.dropout", f"{own.dropout:g} is no share; give 0 or more and less than 1")


def _check_optimizer(settings: Settings) -> Kind:
    own, training = settings.optimizer, settings.train
    choice = Choice(own.kind, own.decay, own.arguments)
    kind = choice.check(min(lr for lr in (training.lr, training.text_lr) if lr))
    if kind.averages and (training.ema or settings.schedule.shape != "constant"):
        raise UserError("optimizer.kind", f"{own.kind} averages weights by itself and needs no falling rate; set train.ema=0 and "
                                          "schedule.shape=constant")
    return kind


def _check_memory(settings: Settings, ranks: int) -> None:
    own, spread = settings.memory, settings.distributed.sharding == "fsdp" and ranks > 1
    if not 0 < own.recompute_share <= 1:
        raise UserError("memory.recompute_share", f"{own.recompute_share:g} is no share; give more than 0 and at most 1")
    if settings.precision.weights == "bfloat16" and ranks > 1:
        raise UserError("precision.weights", f"bfloat16 weights are for one process; with {ranks} take float32 ones and "
                                             "distributed.sharding=fsdp, which spares more")
    if spread and settings.optimizer.kind not in ("adafactor", "adamw"):
        raise UserError("optimizer.kind", f"{settings.optimizer.kind} does not know weights that are spread over processes; take "
                                          "adafactor or adamw, or distributed.sharding=ddp")
    if spread and own.average == "host":
        raise UserError("memory.average", "averages of weights that are spread over processes stay with them; give "
                                         "-s memory.average=device")
    backends = torch.compiler.list_backends(exclude_tags=()) if own.compile else []
    if own.compile and own.compile not in backends:
        raise unknown("memory.compile", own.compile, backends)


def _check_beside(settings: Settings, ranks: int) -> None:
    """What learns beside a model's own weights: a LoRA, or an embedding."""
    settings.lora.check()
    settings.embedding.check()
    if not settings.beside:
        return
    what = "a LoRA" if settings.lora.rank else "an embedding"
    if settings.lora.rank and settings.embedding.vectors:
        raise UserError("embedding.vectors", "a LoRA is trained too; set lora.rank=0, or embedding.vectors=0, one at a time")
    if settings.train.part != "stage_c":
        raise UserError("train.part", f"{what} is for Stage C and the text encoder, not for Stage B; take stage_c")
    if settings.embedding.vectors and (settings.train.lr or not settings.train.text_lr):
        raise UserError("train.lr", "an embedding learns at train.text_lr, and Stage C stays as it is; set train.lr=0")
    if settings.distributed.sharding == "fsdp" and ranks > 1:
        raise UserError("distributed.sharding", f"{what} is small enough for each process to hold all of it; take ddp")
    if settings.memory.compile:
        raise UserError("memory.compile", f"{settings.memory.compile} cannot compile blocks that have {what}; leave it out")
    if settings.precision.weights != "float32":
        raise UserError("precision.weights", f"{what} is trained in float32, not in {settings.precision.weights}; of what kind "
                                             "the model's own weights are says precision.frozen")


def _check_saving(own: Saving) -> None:
    if own.format not in FORMATS:
        raise unknown("save.format", own.format, FORMATS)
    if own.dtype not in DTYPES:
        raise unknown("save.dtype", own.dtype, DTYPES)
    images_of("save.every", own.every, 1, 1)
    for name in ("pattern", "final"):
        check_pattern(f"save.{name}", getattr(own, name))
    if own.every and own.pattern.format(**EXAMPLE) == own.pattern.format(**EXAMPLE | {"images": 2, "steps": 2, "epoch": 2}):
        raise UserError("save.pattern", f"{own.pattern!r} would give every model the same name; put {{images}}, {{steps}} or "
                                        "{epoch} into it")


def check_pattern(name: str, pattern: str) -> None:
    """UserError unless a pattern is a plain file name made of fields that are known."""
    try:
        fields = [part[1] for part in Formatter().parse(pattern) if part[1] is not None]
        wrong = next((field for field in fields if field not in NAME_FIELDS), None)
        if wrong is not None:
            raise unknown(name, wrong, NAME_FIELDS)
        made = pattern.format(**EXAMPLE)
    except ValueError as error:
        raise UserError(name, f"{pattern!r} is no pattern ({error}); write for example {{name}}-{{images:09d}}") from None
    if not made or "/" in made or made.startswith("."):
        raise UserError(name, f"{pattern!r} is no plain file name; leave out slashes and a leading dot")
