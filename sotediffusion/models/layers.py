"""The blocks that Stage B and Stage C are built of (Pernias et al. 2023, "Wuerstchen"; blocks after ConvNeXt V2).

Features are channels-last: `x (B, H, W, D)`. B batch, H W cells, D width, T condition tokens, N = H * W, E time embedding.
Every 1x1 convolution is a linear map of the last axis; weights keep their convolution shape, as in published files.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .dense import dense, plus
from .response_norm import GlobalResponseNorm

EPS = 1e-6


def layer_norm(x: Tensor) -> Tensor:
    """Normalises the last axis, without learnt scale or shift."""
    return F.layer_norm(x, (x.shape[-1],), eps=EPS)


def time_embedding(r: Tensor, width: int, positions: int = 10000) -> Tensor:
    """Sines and cosines of a noise ratio r (B,) in [0, 1], as (B, width) float32.

    Always float32: at r * 10000 a bfloat16 ratio is off by tens of radians at the highest frequency.
    """
    half = width // 2
    r = r if r.dtype == torch.float64 else r.float()
    frequency = torch.exp(torch.arange(half, device=r.device, dtype=torch.float32) * -(math.log(positions) / (half - 1)))
    phase = r[:, None] * positions * frequency[None, :]
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=1), (0, width % 2))


class Pointwise(nn.Conv2d):
    """A 1x1 convolution applied to channels-last features: (..., d_in) -> (..., d_out)."""

    def __init__(self, d_in: int, d_out: int, bias: bool = True):
        super().__init__(d_in, d_out, kernel_size=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight.flatten(1), self.bias)


class Norm(nn.Module):
    """`layer_norm` as a module without parameters, to hold its place in a sequence of published keys."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x)


