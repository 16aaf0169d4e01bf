"""Global response norm, with a backward pass of its own. B batch, H W cells, D width. (Woo et al. 2023, "ConvNeXt V2", eq. 1-3.)

Half of a training step's element-wise work on a CPU was this norm's: torch differentiates it operation by operation and keeps
every product. Written out, the gradient needs the input alone and two passes over it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-6


class GlobalResponseNorm(nn.Module):
    """Channels compete by their norm over the whole picture: x (B, H, W, D) -> (B, H, W, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """`overwrite`: nobody needs x any more; without gradients the result takes its memory."""
        if torch.is_grad_enabled():
            result: Tensor = _Respond.apply(x, self.gamma, self.beta)
            return result
        return respond(x, self.gamma, self.beta, x if overwrite else None)[0]


def respond(x: Tensor, gamma: Tensor, beta: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x (1 + gamma n / mean(n)) + beta in the type of x, the norms n of its channels, and their mean."""
    norm = spatial_norm(x).to(gamma.dtype)
    mean = norm.mean(dim=-1, keepdim=True) + EPS
    share = norm / mean
    gain = torch.addcmul(torch.ones_like(share), gamma, share)
    return torch.addcmul(beta.to(x.dtype), x, gain.to(x.dtype), out=out), norm, mean


def spatial_norm(x: Tensor) -> Tensor:
    """The norm of each channel over the whole picture, (B, H, W, D) -> (B, 1, 1, D), in the type of `x`."""
    if x.device.type != "cpu" or x.dtype == torch.float16:  # on a GPU it is the faster way; squares overflow in float16
        return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return _over_cells(x.square()).sqrt()  # four times as fast on a CPU


def _over_cells(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2), keepdim=True)  # torch adds up bfloat16 in float32; asked for float32 it would first make a copy


class _Respond(torch.autograd.Function):
    """`respond` with its gradients; s = n / mean(n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y, norm, mean = respond(x, gamma, beta)
        ctx.save_for_backward(x, gamma, norm, mean)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, gamma, norm, mean = ctx.saved_tensors
        share = norm / mean
        grad_gain = _over_cells(grad * x).to(gamma.dtype)  # of the loss by 1 + gamma s
        grad_share = grad_gain * gamma
        grad_norm = grad_share / mean - (grad_share * share).mean(dim=-1, keepdim=True) / mean
        # dn/dx = x / n; a channel of zeros has no slope, and x = 0 there lets any finite factor stand.
        slope = grad_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
        grad_x = torch.addcmul(grad * (1 + gamma * share).to(grad.dtype), x, slope.to(x.dtype))
        return grad_x, (grad_gain * share).sum(0, keepdim=True), _over_cells(grad).to(gamma.dtype).sum(0, keepdim=True)
