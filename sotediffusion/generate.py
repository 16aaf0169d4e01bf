"""Drawing: prepare runs, step those that share a forward, finish them into pictures; `generate` is the loop over that.

B runs in a forward, G of them guided; h w prior cells, H W Stage B cells (a quarter of the picture's side).
"""

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .conditioning import encode_pair
from .diffusion.guidance import combine, plan_rows, repeat_guided
from .diffusion.prediction import noise_of
from .diffusion.samplers import SAMPLERS, Trajectory, advance, trajectory
from .diffusion.schedule import SCHEDULES, alpha_sigma, grid
from .limits import validate
from .models.cascade import Cascade
from .models.unet import Conditioning
from .offload import offload_blocks
from .pictures.decode import open_picture
from .pictures.marks import mark
from .safety.policy import check_request
from .safety.provenance import stamp
from .text.prompt import expand_wildcards
from .types import Event, Picture, Request, UserError
from .weights.embeddings import read as read_embedding
from .weights.embeddings import with_words
from .weights.lora import warn_of_mask
from .weights.lora_sets import LoraSet, wear

STAGE_C, STAGE_B, DONE = "stage c", "stage b", "done"
NOISY = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "lcm")  # draw noise at every step, as diffusers does at the last one too
Noise = Callable[[tuple[int, ...], torch.dtype], Tensor]


@dataclass(eq=False)
class Run:
    """One picture on its way: everything that is its own, so that it comes out the same alone or in a crowd."""

    request: Request  # with size, compression and seed settled and wildcards chosen
    noise: Noise
    text: Tensor  # (2, L, D) hidden states of the prompt and of the negative
    pooled: Tensor  # (2, 1, P)
    phase: str = STAGE_C
    index: int = 0  # steps done in this phase
    x: Tensor | None = None  # (1, c, h, w)
    history: Tensor | None = None  # the last step's x0, (1, c, h, w)
    trajectory: Trajectory | None = None
    cond: list[Conditioning] = field(default_factory=list)  # the prompt's, and the negative's when guided
    latent: Tensor | None = None  # (1, 16, h, w) what Stage C drew
    image: Tensor | None = None  # (1, I, c_image) CLIP image embeddings to follow
    last: str = STAGE_B  # the phase after which the run is done
    crowd: tuple[list[Conditioning], Conditioning] | None = None  # whose the batch was that this run last led, and the batch
    worn: LoraSet = field(default_factory=LoraSet)
    words: tuple[dict[str, Any], ...] = ()  # name and hash of each embedding

    @property
    def key(self) -> tuple[Any, ...]:
        """Runs with equal keys share forwards: phase, latent shape, and the LoRA in the network of the phase.

        Steps, samplers and guidance are per row.
        """
        worn = self.worn.key if self.phase == STAGE_C and "stage_c" in self.worn.networks else ()
        return self.phase, None if self.x is None else tuple(self.x.shape[1:]), *worn

    @property
    def guidance(self) -> float:
        """Of the phase the run is in."""
        return self.request.guidance if self.phase == STAGE_C else self.request.decoder_guidance

    @property
    def sampler(self) -> str:
        """Of the phase the run is in."""
        return self.request.sampler if self.phase == STAGE_C else self.request.decoder_sampler

    @property
    def steps(self) -> int:
        """Of the phase the run is in."""
        return 0 if self.trajectory is None else self.trajectory.steps


@torch.inference_mode()
def prepare(cascade: Cascade, request: Request, noises: Sequence[Noise] | None = None) -> list[Run]:
    """Turns an order into `count` runs, ready for their first step.

    `noises` replaces the noise of each run's own seed. UserError: anything that cannot or must not be drawn.
    """
    validate(request, SAMPLERS, SCHEDULES)
    worn = dressed(cascade, request)
    _check_words(request, worn)
    request = settle(cascade, request)
    tower, tokenizer, words = _listener(cascade, request, worn)
    texts: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}  # without wildcards all pictures say the same
    runs = []
    for i in range(request.count):
        seed = (request.seed or 0) + i
        own = replace(
            request, seed=seed, count=1,
            prompt=expand_wildcards(request.prompt, seed), negative=expand_wildcards(request.negative, seed, "negative"),
        )  # fmt: skip
        _check_words(own, worn)
        noise = noises[i] if noises is not None else own_noise(seed)
        mask = cascade.conventions.text_mask
        said = own.prompt, own.negative
        if said not in texts:
            texts[said] = encode_pair(cascade.use("text", tower), tokenizer, *said, mask)
        runs.append(Run(own, noise, *texts[said], worn=worn, words=words))
    for run in runs:
        start_prior(cascade, run)
    return runs


