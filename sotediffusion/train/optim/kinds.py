"""Optimizers by name: what each may be told, what it can do, and where it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn

from sotediffusion.config import build
from sotediffusion.names import unknown
from sotediffusion.train.optim.adafactor import Adafactor
from sotediffusion.types import UserError

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class AdafactorArguments:
    """Of Adafactor; `relative_step` exists to be refused, as it would ignore the learning rate."""

    decay: float = 0.8
    threshold: float = 1.0
    epsilon: float = 1e-30
    relative_step: bool = False


@dataclass(frozen=True)
class AdamArguments:
    """Of Adam and its kin."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8


@dataclass(frozen=True)
class LionArguments:
    """Of Lion (Chen et al. 2023)."""

    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class ProdigyArguments:
    """Of Prodigy (Mishchenko & Defazio 2023); `d_coef` scales the rate that it finds."""

    betas: tuple[float, float] = (0.9, 0.999)
    d0: float = 1e-6
    d_coef: float = 1.0
    bias_correction: bool = True
    safeguard_warmup: bool = True


@dataclass(frozen=True)
class Kind:
    """An optimizer: how it is made, the dataclass of its arguments, and what it can do."""

    make: Callable[[Groups, dict[str, Any]], torch.optim.Optimizer]
    arguments: type = AdamArguments
    by_tensor: bool = True  # a tensor's step needs nothing of the others
    averages: bool = False  # keeps the weights to be used apart from those it trains (schedule-free)
    finds_rate: bool = False  # lr is a factor on a rate that it finds


def _adamw(groups: Groups, arguments: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=True, **arguments)  # Loshchilov & Hutter 2019


def _adafactor(groups: Groups, arguments: dict[str, Any]) -> torch.optim.Optimizer:
    arguments.pop("relative_step")
    return Adafactor(groups, **arguments)


def _from(library: str, name: str, extra: str) -> Callable[[Groups, dict[str, Any]], torch.optim.Optimizer]:
    """An optimizer of a library that is loaded when it is asked for."""

    def make(groups: Groups, arguments: dict[str, Any]) -> torch.optim.Optimizer:
        try:
            kind = getattr(import_module(library), name)
        except ImportError as error:
            raise UserError("optimizer.kind", f"needs the package {library} ({error}); install it with: "
                                              f"pip install 'sotediffusion[{extra}]'") from None
        optimizer: torch.optim.Optimizer = kind(groups, **arguments)
        return optimizer

    return make


KINDS = {
    "adamw": Kind(_adamw),
    "adafactor": Kind(_adafactor, AdafactorArguments),
    "adamw8bit": Kind(_from("bitsandbytes.optim", "AdamW8bit", "optimizers")),  # Dettmers et al. 2022
    "lion": Kind(_from("pytorch_optimizer", "Lion", "optimizers"), LionArguments),
    "prodigy": Kind(_from("pytorch_optimizer", "Prodigy", "optimizers"), ProdigyArguments,
                    by_tensor=False, finds_rate=True),
    "schedule-free": Kind(_from("pytorch_optimizer", "ScheduleFreeAdamW", "optimizers"),
                          by_tensor=False, averages=True),  # Defazio et al. 2024
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """An optimizer as it is asked for: a key of KINDS, the factor of weight decay, and arguments of its own."""

    kind: str = "adamw"
    decay: float = 0.01
    arguments: dict[str, Any] = field(default_factory=dict)

    def check(self, lr: float) -> Kind:
        """The kind. UserError: an unknown one, an unknown argument, one that contradicts the learning rate."""
        if self.kind not in KINDS:
            raise unknown("optimizer.kind", self.kind, KINDS)
        kind = KINDS[self.kind]
        arguments: Any = build(kind.arguments, self.arguments, "optimizer.arguments")
        if getattr(arguments, "relative_step", False):
            message = f"true lets {self.kind} choose its own rate, so that the lr of {lr:g} would be ignored; leave it false"
            raise UserError("optimizer.arguments.relative_step", message)
        if kind.finds_rate and lr < 0.1:
            raise UserError("lr", f"{lr:g} is a factor on the rate that {self.kind} finds, which would be far too small; give 1")
        return kind


def groups(modules: nn.Module, lr: float, decay: float = 0.0, rates: Mapping[str, float] | None = None) -> Groups:
    """Groups of the trained parameters: matrices and kernels decay, biases and gains do not.

    `rates` gives some of the modules, by the names of `modules`' children, a peak learning rate of their own.
    """
    if not rates:
        return _split(modules, lr, decay)
    return [group for name, child in modules.named_children() for group in _split(child, rates.get(name, lr), decay)]


def _split(module: nn.Module, lr: float, decay: float) -> Groups:
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    return [
        {"params": params, "peak": lr, "lr": lr, "weight_decay": wd}
        for params, wd in ((matrices, decay), (vectors, 0.0)) if params
    ]


def make(choice: Choice, parameters: Groups) -> torch.optim.Optimizer:
    """The optimizer asked for."""
    kind = choice.check(parameters[0]["peak"])
    arguments = asdict(build(kind.arguments, choice.arguments, "optimizer.arguments"))
    return kind.make(parameters, arguments)


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give every group its peak learning rate times `share`; the first group's is returned."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    first: float = optimizer.param_groups[0]["lr"]
    return first
