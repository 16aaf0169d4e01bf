"""A whole run: a model is opened, data is made ready for it, the loop trains it, models are saved."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sotediffusion.config import to_toml
from sotediffusion.limits import size_of_area
from sotediffusion.models.cascade import Cascade, Conventions
from sotediffusion.train import checkpoint, opening, resume
from sotediffusion.train.contradictions import check, notes, schedule_of, stepping_of
from sotediffusion.train.distributed import ALONE, Ranks
from sotediffusion.train.export import MODELS, Export, clear_up
from sotediffusion.train.fit import Faults
from sotediffusion.train.inversion import Words
from sotediffusion.train.loop import Options, train
from sotediffusion.train.memory import set_dropout, spare
from sotediffusion.train.opening import Makers
from sotediffusion.train.order import Ranks as Rows
from sotediffusion.train.recipes.finetune_b import FinetuneB
from sotediffusion.train.recipes.finetune_c import FinetuneC
from sotediffusion.train.recipes.inversion import Inversion
from sotediffusion.train.recipes.lora import LoraC, adapters_of
from sotediffusion.train.settings import Settings, epoch_of, images_of, length
from sotediffusion.train.small_export import SmallExport
from sotediffusion.train.status import Status
from sotediffusion.train.stream import Stream
from sotediffusion.train.watching import Watch
from sotediffusion.types import UserError
from sotediffusion.weights.reading import Where
from sotediffusion.weights.store import DTYPES, open_cascade

CELL = 32  # px that EffNet sees in a latent cell
DRY_STEPS = 2
Progress = Callable[[str, int, int], None]  # what is being prepared, how much is done, of how much


@dataclass(frozen=True)
class Order:
    """What a run is asked to be; `data` is a catalogue, kohya's folder, its dataset.toml or metadata JSON."""

    settings: Settings
    data: str
    model: Where
    out: Path
    device: str = "cpu"
    dry: bool = False
    continue_from: Path | None = None


def run(order: Order, report: Callable[[Status], None], progress: Progress, ranks: Ranks = ALONE,
        note: Callable[[str], None] = lambda text: None) -> Status:  # fmt: skip
    """Train as `order` says until done or told to stop; the same order again goes on. `note` is told what is worth knowing.

    UserError: contradicting settings, before anything is opened; a model or data that cannot be trained.
    """
    settings, rows = order.settings, Rows(ranks.number, ranks.count, order.settings.train.micro or None)
    check(settings, ranks.count)
    watch = Watch(settings, order.out, order.device, order.dry, ranks)
    if order.device == "cuda":
        torch.set_float32_matmul_precision("high" if settings.precision.tf32 else "highest")
    data = opening.read_data(order.data, settings.data, str(order.out / "data"))
    watch.check(data)
    cascade = open_model(order, ranks)
    made, latents = makers(cascade, settings), str(order.out / "latents")
    # A first stream, without latents: of a dry run the few pictures that are seen are encoded, for another it tells early whether
    # this is still the run that lies in its folder.
    stream = opening.open_data(data, replace(settings.data, online=True), made, latents, rows)
    recipe = recipe_of(cascade, settings, stream)
    epoch = epoch_of(settings, len(stream))
    options = options_of(order, epoch)
    opening.check_cache(settings.data, made, latents)
    resume.check(recipe, order.out, options, order.continue_from)
    if ranks.first:
        said = (*watch.notes, *_mask_notes(cascade, settings), *data.samples.notes, *stream.notes(settings.train.batch))
        for text in (*said, *notes(settings, epoch)):
            note(text)
    lend(cascade, settings, order.device)
    left_out: dict[str, str] = {}
    if not order.dry:
        faults = opening.prepare(data, settings.data, made, latents, rows, progress)
        left_out = _tell(faults, {}, ranks, note)  # all latents are there
        recipe.source = stream = opening.open_data(data, settings.data, made, latents, rows)
    if ranks.first and not order.dry:
        order.out.mkdir(parents=True, exist_ok=True)
        clear_up(order.out / MODELS)
        checkpoint.replace_file(order.out / "settings.toml", lambda path: path.write_text(to_toml(settings)))
    options = replace(options, full_speed=watch.full_speed(cascade, data))
    every = images_of("save.every", settings.save.every, settings.train.batch, epoch)
    base = replace(cascade, conventions=recipe.conventions, name=settings.name)
    if isinstance(recipe, Inversion):
        base = replace(base, tokenizer=recipe.words.tokenizer)
    if isinstance(recipe, LoraC | Inversion):
        export: Any = SmallExport(cascade, recipe, settings, order.out, every, epoch, ranks)
    else:
        export = Export(base, settings.save, order.out, every, epoch, ranks)
    milestones = [*watch.milestones(recipe, base, data, made, epoch), *([] if order.dry else [export])]
    try:
        status = train(recipe, options, order.out, watch.report(report), order.continue_from, ranks, milestones)
    finally:
        watch.close()
    _tell(stream.faults, left_out, ranks, note)
    return status


def _tell(faults: Faults, known: dict[str, str], ranks: Ranks, note: Callable[[str], None]) -> dict[str, str]:
    """Note what could not be read in any process, but for what is known; all that is known then."""
    found = {path: reason for own in ranks.gather(faults.found) for path, reason in own.items() if path not in known}
    if found:
        note(Faults(len(found), faults.what, found).sentence())
    return known | found