def dressed(cascade: Cascade, request: Request) -> LoraSet:
    """The networks with the LoRA asked for, working where the model's own do. UserError: a file that is none, or does not fit."""
    worn = wear(cascade, request.loras)
    for part, network in worn.networks.items():
        _work_as(network, getattr(cascade, part))
    return worn


def _work_as(network: Any, other: Any) -> None:
    device = vars(other).get("works_on")
    if device is not None and "works_on" not in vars(network):
        offload_blocks(network, device)


def _listener(cascade: Cascade, request: Request, worn: LoraSet) -> tuple[Any, Any, tuple[dict[str, Any], ...]]:
    """The text tower, None for the model's own, and the tokenizer that know the embeddings asked for; what is told of these."""
    tower = worn.networks.get("text")
    if not request.embeddings:
        return tower, cascade.tokenizer, ()
    embeddings = [read_embedding(path) for path in request.embeddings]
    for one in embeddings:
        warn_of_mask(one.name, one.text_mask, cascade)
    tower, tokenizer = with_words(tower or cascade.text, cascade.tokenizer, embeddings)
    _work_as(tower, cascade.text)
    return tower, tokenizer, tuple({"name": one.name, "hash": one.digest} for one in embeddings)


def _check_words(request: Request, worn: LoraSet) -> None:
    """Ask the policy, to which what LoRA are called counts as said; of those below 0 as avoided."""
    prompt = f"{request.prompt}, {worn.words}" if worn.words else request.prompt
    negative = f"{request.negative}, {worn.avoided}" if worn.avoided else request.negative
    check_request(prompt, negative, request.guidance, request.decoder_guidance)


def settle(cascade: Cascade, request: Request) -> Request:
    """Fills in what the order leaves to the model: size, compression, and a seed."""
    own = cascade.conventions
    return replace(
        request,
        width=request.width or own.width,
        height=request.height or own.height,
        compression=request.compression or own.compression,
        seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
    )


