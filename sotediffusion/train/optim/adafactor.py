"""Adafactor (Shazeer & Stern 2018) at a given learning rate: the second moments of a matrix kept as its rows' and columns' means.

O x I is a matrix, or the last two axes of a larger tensor. The equations are the paper's algorithm 4 without relative step sizes
and without scaling by the weights' size, which is how the published models were trained. State is float32 whatever the weights.
Of weights that are spread over ranks by rows each rank keeps its rows, and only sums go between them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

State = dict[str, Any]
ROW, COLUMN, WHOLE = "row", "column", "square"  # means of the squared gradient over columns, over rows, and not at all


class Adafactor(torch.optim.Optimizer):
    """Steps of size `lr` in units of each tensor's root mean square gradient.

    `decay` c makes the memory of squared gradients 1 - t^-c long at step t; an update whose root mean square is above `threshold`
    is scaled down to it; `epsilon` is added to squared gradients.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, decay: float = 0.8, threshold: float = 1.0,
                 epsilon: float = 1e-30, weight_decay: float = 0.0):  # fmt: skip
        own = {"lr": lr, "decay": decay, "threshold": threshold, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(params, own)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient; gradients are used up."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            spread = [p for p in moved if isinstance(p, DTensor)]
            for p in moved:
                if not isinstance(p, DTensor):  # one by one, so that one tensor's update is all the memory it takes
                    self._move([p], group)
            if spread:
                self._move(spread, group)

    def _move(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        total = _summed_over(params[0])
        gradients = [_local(p.grad).float() for p in params if p.grad is not None]
        states = [self._state(p) for p in params]
        for state in states:
            state["step"] += 1
        columns = [_remember(g, s, group) for g, s in zip(gradients, states, strict=True)]
        total([column for p, column in zip(params, columns, strict=True) if column is not None and _cut(p)])
        for p, state, column in zip(params, states, columns, strict=True):
            if column is not None:
                _blend(_local(state[COLUMN]), column.div_(p.shape[-2]), state["step"], group["decay"])
        sums = {p: _local(state[ROW]).sum() for p, state in zip(params, states, strict=True) if _cut(p)}
        total(list(sums.values()))
        for p, g, state in zip(params, gradients, states, strict=True):
            g.mul_(_scale(state, sums[p] / p.shape[0] if p in sums else None))
        squares = [g.square().sum() for g in gradients]
        total(squares)
        for p, g, square in zip(params, gradients, squares, strict=True):
            size = (square / p.numel()).sqrt() / group["threshold"]
            _subtract(p, g.div_(size.clamp(min=1.0)), group)

    def _state(self, p: Tensor) -> State:
        state: State = self.state[p]
        if not state:
            state["step"] = 0
            for name, shape in shapes(p).items():
                state[name] = _zeros(p, name, shape)
        return state


def shapes(p: Tensor) -> dict[str, tuple[int, ...]]:
    """What is remembered of a tensor, and its shape over all ranks."""
    if p.ndim < 2:
        return {WHOLE: tuple(p.shape)}
    return {ROW: tuple(p.shape[:-1]), COLUMN: (*p.shape[:-2], p.shape[-1])}


def placed(p: Tensor, name: str, value: Tensor) -> Tensor:
    """A remembered tensor, all of it, as this rank keeps it for the weights `p`."""
    value = value.to(p.device, torch.float32)
    if not isinstance(p, DTensor):
        return value
    where = (Replicate(),) if name == COLUMN and p.ndim == 2 else p.placements  # a matrix's columns run over all ranks' rows
    return distribute_tensor(value, p.device_mesh, where, src_data_rank=None)


def _zeros(p: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    return placed(p, name, torch.zeros(shape, device=p.device))


def _cut(p: Tensor) -> bool:
    """Whether means over the rows of `p` run over ranks."""
    return isinstance(p, DTensor) and p.ndim == 2


def _remember(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor | None:
    """Take the squared gradient into the state; sums of its columns, over this rank's rows, are returned and not yet in it."""
    square = gradient.square().add_(group["epsilon"])
    if WHOLE in state:
        _blend(_local(state[WHOLE]), square, state["step"], group["decay"])
        return None
    _blend(_local(state[ROW]), square.mean(-1), state["step"], group["decay"])
    return square.sum(-2)


def _blend(average: Tensor, value: Tensor, step: int, decay: float) -> None:
    kept = 1 - step**-decay
    average.mul_(kept).add_(value, alpha=1 - kept)


def _scale(state: State, mean: Tensor | None) -> Tensor:
    """One over the root of the second moments: exact, or the outer product of rows and columns over the rows' mean."""
    if WHOLE in state:
        return _local(state[WHOLE]).rsqrt()
    rows, columns = _local(state[ROW]), _local(state[COLUMN])
    mean = rows.mean(-1, keepdim=True) if mean is None else mean
    return (rows / mean).rsqrt_().unsqueeze(-1) * columns.unsqueeze(-2).rsqrt()


def _subtract(p: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    weights = _local(p)
    if group["weight_decay"]:
        weights.mul_(1 - group["lr"] * group["weight_decay"])
    weights.sub_(update.mul_(group["lr"]).to(weights.dtype))


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _summed_over(p: Tensor) -> Callable[[list[Tensor]], None]:
    """What makes sums out of the shares of them that each rank has: nothing, or one message for all tensors of a list."""
    if not isinstance(p, DTensor):
        return lambda values: None
    group = p.device_mesh.get_group()

    def total(values: list[Tensor]) -> None:
        if values:
            flat = torch.cat([value.reshape(-1) for value in values])
            torch.distributed.all_reduce(flat, group=group)
            for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
                value.copy_(part.view_as(value))

    return total