def open_model(order: Order, ranks: Ranks) -> Cascade:
    """The cascade, what is trained in its type, the rest as it is used; parts that this process does not need are left out."""
    settings = order.settings
    cascade = open_cascade(order.model)
    if cascade.effnet is None:
        raise UserError("model", "has no EffNet encoder to make latents with; add effnet_encoder.safetensors by --effnet")
    _check_scale(settings, cascade.conventions)
    _check_mask(settings, cascade.conventions)
    for name, network in cascade.parts().items():
        network.requires_grad_(name in _moved(settings))
        if name in _moved(settings):
            network.to(DTYPES[settings.precision.weights])
        elif name in settings.train.parts:
            network.to(torch.float32 if name == "effnet" else DTYPES[settings.precision.frozen])
        elif not ranks.first:  # which alone saves models
            network.to("meta")
        if settings.train.rates.get(name, 0) > 0:
            set_dropout(network, settings.train.dropout)
        spare(network, settings.memory)
    return cascade


def lend(cascade: Cascade, settings: Settings, device: str) -> None:
    """Move what is used and not trained to the device; what is trained the loop moves."""
    for name in settings.train.parts:
        if name not in _moved(settings):
            getattr(cascade, name).to(device)


def _moved(settings: Settings) -> set[str]:
    """The parts whose own weights are trained."""
    return set() if settings.beside else {name for name, rate in settings.train.rates.items() if rate > 0}


def makers(cascade: Cascade, settings: Settings) -> Makers:
    """What data is made with."""
    assert cascade.effnet is not None
    fields = ("effnet",) if settings.train.part == "stage_c" else ("pictures",)
    return Makers(cascade.effnet, cascade.tokenizer, conventions_of(cascade, settings).text_mask, fields)


def conventions_of(cascade: Cascade, settings: Settings) -> Conventions:
    """What the weights will expect after this run: the model's own but for padding, the area trained on in px drawn, and the
    size drawn when none is asked for, which goes along. Stage B's data decide on neither, as what is in a picture is Stage C's.
    """
    own, buckets = cascade.conventions, settings.data.buckets
    mask = own.text_mask if settings.text_mask == "model" else settings.text_mask
    if settings.train.part == "stage_b":
        return replace(own, text_mask=mask)
    area = round(buckets.area * own.compression * own.compression / (CELL * CELL))  # one px that EffNet sees is several drawn
    width, height = size_of_area(own.width, own.height, area)
    return replace(own, text_mask=mask, area=area, width=width, height=height)


def _check_scale(settings: Settings, conventions: Conventions) -> None:
    """UserError where latents would stand for another number of pixels than the model draws from them."""
    scale = settings.data.buckets.scale
    if settings.recipe != "kohya" and abs(CELL / scale - conventions.compression) > 0.5:
        raise UserError("data.buckets.scale", f"{scale:g} makes a latent cell of {CELL / scale:.4g} px where the model draws "
                                              f"{conventions.compression:g}; set it to {CELL / conventions.compression:.3g}")


def _check_mask(settings: Settings, conventions: Conventions) -> None:
    """UserError where Stage B would be trained on what its text encoder, which stays as it is, does not say when drawing."""
    if settings.train.part == "stage_b" and settings.text_mask not in ("model", conventions.text_mask):
        raise UserError("text_mask", f"Stage B listens to a text encoder that stays as it is, and this model's is told of "
                                     f"padding as {conventions.text_mask}, not {settings.text_mask}; give -s text_mask=model")


def _mask_notes(cascade: Cascade, settings: Settings) -> list[str]:
    """That the model will be told otherwise of padding than it was made with, where it is so."""
    before, now = cascade.conventions.text_mask, conventions_of(cascade, settings).text_mask
    what = "files for it that say so" if settings.beside else "a model that says so"
    return [] if before == now else [f"{cascade.name or 'the model'} was made with text_mask={before} and is trained with {now}, "
                                     f"which makes {what}; -s text_mask=model keeps {before}"]


def recipe_of(cascade: Cascade, settings: Settings, stream: Stream) -> Any:
    """The recipe of the part that is trained."""
    conventions = conventions_of(cascade, settings)
    if settings.lora.rank:
        adapters = adapters_of(cascade, settings.lora, settings.train.rates, settings.train.seed)
        return LoraC(cascade, adapters, stream, settings.objective, conventions)
    if settings.embedding.vectors:
        words = Words(cascade.text, cascade.tokenizer, settings.name, settings.embedding)
        return Inversion(cascade, words, stream, settings.objective, conventions)
    if settings.train.part == "stage_c":
        return FinetuneC(cascade.stage_c, cascade.text, stream, settings.objective, conventions)
    frozen: Any = {"text": cascade.text, "effnet": cascade.effnet, "stage_a": cascade.stage_a}
    return FinetuneB(cascade.stage_b, frozen, stream, settings.objective, conventions)


def options_of(order: Order, epoch: int) -> Options:
    """The loop's options for epochs of `epoch` images."""
    settings, own = order.settings, order.settings.train
    return Options(
        images=length(own, epoch), batch=own.batch, lr=own.lr or own.text_lr, minutes=own.minutes or float("inf"), seed=own.seed,
        decay=settings.optimizer.decay, clip=own.clip, ema=own.ema, schedule=schedule_of(settings, epoch),
        save_minutes=settings.save.state_minutes, keep=settings.save.states, report_seconds=settings.save.report_seconds,
        device=order.device,
        bf16=settings.precision.compute == "bfloat16", optimizer=settings.optimizer.kind, arguments=settings.optimizer.arguments,
        rates={name: lr for name, lr in own.rates.items() if lr}, stepping=stepping_of(settings),
        ema_on_host=settings.memory.average == "host", average_file=False, dry=DRY_STEPS if order.dry else 0,
        kept_casts=not settings.memory.recompute,
    )  # fmt: skip