def own_noise(seed: int) -> Noise:
    """Noise that depends on the seed alone: drawn on the CPU, so that every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape, dtype: torch.randn(shape, generator=generator, dtype=dtype)


def prior_cells(request: Request) -> tuple[int, int]:
    """Height and width of the Stage C latent."""
    assert request.width and request.height and request.compression
    return math.ceil(request.height / request.compression), math.ceil(request.width / request.compression)


def start_prior(cascade: Cascade, run: Run) -> None:
    """Sets a run at the first step of Stage C: from noise, or from a given picture noised up to `strength`."""
    request, network = run.request, cascade.use("stage_c", run.worn.networks.get("stage_c"))
    strength = request.strength if request.init is not None else 1.0
    levels = grid(request.schedule, request.steps, request.shift, strength)
    run.trajectory = trajectory(request.sampler, levels, cascade.conventions.time_condition)
    run.x = _noise(run, (1, network.config.c_latent, *prior_cells(request)), run.text)
    if request.init is not None:
        a, b = (part.item() for part in alpha_sigma(levels.log_snr[0]))
        run.x = a * encode_picture(cascade, request).to(run.x) + b * run.x
    rows = slice(0, 2 if request.guidance > 1 else 1)
    image = None if run.image is None else torch.cat([run.image, torch.zeros_like(run.image)])[rows]
    dtype = network.clip_txt_mapper.weight.dtype  # the text tower's may be another
    text, pooled, image = (part if part is None else part.to(dtype) for part in (run.text[rows], run.pooled[rows], image))
    run.cond = split_rows(network.condition(text, pooled, image))


def encode_picture(cascade: Cascade, request: Request) -> Tensor:
    """The given picture as a Stage C latent (1, 16, h, w)."""
    if cascade.effnet is None:
        raise UserError("init", "these weights have no EffNet encoder; add effnet_encoder.safetensors by --effnet")
    assert request.init is not None
    network = cascade.use("effnet")
    h, w = prior_cells(request)
    picture = open_picture(request.init, field="init").resize((w * 32, h * 32), Image.Resampling.LANCZOS)
    weight = next(network.parameters())
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, h * 32, w * 32, 3)
    return network(pixels.permute(0, 3, 1, 2).to(weight) / 255)


def start_decoder(cascade: Cascade, run: Run) -> None:
    """Sets a run whose prior is drawn at the first step of Stage B."""
    request, network = run.request, cascade.use("stage_b")
    assert run.x is not None and request.height and request.width
    run.phase, run.index, run.history, run.crowd, run.latent = STAGE_B, 0, None, None, run.x
    levels = grid(request.decoder_schedule, request.decoder_steps, request.decoder_shift)
    run.trajectory = trajectory(request.decoder_sampler, levels, cascade.conventions.time_condition)
    size = (request.height // 4, request.width // 4)
    run.x = _noise(run, (1, network.config.c_latent, *size), run.text)
    dtype = network.clip_mapper.weight.dtype
    effnet, pooled = run.latent.to(dtype), run.pooled.to(dtype)
    if request.decoder_guidance > 1:
        effnet = torch.cat([effnet, torch.zeros_like(effnet)])  # the reference's negative has no picture to follow
    cond = network.condition(effnet, pooled[: len(effnet)], size, layout=cascade.conventions.prior_layout)
    run.cond = split_rows(cond)


def split_rows(cond: Conditioning) -> list[Conditioning]:
    """One conditioning per row of a batch."""
    key = cond.keys[0]
    return [cond.rows(torch.tensor([i], device=key.device)) for i in range(len(key))]


def _noise(run: Run, shape: tuple[int, ...], like: Tensor) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return run.noise(shape, dtype).to(like.device)


@torch.inference_mode()
def step(cascade: Cascade, runs: Sequence[Run]) -> None:
    """Takes one step with runs that share a key: one forward, after which each run advances by its own sampler.

    A run whose phase is over is put at the start of the next one, or is DONE.
    """
    prior = runs[0].phase == STAGE_C
    part = "stage_c" if prior else "stage_b"
    network = cascade.use(part, runs[0].worn.networks.get(part))
    rows = plan_rows([run.guidance for run in runs])
    x = torch.cat([_x(run) for run in runs])
    lines = [run.trajectory for run in runs if run.trajectory is not None]
    r = torch.stack([line.times[run.index] for run, line in zip(runs, lines, strict=True)]).to(x)
    noised = repeat_guided(x, rows)
    said = network(noised, repeat_guided(r, rows), _joined(runs, rows.guided))
    scales = torch.stack([line.scales[run.index] for run, line in zip(runs, lines, strict=True)])
    own = cascade.conventions
    predicts = own.prediction_c if prior else own.prediction_b
    unit = own.guidance_unit if prior else own.decoder_guidance_unit
    eps = noise_of(said, noised, repeat_guided(scales, rows), predicts)
    scale = torch.tensor([1 + (run.guidance - 1) * unit if run.guidance > 1 else run.guidance for run in runs])
    rescale = torch.tensor([run.request.rescale for run in runs])
    eps = combine(eps, rows, scale, rescale if rescale.any() else None)
    _advance(runs, lines, x, eps, scales)
    for run in runs:
        if run.index == run.steps:
            if run.phase == run.last:
                run.phase, run.cond, run.crowd = DONE, [], None
            else:
                start_decoder(cascade, run)


def _advance(runs: Sequence[Run], lines: Sequence[Trajectory], x: Tensor, eps: Tensor, scales: Tensor) -> None:
    coefficients = torch.stack([line.coefficients[run.index] for run, line in zip(runs, lines, strict=True)])
    shape = (1, *x.shape[1:])
    nothing = torch.zeros(shape, dtype=x.dtype, device=x.device)
    noise = [_noise(run, shape, x) if run.sampler in NOISY else nothing for run in runs]
    history = [nothing if run.history is None else run.history for run in runs]
    following, x0 = advance(x, eps, torch.cat(history), torch.cat(noise), coefficients, scales)
    for i, run in enumerate(runs):
        run.x, run.history, run.index = following[i : i + 1], x0[i : i + 1], run.index + 1


def _x(run: Run) -> Tensor:
    assert run.x is not None
    return run.x


def _joined(runs: Sequence[Run], guided: Sequence[int]) -> Conditioning:
    """The conditioning of a forward, kept by its first run for as long as the same runs go on together."""
    members = [run.cond[0] for run in runs]
    kept = runs[0].crowd
    if kept is None or len(kept[0]) != len(members) or any(a is not b for a, b in zip(kept[0], members, strict=True)):
        parts = [*members, *(runs[i].cond[1] for i in guided)]
        kept = runs[0].crowd = members, Conditioning.cat(parts)
    return kept[1]


@torch.inference_mode()
def finish(cascade: Cascade, runs: Sequence[Run]) -> list[Picture]:
    """Turns runs that are DONE into pictures, with their settings and the marks of provenance."""
    network = cascade.use("stage_a")
    weight = next(network.parameters())
    pictures = []
    for run in runs:  # one by one: Stage A is the memory peak, and a picture must not depend on its neighbours
        pixels = network.decode(_x(run).to(weight))[0]
        settings = settings_of(cascade, run.request, run.worn, run.words)
        pictures.append(Picture(mark(to_image(pixels), settings), run.request.seed or 0, settings))
    return pictures


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) about [0, 1] -> an RGB image."""
    array = pixels.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
    return Image.fromarray(array.numpy())


