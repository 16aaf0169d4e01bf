"""From gradients to a step: at once, tensor by tensor to spare memory, or during the backward pass itself.

What each way holds at its peak beside weights and optimizer state, in tensors as large as all weights: at once, one of gradients;
gathered in main memory, none on the device; fused, none anywhere.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sotediffusion.train.optim import adafactor
from sotediffusion.train.optim.kinds import KINDS, Choice, Groups, Kind, make, set_rate
from sotediffusion.train.optim.rounding import check_rate, stochastic
from sotediffusion.types import UserError


@dataclass(frozen=True)
class Stepping:
    """How gradients become a step."""

    clip: float = 1.0  # largest norm of all gradients together, or of each tensor's where they are used one by one; 0 is none
    fused: bool = False  # each gradient is used in the backward pass and freed at once
    gather: str = "device"  # where gradients add up over micro-batches: "device" or "host"
    rounding: str = "nearest"  # of bfloat16 weights: "nearest" or "stochastic"

    def check(self, kind: Kind, name: str, micro_batches: int, ranks: int) -> None:
        """UserError where two of these, the optimizer or the number of processes contradict each other."""
        if self.fused and micro_batches > 1:
            raise UserError("memory.fused", f"a fused backward pass uses up gradients and cannot add those of {micro_batches} "
                                            "micro-batches; make train.batch as small as train.micro")
        if self.fused and self.gather == "host":
            raise UserError("memory.gather", "a fused backward pass leaves nothing to gather in main memory; leave one out")
        if (self.fused or self.gather == "host" or self.rounding == "stochastic") and not kind.by_tensor:
            raise UserError("optimizer.kind", f"{name} looks at all tensors together, which a fused backward pass, gradients in "
                                              "main memory and rounding by chance rule out; take adafactor, adamw or lion")
        if (self.fused or self.gather == "host" or self.rounding == "stochastic") and ranks > 1:
            raise UserError("memory", "a fused backward pass, gradients in main memory and bfloat16 weights are for one process; "
                                      f"with {ranks} take distributed.sharding=fsdp, which spares more")


class Stepper:
    """Holds the optimizer `choice` of the trained parameters of `modules` and moves them by it."""

    def __init__(self, modules: nn.Module, choice: Choice, parameters: Groups, stepping: Stepping, dry: bool = False):
        """`dry` does everything but move."""
        self.kind, self.optimizer, self.stepping = KINDS[choice.kind], make(choice, parameters), stepping
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.group_of = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        self.narrow = any(p.dtype == torch.bfloat16 for p in self.group_of)
        self.sums: dict[nn.Parameter, Tensor] = {}  # gradients so far, where they are not left on the parameters
        self.squares: list[Tensor] = []  # of the norms of gradients that a fused backward pass has used up
        self.generators: dict[torch.device, torch.Generator] = {}
        self.total = torch.zeros(())  # the norm of all gradients
        self.seed, self.share, self.dry = 0, 1.0, dry
        for p, group in self.group_of.items():
            check_rate("lr", group["peak"], p.dtype, stepping.rounding == "stochastic")
        if stepping.fused or self.gathers:
            for p in self.group_of:
                p.register_post_accumulate_grad_hook(self._use if stepping.fused else self._gather)

    @property
    def gathers(self) -> bool:
        """Whether gradients are moved from the parameters: into main memory, or because bfloat16 cannot add many of them up."""
        return self.stepping.gather == "host" or (self.narrow and not self.stepping.fused)

    def begin(self, share: float, seed: int) -> float:
        """Before the backward pass: set learning rates to `share` of their peaks, and what rounding by chance depends on."""
        self.squares, self.seed, self.share = [], seed, share
        for generator in self.generators.values():
            generator.manual_seed(seed)
        return set_rate(self.optimizer, share)

    def take(self, share: float) -> float:
        """What the loss of a piece that is `share` of a step counts: that, or all where each piece is a step of its own."""
        if not self.stepping.fused:
            return share
        set_rate(self.optimizer, self.share * share)
        return 1.0

    def norm(self) -> float:
        """After the backward pass: the norm of all gradients; what is above `clip` will be scaled down to it in the step."""
        if self.stepping.fused:
            return float(torch.stack(self.squares).sum().sqrt()) if self.squares else 0.0
        gradients = self.sums.values() if self.gathers else [p.grad for p in self.parameters if p.grad is not None]
        total = torch.nn.utils.get_total_norm(list(gradients), foreach=True)
        self.total = total.full_tensor() if isinstance(total, DTensor) else total
        return float(self.total)

    def step(self) -> None:
        """Move the weights and forget the gradients."""
        if self.dry:
            self.forget()
        elif self.gathers:
            for p in list(self.sums):
                self._move(p, _clipped(self.sums.pop(p), self.total, self.stepping.clip).to(p.device))
        elif not self.stepping.fused:
            if self.stepping.clip:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.stepping.clip, self.total, foreach=True)
            self.optimizer.step()
            self.forget()

    def forget(self) -> None:
        """Drop the gradients without a step."""
        self.sums.clear()
        self.optimizer.zero_grad(set_to_none=True)

    def _gather(self, p: nn.Parameter) -> None:
        """Add a gradient to its sum and free it."""
        assert p.grad is not None
        gradient = p.grad.to("cpu" if self.stepping.gather == "host" else p.device, torch.float32, copy=True)
        if p in self.sums:
            self.sums[p].add_(gradient)
        else:
            self.sums[p] = gradient
        p.grad = None

    def _use(self, p: nn.Parameter) -> None:
        """Clip one tensor's gradient by its own norm, step by it and free it."""
        assert p.grad is not None
        gradient = p.grad.float()
        p.grad = None
        norm = torch.linalg.vector_norm(gradient)
        self.squares.append(norm.square())
        if not self.dry:
            self._move(p, _clipped(gradient, norm, self.stepping.clip))

    @torch.no_grad()
    def _move(self, p: nn.Parameter, gradient: Tensor) -> None:
        """Step one tensor alone, in float32 whatever it is kept in."""
        kept = p.data
        if kept.dtype == torch.bfloat16:
            p.data = kept.float()
        p.grad = gradient
        everything = self.optimizer.param_groups
        self.optimizer.param_groups = [{**self.group_of[p], "params": [p]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = everything
            p.grad = None
        if kept.dtype == torch.bfloat16:
            moved, p.data = p.data, kept
            kept.copy_(stochastic(moved, self._generator(p.device)) if self.stepping.rounding == "stochastic" else moved)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the weights are those to be used: those of optimizers that keep them apart are put in their place."""
        if not self.kind.averages:
            yield
            return
        trained = {p: p.detach().clone() for p in self.group_of}
        self.optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for group in self.optimizer.param_groups:
                group["train_mode"] = True
            with torch.no_grad():  # not by train(), whose way back is not exact
                for p, value in trained.items():
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it at the rates, decay and arguments asked for now.

        Tensors keep their type, where torch's own loading takes the weights'.
        """
        values = {p: state["state"].get(i, {}) for i, p in enumerate(self.group_of)}
        placed = {i: {key: _placed(p, key, value) for key, value in values[p].items()} for i, p in enumerate(self.group_of)}
        asked = {"peak", "weight_decay", *(field.name for field in fields(self.kind.arguments))}
        now = [{key: value for key, value in group.items() if key in asked} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict({**state, "state": {i: value for i, value in placed.items() if value}})
        for group, own in zip(self.optimizer.param_groups, now, strict=True):
            group |= own
        self.group_of = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        for i, p in enumerate(self.group_of):
            for key, value in placed[i].items():
                if isinstance(value, Tensor) and value.dtype != self.optimizer.state[p][key].dtype:
                    self.optimizer.state[p][key] = value.to(p.device)


def _clipped(gradient: Tensor, norm: Tensor, most: float) -> Tensor:
    return gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0)) if most else gradient


def _placed(p: Tensor, key: str, value: Any) -> Any:
    """A saved piece of state as this rank keeps it."""
    if not isinstance(value, Tensor) or not isinstance(p, DTensor):
        return value
    if key in (adafactor.ROW, adafactor.COLUMN):
        return adafactor.placed(p, key, value)
    if value.shape == p.shape:
        return distribute_tensor(value.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
    return value

