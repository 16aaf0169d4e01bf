"""What a network's blocks do to fit: compute their insides again in the backward pass, or be compiled one by one."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from sotediffusion.models.layers import AttnBlock, ResBlock
from sotediffusion.models.text import Layer
from sotediffusion.train.settings import Memory

KINDS: dict[str, type[nn.Module]] = {"residual": ResBlock, "attention": AttnBlock, "text": Layer}


def spare(network: nn.Module, memory: Memory) -> None:
    """Make the blocks of `network` do what `memory` asks for; weights and their names stay as they are."""
    kinds = tuple(KINDS[name] for name in memory.recompute)
    for block in chosen([module for module in network.modules() if isinstance(module, kinds)], memory.recompute_share):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    if memory.compile:
        for block in [module for module in network.modules() if isinstance(module, tuple(KINDS.values()))]:
            block.compile(backend=memory.compile, dynamic=True)  # one for all buckets


def chosen(blocks: list[nn.Module], share: float) -> list[nn.Module]:
    """About `share` of the blocks, evenly spaced."""
    return [block for place, block in enumerate(blocks) if int((place + 1) * share) > int(place * share)]


def set_dropout(network: nn.Module, share: float | None) -> None:
    """Give every dropout of `network` this share; None leaves them."""
    for module in network.modules() if share is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = float(share or 0)
