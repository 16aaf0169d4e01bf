"""What the recipes share: a plain default for everything a recipe need not change."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Source
from sotediffusion.types import UserError

SETTLED_FROM = 0.7  # progress
NORM_BATCHES = 12


class Recipe:
    """Modules to train and where their batches come from; `loss` is a recipe's own."""

    def __init__(self, modules: Mapping[str, nn.Module], source: Source):
        self.modules = nn.ModuleDict(dict(modules))
        self.source = source
        self.progress = 0.0

    @property
    def device(self) -> torch.device:
        return next(self.modules.parameters()).device

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise for a batch, and numbers to log."""
        raise NotImplementedError

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """Nothing to learn from losses."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing besides the modules."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing besides the modules."""

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """All averages."""
        return averages


def read_part(folder: Path, part: str, module: nn.Module) -> nn.Module:
    """Give `module` the averaged weights of a trained part and freeze it. Raises UserError when they are not there yet."""
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise UserError("out", f"{path} is missing; train it first with: sote train miniature {folder.name}")
    prefix = part + "."
    weights = {key.removeprefix(prefix): value for key, value in load_file(path).items() if key.startswith(prefix)}
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)


def planes(pictures: Tensor) -> Tensor:
    """uint8 pictures (B, H, W, 3) as (B, 3, H, W), still bytes and where they lie."""
    return pictures.permute(0, 3, 1, 2)


def latent_layers(c_latent: int, width: int) -> nn.Sequential:
    """Three convolutions that read latents (B, c_latent, h, w) as (B, width, h, w)."""
    return nn.Sequential(
        nn.Conv2d(c_latent, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(),
    )  # fmt: skip


def no_dropout(network: nn.Module) -> None:
    """Turn dropout off: drawn pictures are endless, and its random numbers cost a sixth of a step."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


class ReadingRecipe(Recipe):
    """Trains one network with BatchNorm that is to read single pictures.

    Pictures of a batch have one shape, and a network learns to tell them apart by comparing them, through the statistics of
    their batch; of one picture alone it could not. So from SETTLED_FROM on the statistics are those of many batches, and stay.
    """

    def __init__(self, name: str, network: nn.Module, source: Source):
        super().__init__({name: network.to(memory_format=torch.channels_last)}, source)
        self.network = self.modules[name]
        self.settled = False

    def inputs(self, batch: Batch) -> Tensor:
        """What the network reads of a batch."""
        raise NotImplementedError

    def settle(self) -> None:
        """For the last part, keep the statistics; called before each step's forward."""
        if self.progress < SETTLED_FROM:
            return
        if not self.settled:
            self._refresh(self.modules)
            self.settled = True
        for norm in norms_of(self.modules):
            norm.eval()

    def state_dict(self) -> dict[str, Any]:
        """Whether the statistics stay."""
        return {"settled": self.settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.settled = state["settled"]

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averaged network with the statistics that it learnt with, or before these stayed with its own."""
        modules = copy.deepcopy(self.modules)
        modules.load_state_dict(averages)
        if not self.settled:
            self._refresh(modules)
        for norm, own in zip(norms_of(modules), norms_of(self.modules), strict=True) if self.settled else ():
            norm.load_state_dict(norm.state_dict() | {key: value.clone() for key, value in own.named_buffers()})
        return modules.state_dict()

    def _refresh(self, modules: nn.Module) -> None:
        (network,) = modules.children()
        refresh_norms(modules, lambda batch: network(self.inputs(batch)), self.source.batches(1, 0, 32), NORM_BATCHES)


def norms_of(modules: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorm layers in it."""
    return [module for module in modules.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def refresh_norms(modules: nn.Module, forward: Any, batches: Iterator[Any], count: int) -> None:
    """Set the BatchNorm statistics of `modules` to exact means over `count` batches (Wu & Johnson 2021, precise BN)."""
    norms = norms_of(modules)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    training = modules.training
    modules.train()
    for _ in range(count):
        forward(next(batches))
    modules.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