@torch.inference_mode()
def preview(cascade: Cascade, run: Run) -> Picture | None:
    """A small look at what a run's prior is about to become, or None where the weights have no previewer."""
    latent = run.latent if run.latent is not None else run.history
    if cascade.previewer is None or latent is None:
        return None
    network = cascade.use("previewer")
    image = to_image(network(latent.to(next(network.parameters())))[0])
    return Picture(image, run.request.seed or 0, settings_of(cascade, run.request, run.worn, run.words))


def settings_of(cascade: Cascade, request: Request, worn: LoraSet = LoraSet(),
                words: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:  # fmt: skip
    """Everything needed to draw a picture again, with the marks of provenance. Of files names are told, not where they lie."""
    unsaid = {"init", "count", "loras", "embeddings", *(() if request.init is not None else ("strength",))}
    settings = {name: value for name, value in vars(request).items() if name not in unsaid}
    for name, told in (("loras", worn.about), ("embeddings", words)):
        if told:
            settings[name] = [dict(about) for about in told]
    settings["dtype"] = str(cascade.text.text_projection.weight.dtype).removeprefix("torch.")
    return stamp(settings, cascade.name, cascade.license, cascade.hashes)


def draw(
    cascade: Cascade, requests: Sequence[Request], on_event: Callable[[Event], None] | None = None, batch: int = 8,
    previews: bool = False,
) -> Iterator[Picture]:  # fmt: skip
    """Draws orders together, yielding each picture as soon as it is finished.

    The run that has waited longest names the key; up to `batch` runs of that key step along. With `previews` the event after
    every step of Stage C shows what the first of them is about to become.
    """
    tell = on_event or (lambda event: None)
    tell(Event("text"))
    waiting = [run for request in requests for run in prepare(cascade, request)]
    while waiting:
        group = [run for run in waiting if run.key == waiting[0].key][:batch]
        stage, first = group[0].phase, group[0]
        tell(Event(stage, first.index, first.steps))
        step(cascade, group)
        if previews and stage == STAGE_C:
            tell(Event(first.phase, first.index, first.steps, preview(cascade, first)))
        waiting = [run for run in waiting if run not in group] + [run for run in group if run.phase != DONE]
        for run in group:
            if run.phase == DONE:
                tell(Event("stage a"))
                yield from finish(cascade, [run])
    tell(Event(DONE))


def generate(
    cascade: Cascade, request: Request, on_event: Callable[[Event], None] | None = None, batch: int = 8
) -> list[Picture]:
    """Draws an order and returns its pictures by seed. UserError: anything that cannot or must not be drawn."""
    return sorted(draw(cascade, [request], on_event, batch), key=lambda picture: picture.seed)
