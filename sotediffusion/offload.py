"""Networks larger than the device: weights rest in main memory, and each block's go to the device for as long as it works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from .models.cascade import Cascade

ENTRANCES = ("forward", "key_values", "constant")  # the methods of a block by which weights are put to work


def offload_blocks(network: nn.Module, device: torch.device | str) -> None:
    """Makes a network work block by block on `device`, whatever device its weights rest on; outputs stay on `device`."""
    return_blocks(network)
    vars(network)["works_on"] = torch.device(device)
    for block in blocks(network):
        for name in ENTRANCES:
            if hasattr(block, name):
                setattr(block, name, _visiting(block, getattr(block, name), torch.device(device)))


def return_blocks(network: nn.Module) -> None:
    """Undoes `offload_blocks`; a network that was never offloaded stays as it is."""
    vars(network).pop("works_on", None)
    for block in blocks(network):
        for name in ENTRANCES:
            vars(block).pop(name, None)


def execution_device(cascade: Cascade, part: str) -> torch.device:
    """Where a network of a cascade works, wherever its weights rest."""
    network = getattr(cascade, part)
    if cascade.offload_to is not None:
        return torch.device(cascade.offload_to)
    return vars(network).get("works_on") or next(network.parameters()).device


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The smallest modules that are called as a whole: sequences, lists and mere holders of layers are looked into."""
    for child in network.children():
        if isinstance(child, nn.Sequential) or type(child).forward is nn.Module.forward:
            yield from blocks(child)
        else:
            yield child


def _visiting(block: nn.Module, method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    @wraps(method)
    def visit(*arguments: Any, **named: Any) -> Any:
        with _lent(block, device):
            return method(*(_moved(x, device) for x in arguments), **{name: _moved(x, device) for name, x in named.items()})

    return visit


@contextmanager
def _lent(block: nn.Module, device: torch.device) -> Iterator[None]:
    """The weights of a block on `device`; the resting ones are kept, so that nothing has to be copied back."""
    stores: list[dict[str, Any]] = [store for module in block.modules() for store in (module._parameters, module._buffers)]
    resting = [dict(store) for store in stores]
    try:
        for store in stores:
            store.update({name: _moved(tensor, device) for name, tensor in store.items()})
        yield
    finally:
        for store, tensors in zip(stores, resting, strict=True):
            store.update(tensors)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
