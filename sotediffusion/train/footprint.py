"""What a step would take, found by walking through it with tensors that have shapes and no content: bytes alive, and operations.

Nothing is computed and no memory is taken, so that the largest model is counted in seconds on any machine. Mixed precision and
attention are imitated as PyTorch does them on the device that is planned for.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from sotediffusion.models.attention import attend_by_heads
from sotediffusion.train.adapters import LowRank

# What autocast computes in the narrow type, and what on a GPU in the wide one; on a CPU that keeps its inputs' type.
NARROW: set[Any] = {F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__}
WIDE: set[Any] = {F.layer_norm, F.mse_loss, torch.softmax, Tensor.softmax}


class Ledger(TorchDispatchMode):
    """Counts bytes of tensors that are alive, their largest sum, and operations of products, while it is entered."""

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.live = self.peak = self.operations = 0
        self._seen: dict[int, Any] = {}
        for tensor in known:  # there before, and counted elsewhere
            self._note(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value, value.untyped_storage().nbytes())
        count = flop_registry.get(func.overloadpacket)
        self.operations += int(count(*args, **(kwargs or {}), out_val=result)) if count else 0
        return result

    def _note(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda gone: self._forget(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.live -= size


class Imitation(TorchFunctionMode):
    """Types and kernels as they are on `device` under autocast to bfloat16, or without it where `narrow` is false."""

    def __init__(self, device: str, narrow: bool, ledger: Ledger):
        super().__init__()
        self.gpu, self.narrow, self.ledger = device != "cpu", narrow, ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.dropout and self.gpu:  # one kernel there, whose mask is a byte a number
            x, p, training = (*args, *(kwargs[name] for name in ("p", "training") if name in kwargs))[:3]
            return torch.native_dropout(x, p, training)[0] if training and p else x
        if func is F.linear and isinstance(args[1], LowRank):
            with self:
                return args[1].by_parts(args[0], args[0], *args[2:])
        if self.narrow and func in NARROW:
            args, kwargs = _cast((args, kwargs), torch.bfloat16)
        elif self.narrow and self.gpu and func in WIDE:
            args, kwargs = _cast((args, kwargs), torch.float32)
        return func(*args, **kwargs)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if self.narrow:
            q, k, v = _cast((q, k, v), torch.bfloat16)
        if self.gpu or not torch.is_grad_enabled():
            products = 2 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.shape[3]
            self.ledger.operations += 2 * products
            result: Tensor = _Attention.apply(q, k, v, lambda: self._more(5 * products))
            return result
        return attend_by_heads(q, k, v, attn_mask)

    def _more(self, operations: int) -> None:
        self.ledger.operations += operations


class _Attention(torch.autograd.Function):
    """Keeps what attention in one kernel keeps: its inputs, its result and a number a row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, backward: Callable[[], None]) -> Tensor:
        out = torch.empty_like(q)
        ctx.count = backward
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ctx.count()
        return (*(torch.empty_like(value) for value in ctx.saved_tensors[:3]), None)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda value: value.to(dtype) if value.is_floating_point() else value, values)


def walk(step: Callable[[], Tensor], networks: Mapping[str, nn.Module], device: str, narrow: bool, kept: bool) -> Ledger:
    """The ledger of a forward and backward pass of the loss `step`; gradients stay where they are `kept`, or else are freed."""
    everything = [tensor for network in networks.values() for tensor in (*network.parameters(), *network.buffers())]
    trained = [p for p in everything if p.requires_grad]
    for p in trained:
        p.grad = None
    handles = [] if kept else [p.register_post_accumulate_grad_hook(_free) for p in trained]
    ledger = Ledger(everything)
    imitation = Imitation(device, narrow, ledger)
    for block in (block for network in networks.values() for block in network.modules()):
        again = vars(block).get("forward")
        if isinstance(again, partial) and again.func is checkpoint:  # a backward pass leaves the imitation
            block.forward = partial(again, context_fn=lambda: (nullcontext(), imitation))  # type: ignore[method-assign]
    with imitation, ledger:
        step().backward()
    for handle in handles:
        handle.remove()
    for p in trained:
        p.grad = None
    return ledger


def _free(p: Tensor) -> None:
    p.grad = None


def operations(step: Callable[[], Tensor], device: str = "cuda") -> int:
    """Operations of the products of one forward pass of `step`; each multiplication and each addition is one."""
    ledger = Ledger()
    with torch.no_grad(), Imitation(device, False, ledger), ledger:
        step()
    return ledger.operations