class ResBlock(nn.Module):
    """Depthwise 3x3, then a channelwise perceptron that also sees the skip features of the way down."""

    def __init__(self, width: int, skip: int = 0, kernel: int = 3, dropout: float = 0.0):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.channelwise = nn.Sequential(
            nn.Linear(width + skip, width * 4),
            nn.GELU(),
            GlobalResponseNorm(width * 4),
            nn.Dropout(dropout),
            nn.Linear(width * 4, width),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        widen, _, norm, dropout, narrow = self.channelwise
        h = layer_norm(depthwise(x, self.depthwise))
        if skip is not None:
            h = torch.cat([h, skip], dim=-1)
        h = norm(dense(h, widen.weight, widen.bias, gelu=True), overwrite=True)
        return plus(x, dense(dropout(h), narrow.weight, narrow.bias))


def depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Runs a convolution over channels-last features; the permuted views are channels_last memory, nothing is copied."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TimestepBlock(nn.Module):
    """Scale and shift from the noise ratio: x * (1 + a) + b. Other ratios (sca, crp) are zero here and so constant."""

    index: int  # which of `Conditioning.shifts` is this block's

    def __init__(self, width: int, c_r: int, conds: tuple[str, ...]):
        super().__init__()
        self.mapper = nn.Linear(c_r, width * 2)
        self.conds = conds
        for name in conds:
            setattr(self, f"mapper_{name}", nn.Linear(c_r, width * 2))

    def constant(self, zero: Tensor) -> Tensor:
        """What does not change over steps: all biases and the maps of the zero ratios, (2 D,). zero: (1, E)."""
        total = self.mapper.bias
        for name in self.conds:
            total = total + getattr(self, f"mapper_{name}")(zero)[0]
        return total

    def forward(self, x: Tensor, r_embed: Tensor, constant: Tensor) -> Tensor:
        a, b = dense(r_embed, self.mapper.weight, constant)[:, None, None, :].chunk(2, dim=-1)  # (B, 1, 1, D)
        return torch.addcmul(b, x, 1 + a)


class PackedAttention(nn.Module):
    """Multi-head attention with one packed projection: the parameters of q, k and v lie in one tensor."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width * 3, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(width * 3))
        self.out_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, k * D) -> (k, B, heads, N, d)."""
        b, n, _ = x.shape
        width = self.out_proj.in_features
        return x.view(b, n, -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)


class SelfAttention(nn.Module):
    """Holds `attn`, as the published keys do."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = PackedAttention(width, heads)


Told = Tensor | tuple[Tensor, Tensor]  # condition tokens (B, T, c_cond), or a block's keys and values (B, heads, T, d) of them


class AttnBlock(nn.Module):
    """Every cell attends to all cells and to the condition tokens, whose keys and values may come ready-made."""

    index: int  # which of `Conditioning.keys` and `.values` are this block's

    def __init__(self, width: int, c_cond: int, heads: int, self_attn: bool = True, dropout: float = 0.0):
        super().__init__()
        self.self_attn = self_attn
        self.attention = SelfAttention(width, heads)
        self.kv_mapper = nn.Sequential(nn.SiLU(), nn.Linear(c_cond, width))
        self.dropout = nn.Dropout(dropout)

    def key_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the condition tokens (B, T, c_cond): two of (B, heads, T, d)."""
        return self._key_values(tokens)

    def _key_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # the public one may bring weights, which are here already
        attn = self.attention.attn
        width = attn.out_proj.in_features
        kv = F.linear(self.kv_mapper(tokens), attn.in_proj_weight[width:], attn.in_proj_bias[width:])
        k, v = attn.split(kv)
        return k, v

    def forward(self, x: Tensor, told: Told, mask: Tensor | None) -> Tensor:
        """x (B, H, W, D); told: tokens, or their keys and values; mask (B, 1, 1, N + T) additive, or None."""
        attn = self.attention.attn
        key, value = self._key_values(told) if isinstance(told, Tensor) else told
        b, h, w, width = x.shape
        norm = layer_norm(x).reshape(b, h * w, width)
        if self.self_attn:
            q, k, v = attn.split(dense(norm, attn.in_proj_weight, attn.in_proj_bias))
            key, value = torch.cat([k, key.to(k.dtype)], dim=2), torch.cat([v, value.to(v.dtype)], dim=2)
        else:
            (q,) = attn.split(dense(norm, attn.in_proj_weight[:width], attn.in_proj_bias[:width]))
            mask = None if mask is None else mask[..., h * w :]
        out = attend(q, key, value, mask)
        out = dense(out.transpose(1, 2).reshape(b, h, w, width), attn.out_proj.weight, attn.out_proj.bias)
        return plus(x, self.dropout(out))


class UpDown(nn.Module):
    """A 1x1 map with bilinear resizing by two (`switch_level`); used where the level may also keep its size."""

    def __init__(self, d_in: int, d_out: int, up: bool, enabled: bool):
        super().__init__()
        mapping = Pointwise(d_in, d_out)
        resize = Resize(2.0 if up else 0.5) if enabled else nn.Identity()
        self.blocks = nn.ModuleList([resize, mapping] if up else [mapping, resize])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Resize(nn.Module):
    """Bilinear, corners aligned."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        h, w = (int(math.floor(n * self.scale)) for n in x.shape[1:3])
        return resize(x, (h, w))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Channels-last bilinear resize with aligned corners, in float32 or wider."""
    if x.shape[1:3] == size:
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    return F.interpolate(wide.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True).permute(0, 2, 3, 1).to(x.dtype)


class Strided(nn.Module):
    """A 2x2 stride-2 (transposed) convolution over channels-last features, its parameters named as the convolution's own."""

    def __init__(self, d_in: int, d_out: int, up: bool):
        super().__init__()
        self.up = up
        shape = (d_in, d_out, 2, 2) if up else (d_out, d_in, 2, 2)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv_transpose2d if self.up else F.conv2d
        return convolve(x.permute(0, 3, 1, 2), self.weight, self.bias, stride=2).permute(0, 2, 3, 1)
