"""Stage A, the pixel decoder: a small VQGAN between pictures and 4-channel latents of a quarter of their side.

B batch, H W pixels, h = H / 4, w = W / 4 latent cells, K codebook entries. Latents are what Stage B draws: the code divided by
`scale`. Esser et al. 2021 (VQGAN); the residual block follows Rampas et al. 2022 (Paella).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense import dense, plus
from .layers import EPS


@dataclass(frozen=True)
class StageAConfig:
    """The shape of a Stage A; `width` is that of the coarse level."""

    width: int = 384
    bottleneck: int = 12  # blocks at the coarse level of the decoder
    c_latent: int = 4
    codebook: int = 8192
    scale: float = 0.43


class MixBlock(nn.Module):
    """Depthwise 3x3 and channelwise perceptron, each with a learnt scale and shift before and a learnt gain after."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gammas = nn.Parameter(torch.zeros(6))
        self.depthwise = nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(width, width, 3, groups=width))
        self.channelwise = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        pad, conv = self.depthwise
        widen, _, narrow = self.channelwise
        g = self.gammas
        h = pad(_scaled_norm(x, g[0], g[1]).permute(0, 3, 1, 2))
        x = plus(x, F.conv2d(h, conv.weight * g[2], conv.bias * g[2], groups=conv.groups))  # the gains go into the small weights
        h = dense(_scaled_norm(x, g[3], g[4]), widen.weight, widen.bias, gelu=True)
        return plus(x, dense(h, narrow.weight * g[5], narrow.bias * g[5]).permute(0, 3, 1, 2))


def _scaled_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift over the channels of x (B, D, H, W), as (B, H, W, D)."""
    width = (x.shape[1],)
    return F.layer_norm(x.permute(0, 2, 3, 1), width, (1 + scale).expand(width), shift.expand(width), EPS)


class VectorQuantizer(nn.Module):
    """The nearest of K learnt vectors, per cell."""

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.codebook = nn.Embedding(entries, width)
        nn.init.uniform_(self.codebook.weight, -1.0 / entries, 1.0 / entries)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, c, h, w) -> nearest vectors of the same shape and their indices (B, h, w)."""
        flat = x.permute(0, 2, 3, 1).flatten(0, 2)
        book = self.codebook.weight.to(flat.dtype)
        nearest = torch.cat([(book.square().sum(1) - 2 * rows @ book.T).argmin(1) for rows in flat.split(16384)])
        index = nearest.view(x.shape[0], x.shape[2], x.shape[3])
        return self.codebook(index).permute(0, 3, 1, 2), index


class StageA(nn.Module):
    """Pictures <-> latents, by a factor of four a side."""

    def __init__(self, config: StageAConfig):
        super().__init__()
        self.config = config
        fine, coarse = config.width // 2, config.width
        self.in_block = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, fine, 1))
        self.down_blocks = nn.Sequential(
            MixBlock(fine, fine * 4),
            nn.Conv2d(fine, coarse, 4, stride=2, padding=1),
            MixBlock(coarse, coarse * 4),
            nn.Sequential(nn.Conv2d(coarse, config.c_latent, 1, bias=False), nn.BatchNorm2d(config.c_latent)),
        )
        self.vquantizer = VectorQuantizer(config.codebook, config.c_latent)
        self.up_blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(config.c_latent, coarse, 1)),
            *(MixBlock(coarse, coarse * 4) for _ in range(config.bottleneck)),
            nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1),
            MixBlock(fine, fine * 4),
        )
        self.out_block = nn.Sequential(nn.Conv2d(fine, 12, 1), nn.PixelShuffle(2))

    def code(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> codes (B, c, h, w) before the quantizer."""
        return self.down_blocks(self.in_block(_channels_last(pixels)))

    def encode(self, pixels: Tensor, quantize: bool = True) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> latents (B, c, h, w) as Stage B draws them."""
        code = self.code(pixels)
        return (self.vquantizer(code)[0] if quantize else code) / self.config.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> pictures (B, 3, H, W), about [0, 1], not clamped."""
        return self.decode_code(latents * self.config.scale)

    def decode_code(self, code: Tensor) -> Tensor:
        """Codes (B, c, h, w), quantized or not -> pictures (B, 3, H, W)."""
        return self.out_block(self.up_blocks(_channels_last(code)))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def commitment(code: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """The two losses of a vector quantizer: book towards code, code towards book (van den Oord et al. 2017, eq. 3)."""
    return F.mse_loss(quantized, code.detach()), F.mse_loss(code, quantized.detach())
