"""Several processes as one run: who they are, what they tell each other, and how the networks are spread over them.

Every process walks through the same loop and meets the others at the same points, so that no one waits for work that only one
does. Gradients go over NCCL where there are GPUs; the few numbers that the loop agrees on go over gloo, from main memory.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from sotediffusion.models.layers import AttnBlock, ResBlock
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import Layer
from sotediffusion.names import unknown

SHARDINGS = ("ddp", "fsdp")
BLOCKS = (AttnBlock, ResBlock, Layer)  # gathered one at a time where weights are spread
METHODS = {AttnBlock: "key_values", StageB: "condition", StageC: "condition"}  # that run weights besides `forward`
Forward = Callable[[Any], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Ranks:
    """One process among `count`, and its number among those."""

    number: int = 0
    count: int = 1
    sharding: str = "ddp"  # "ddp": each process holds all weights; "fsdp": each holds its rows of them
    group: Any = None  # over which numbers go

    @property
    def first(self) -> bool:
        """Whether it is the one that prints and writes what is written once."""
        return self.number == 0

    def lead(self, values: Sequence[float]) -> list[float]:
        """The first process's values, told to all."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(told, 0, group=self.group)
        return told.tolist()

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(told, group=self.group)
        return told.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def rows(self, whole: int) -> list[int]:
        """Which rows of a batch of `whole` samples are this process's."""
        return list(range(self.number, whole, self.count))

    def join(self, values: Tensor, whole: int) -> Tensor:
        """Rows (n, k) of this process's samples -> those of all, in the order of the step of `whole` samples; k >= 1."""
        if self.count == 1:
            return values
        slots = self.rows(whole)[: len(values)]
        joined = torch.zeros((whole, values.shape[1] + 1), dtype=torch.float64)
        joined[slots, :-1], joined[slots, -1] = values.double().cpu(), 1
        dist.all_reduce(joined, group=self.group)
        return joined[joined[:, -1] > 0, :-1].to(values)

    def like(self, reference: Any, value: Any) -> Any:
        """A whole tensor as this process keeps `reference`; anything else as it is."""
        if not isinstance(reference, DTensor):
            return value
        return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor, in all processes, which call this together."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def spread(self, modules: nn.ModuleDict, device: str) -> None:
        """Before the optimizer is made: bring the networks to the device, or only this process's rows where that is wanted.

        Rows are cut block by block from where the weights are, so that no device ever holds all of them.
        """
        if self.count > 1 and self.sharding == "fsdp":
            warnings.filterwarnings("ignore", message=".*returned a view tensor")  # nothing is done in place to any
            mesh = init_device_mesh(torch.device(device).type, (self.count,))
            for child in modules.values():
                for module in child.modules():
                    if isinstance(module, BLOCKS):
                        fully_shard(module, mesh=mesh)
                fully_shard(child, mesh=mesh)
                for module in child.modules():
                    for kind, method in METHODS.items():
                        if isinstance(module, kind):
                            register_fsdp_forward_method(module, method)
        modules.to(device)

    def forward(self, recipe: Any) -> Forward:
        """The recipe's loss, after whose backward pass gradients are the means over all processes."""
        if self.count == 1 or self.sharding == "fsdp":
            loss: Forward = recipe.loss
            return loss
        return DistributedDataParallel(_Loss(recipe), gradient_as_bucket_view=True)

    def close(self) -> None:
        """Part from the others."""
        if self.count > 1:
            dist.destroy_process_group()


ALONE = Ranks()


class _Loss(nn.Module):
    """A recipe's loss as the forward pass of a module, which is what can be told of gradients that are ready."""

    def __init__(self, recipe: Any):
        super().__init__()
        self.networks = recipe.modules
        self.loss = recipe.loss

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        result: tuple[Tensor, dict[str, float]] = self.loss(batch)
        return result


def apart(forward: Forward, last: bool) -> AbstractContextManager[None]:
    """Within it a backward pass leaves gradients to add up here, unless it is the `last` micro-batch's."""
    wait: AbstractContextManager[None] = nullcontext()
    if isinstance(forward, DistributedDataParallel) and not last:
        wait = forward.no_sync()
    return wait


@contextmanager
def joined(number: int, count: int, local: int, device: str, sharding: str = "ddp", minutes: float = 60) -> Iterator[Ranks]:
    """Meet the other processes, by the address in the environment that torchrun sets; part at the end.

    `local` is this process's number on its machine, and so the number of its GPU; nobody waits longer than `minutes`.
    """
    if sharding not in SHARDINGS:
        raise unknown("distributed.sharding", sharding, SHARDINGS)
    if count == 1:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(local)
    patience = timedelta(minutes=minutes)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=number, world_size=count, timeout=patience)
    ranks = Ranks(number, count, sharding, dist.new_group(backend="gloo", timeout=patience))
    try:
        yield ranks
    finally:
        ranks.close()
