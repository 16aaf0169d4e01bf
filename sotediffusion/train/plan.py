"""A run before it begins: its steps, the memory and the disk that it takes, how long it lasts and what that costs.

Memory is counted on networks without content at the shapes that the run would have (`footprint`); on a GPU some is added for the
driver and for what its allocator cannot use. Time is operations over an assumed share of the GPU's published rate.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sotediffusion.buckets import CELL
from sotediffusion.models.stage_a import StageA
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextTower
from sotediffusion.names import unknown
from sotediffusion.train.adapters import Adapters
from sotediffusion.train.footprint import walk
from sotediffusion.train.memory import set_dropout, spare
from sotediffusion.train.opening import Data
from sotediffusion.train.optim import adafactor
from sotediffusion.train.settings import Settings, epoch_of, images_of, length
from sotediffusion.types import UserError
from sotediffusion.weights import shapes
from sotediffusion.weights.reading import Where, read
from sotediffusion.weights.store import DTYPES

GIB = 2**30
DRIVER = 1.0 * GIB  # on a GPU: CUDA's own, and workspaces of its libraries
WASTE = 1.05  # of tensors on a GPU: what the allocator holds between them
EFFICIENCY = 0.4  # assumed share of the published rate that a step reaches
MOVING = 3  # tensors as large as one that moves, its gradient among them
STATES = {"adamw": 8, "adamw8bit": 2, "lion": 4, "prodigy": 16, "schedule-free": 8}  # bytes a weight that an optimizer keeps


@dataclass(frozen=True)
class Machine:
    """A GPU as its maker describes it."""

    memory: float  # GiB, about what torch may have
    narrow: float  # operations a second of bfloat16 products, dense, in 1e12
    wide: float  # of float32 products, through TF32 where it has that


MACHINES = {
    "rtx3060": Machine(12, 51, 25), "rtx4060ti": Machine(16, 88, 44), "rtx3090": Machine(24, 71, 36),
    "rtx4090": Machine(24, 165, 83), "rtx5090": Machine(32, 209, 105), "a100-40": Machine(39.5, 312, 156),
    "l40s": Machine(48, 362, 183), "a100-80": Machine(80, 312, 156), "h100": Machine(80, 989, 494),
    "h200": Machine(141, 989, 494), "b200": Machine(180, 2250, 1125),
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What an epoch has, and the largest pictures of it: sides in latent cells (rows, columns)."""

    samples: int
    cells: tuple[int, int]
    mean: float  # latent cells of a sample, on average
    buckets: int = 1


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device, and in main memory besides the data."""

    weights: int  # trained ones
    frozen: int
    optimizer: int
    averages: int
    passes: int  # most at once of activations and gradients, forward and backward
    step: int  # most at once of gradients and what the optimizer needs to move
    host: int
    operations: int  # of all products for one sample

    @property
    def tensors(self) -> int:
        """The most that tensors take at once."""
        return self.weights + self.frozen + self.optimizer + self.averages + max(self.passes, self.step)

    @property
    def gpu(self) -> float:
        """What a GPU must have."""
        return self.tensors * WASTE + DRIVER


@dataclass(frozen=True)
class Plan:
    """A run in numbers."""

    load: Load
    epoch: int  # images of an epoch
    images: int
    steps: int
    footprint: Footprint
    states: int  # bytes on disk of the states kept at once
    models: int  # of the models saved in all
    latents: int

    def seconds(self, speed: float) -> float:
        """At `speed` images a second."""
        return self.images / speed

    def speed(self, machine: Machine, narrow: bool, count: int = 1) -> float:
        """Images a second of `count` such GPUs."""
        rows, columns = self.load.cells
        average = self.footprint.operations * self.load.mean / (rows * columns)
        return count * EFFICIENCY * (machine.narrow if narrow else machine.wide) * 1e12 / average


def configs_of(where: Where) -> dict[str, Any]:
    """The configs of a model's parts, of which no weight is read. UserError: nothing there, or nothing of ours."""
    bundle = read(where)
    bundle.settle()
    return {name: part.config for name, part in bundle.parts.items()}


def fit(plan: Plan, name: str) -> Machine:
    """The GPU of this name. UserError: an unknown one, and one that this run does not fit into."""
    if name not in MACHINES:
        raise unknown("gpu", name, MACHINES)
    machine = MACHINES[name]
    if plan.footprint.gpu > machine.memory * GIB:
        raise UserError("gpu", f"this run needs about {plan.footprint.gpu / GIB:.1f} GiB and {name} has {machine.memory:g}; "
                               "take a smaller train.micro, memory.recompute=['residual','attention','text'], memory.gather=host "
                               "and memory.average=host, or the preset economy")
    return machine


def plan(settings: Settings, configs: dict[str, Any], load: Load, device: str = "cuda", ranks: int = 1) -> Plan:
    """Reckon a run of `settings` over `ranks` processes on parts with these configs, by name. UserError: no such part."""
    wanted = settings.train.parts
    missing = next((name for name in wanted if name not in configs), None)
    if missing:
        raise UserError("model", f"it has no {missing}, which this run needs; give a whole model, or --size")
    epoch = epoch_of(settings, load.samples)
    images = length(settings.train, epoch)
    every = images_of("save.every", settings.save.every, settings.train.batch, epoch)
    networks = {name: fitted(name, shapes.build(name, configs[name]), settings) for name in wanted}
    networks |= adapters(networks, settings)
    reckoned = footprint(networks, settings, load, device, ranks)
    trained = sum(p.numel() for network in networks.values() for p in network.parameters() if p.requires_grad)
    whole = sum(p.numel() for name, config in configs.items() for p in shapes.build(name, config).parameters())
    averages = 4 * trained if settings.train.ema else 0
    own = _bytes(networks, True) + averages + state_bytes(networks, settings.optimizer.kind)
    saved = 1 + (max(0, images - 1) // every if every else 0)
    whole = trained if settings.beside else whole  # a file of it alone
    return Plan(load, epoch, images, _steps(images, settings.train.batch, epoch), reckoned,
                (settings.save.states + 1) * own,  # one more while it is written
                saved * whole * DTYPES[settings.save.dtype].itemsize, round(load.samples * load.mean * 16 * 2))  # fmt: skip


def fitted(name: str, network: nn.Module, settings: Settings) -> nn.Module:
    """A network as a run has it: what moves in its own type, the rest as it is used."""
    learns = settings.train.rates.get(name, 0) > 0
    trained = learns and not settings.beside
    frozen = "float32" if name == "effnet" else settings.precision.frozen
    network.to(DTYPES[settings.precision.weights if trained else frozen]).requires_grad_(trained)
    if learns:
        set_dropout(network.train(), settings.train.dropout)
    spare(network, replace(settings.memory, compile=""))
    return network


def adapters(networks: dict[str, nn.Module], settings: Settings) -> dict[str, nn.Module]:
    """What is trained beside these networks, a LoRA or a word; nothing where the weights themselves are trained."""
    if settings.embedding.vectors:
        return {"text word": _word(networks["text"], settings.embedding.vectors)}
    rates = settings.train.rates if settings.lora.rank else {}
    with torch.device("meta"):
        return {f"{part} lora": Adapters(part, networks[part], settings.lora) for part, lr in rates.items() if lr}


def _word(text: nn.Module, count: int) -> nn.Module:
    """So many vectors that the text tower reads, beside its table."""
    assert isinstance(text, TextTower)
    table = text.text_model.embeddings.token_embedding
    word = nn.Embedding(count, table.embedding_dim, device="meta")
    table.register_forward_hook(lambda module, given, out: out + word.weight.sum(0).to(out.dtype))
    return word


def footprint(networks: dict[str, nn.Module], settings: Settings, load: Load, device: str, ranks: int) -> Footprint:
    """Bytes and operations of a step of one of `ranks` processes."""
    own, share = settings.memory, -(-settings.train.batch // ranks)
    micro = min(settings.train.micro or share, share)
    trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    gradients, largest = sum(4 * p.numel() for p in trained), max(4 * p.numel() for p in trained)
    held = 0 if own.gather == "host" or own.fused else gradients
    piled = bool(held) and (share > micro or ranks > 1 or settings.precision.weights == "bfloat16")  # there in every pass
    ledger = walk(piece(networks, settings, load, micro), networks, device, settings.precision.compute == "bfloat16",
                  kept=bool(held) and not piled)
    spread = ranks if settings.distributed.sharding == "fsdp" else 1  # each process has its rows of what is trained
    averages = gradients if settings.train.ema else 0
    host = (gradients if own.gather == "host" else 0) + gradients  # the second while a model is saved
    return Footprint(
        weights=_bytes(networks, True) // spread, frozen=_bytes(networks, False),
        optimizer=state_bytes(networks, settings.optimizer.kind) // spread,
        averages=averages // spread if own.average == "device" else 0,
        passes=ledger.peak + (held // spread if piled else 0) + (MOVING * largest if own.fused else 0),
        step=held // spread + MOVING * largest, host=host + (averages if own.average == "host" else 0),
        operations=ledger.operations // micro,
    )  # fmt: skip


def piece(networks: dict[str, Any], settings: Settings, load: Load, micro: int) -> Callable[[], Tensor]:
    """The loss of one piece, as the recipe computes it."""
    place, (high, wide) = torch.device("meta"), load.cells
    text, chunks = networks["text"], settings.data.captions.chunks
    assert isinstance(text, TextTower)
    learns = any(name.startswith("text ") for name in networks) or next(text.parameters()).requires_grad

    def told() -> tuple[Tensor, Tensor]:
        tokens = torch.empty(micro * chunks, text.config.positions, dtype=torch.long, device=place)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            hidden, pooled = text(tokens, torch.empty_like(tokens, dtype=torch.bool))
        return hidden.unflatten(0, (micro, chunks)).flatten(1, 2).float(), pooled.unflatten(0, (micro, chunks))[:, :1].float()

    def stage_c() -> Tensor:
        network = networks["stage_c"]
        assert isinstance(network, StageC)
        hidden, pooled = told()
        return _error(network, network.condition(hidden, pooled), (micro, network.config.c_latent, high, wide))

    def stage_b() -> Tensor:
        network, stage_a = networks["stage_b"], networks["stage_a"]
        assert isinstance(network, StageB) and isinstance(stage_a, StageA)
        side = CELL / settings.data.buckets.scale / 4  # of Stage A's cells to one of the bucket's
        size = tuple(round(cells * side) // 2 * 2 for cells in load.cells)
        with torch.no_grad():
            picture = torch.empty(micro, 3, size[0] * 4, size[1] * 4, device=place)
            stage_a.encode(picture.to(next(stage_a.parameters())), quantize=False)
            pooled = told()[1]
        effnet = torch.empty(micro, network.config.c_effnet, size[0] // network.config.patch, size[1] // network.config.patch,
                             device=place)  # fmt: skip
        return _error(network, network.condition(effnet, pooled, (size[0], size[1])), (micro, network.config.c_latent, *size))

    return stage_c if settings.train.part == "stage_c" else stage_b


def _error(network: Any, cond: Any, shape: tuple[int, ...]) -> Tensor:
    x = torch.empty(shape, device="meta")
    found = network(x, torch.empty(shape[0], device="meta"), cond)
    return (found.float() - x).square().mean()


def state_bytes(networks: dict[str, nn.Module], kind: str) -> int:
    """What the optimizer keeps between steps."""
    trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    if kind == "adafactor":
        return sum(4 * int(np.prod(shape)) for p in trained for shape in adafactor.shapes(p).values())
    return STATES[kind] * sum(p.numel() for p in trained)


def _bytes(networks: dict[str, nn.Module], trained: bool) -> int:
    return sum(p.nbytes for network in networks.values() for p in network.parameters() if p.requires_grad == trained)


def _steps(images: int, batch: int, epoch: int) -> int:
    """Steps that bring a run to `images`."""
    epochs, rest = divmod(images, epoch)
    return epochs * -(-epoch // batch) + -(-rest // batch)


def load_of(data: Data, settings: Settings) -> Load:
    """The load of data that was read, without what is held out. UserError: nothing that any bucket can hold."""
    there = data.fits[:, 0] > 0
    if settings.data.held_out:
        there &= ~data.samples.held(settings.data.held_out)
    if not there.any():
        raise UserError("data", f"none of {len(there)} pictures can be trained on; give larger ones, or another resolution")
    sides, place = np.unique(data.fits[there, :2] // CELL, axis=0, return_inverse=True)
    counts = np.bincount(place.reshape(-1), data.samples.column("repeats")[there])
    areas = sides.astype(np.int64).prod(1)
    wide, high = sides[int(areas.argmax())].tolist()
    return Load(int(counts.sum()), (high, wide), float((areas * counts).sum() / counts.sum()), len(sides))


def load_for(settings: Settings, samples: int) -> Load:
    """The load of so many samples of the resolution's own size."""
    wide, high = (side // CELL for side in settings.data.buckets.size)
    return Load(samples, (high, wide), float(wide * high))
