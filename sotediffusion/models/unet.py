"""The body that Stage B and Stage C share: an embedding, levels of blocks down and up with skips, and a read-out.

x (B, c_in, h, w) latent; r (B,) noise ratio in [0, 1]; features are channels-last (B, h, w, D). T condition tokens.
Wuerstchen: https://arxiv.org/abs/2306.00637.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import AttnBlock, Norm, Pointwise, ResBlock, Strided, TimestepBlock, Told, UpDown, resize, time_embedding


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a Stage B or Stage C network; tuples go by level, the finest first, `up` tuples the coarsest first."""

    c_latent: int = 16  # channels in and out
    patch: int = 1  # latent cells per feature cell, along one side
    c_r: int = 64  # width of the time embedding
    c_cond: int = 2048  # width of the condition tokens
    widths: tuple[int, ...] = (2048, 2048)
    heads: tuple[int, ...] = (32, 32)
    down: tuple[int, ...] = (8, 24)  # layers a level on the way down
    up: tuple[int, ...] = (24, 8)  # layers a level on the way up, coarsest first
    down_repeats: tuple[int, ...] = (1, 1)
    up_repeats: tuple[int, ...] = (1, 1)
    levels: tuple[str, ...] = ("CTA", "CTA")  # C residual, T time step, A attention
    switch_level: tuple[bool, ...] | None = None  # None: strided convolutions between levels
    self_attn: bool = True
    dropout: tuple[float, ...] = (0.1, 0.1)
    kernel: int = 3
    conds: tuple[str, ...] = ("sca", "crp")  # further ratios of the time step blocks, always zero here
    c_text: int = 1280  # 0: no token sequence
    c_pooled: int = 1280
    c_image: int = 768  # 0: no CLIP image embedding
    c_seq: int = 4  # condition tokens from each pooled embedding
    c_effnet: int = 0  # 0: no EffNet map
    c_pixels: int = 0  # 0: no pixel map


@dataclass
class Conditioning:
    """Everything about a picture that stays the same over its steps.

    To draw: keys, values: one of (B, heads, T, d) per attention block. To train, where there is one step: both empty and
    tokens (B, T, c_cond), of which each block makes its own, so that what that takes is freed with the block.
    shifts: one of (2 D,) per time step block. mask: (B, T), true where a token may be seen; None: everywhere.
    spatial: (B, h, w, D) added to the embedding, or None.
    """

    keys: list[Tensor]
    values: list[Tensor]
    shifts: list[Tensor]
    mask: Tensor | None = None
    spatial: Tensor | None = None
    tokens: Tensor | None = None

    def told(self, index: int) -> Told:
        """What an attention block is told."""
        return (self.keys[index], self.values[index]) if self.tokens is None else self.tokens

    @property
    def seen(self) -> Tensor:
        """(B, T), true where a token may be seen."""
        if self.mask is not None:
            return self.mask
        told = self.keys[0] if self.tokens is None else self.tokens
        return torch.ones(told.shape[0], told.shape[-2], dtype=torch.bool, device=told.device)

    @staticmethod
    def cat(parts: list["Conditioning"]) -> "Conditioning":
        """Rows of several conditionings in one batch; shorter texts are padded and masked."""
        if len(parts) == 1:
            return parts[0]
        lengths = [part.seen.shape[1] for part in parts]
        length = max(lengths)
        ragged = min(lengths) < length or any(part.mask is not None for part in parts)
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return Conditioning(
            keys=[_cat_padded(rows, length) for rows in zip(*(part.keys for part in parts), strict=True)],
            values=[_cat_padded(rows, length) for rows in zip(*(part.values for part in parts), strict=True)],
            shifts=parts[0].shifts,
            mask=torch.cat([F.pad(part.seen, (0, length - part.seen.shape[1])) for part in parts]) if ragged else None,
            spatial=None if parts[0].spatial is None else torch.cat([_spatial(part) for part in parts]),
            tokens=_cat_padded(tuple(tokens), length) if tokens else None,
        )

    def rows(self, index: Tensor) -> "Conditioning":
        """The rows of a batch that `index` (n,) names, in its order."""
        return Conditioning(
            [key[index] for key in self.keys],
            [value[index] for value in self.values],
            self.shifts,
            None if self.mask is None else self.mask[index],
            None if self.spatial is None else self.spatial[index],
            None if self.tokens is None else self.tokens[index],
        )


def _cat_padded(rows: tuple[Tensor, ...], length: int) -> Tensor:
    return torch.cat([F.pad(row, (0, 0, 0, length - row.shape[-2])) for row in rows])


def _spatial(part: Conditioning) -> Tensor:
    assert part.spatial is not None
    return part.spatial


class UNet(nn.Module):
    """Levels of blocks down and up again. Stages register their own mappers first, then call `build_body`."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config

    def build_body(self) -> None:
        """Registers the layers in the order of the published files."""
        c = self.config
        self.embedding: Any = nn.Sequential(Unshuffle(c.patch), Pointwise(c.c_latent * c.patch**2, c.widths[0]), Norm())
        self.down_blocks, self.down_downscalers, self.down_repeat_mappers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.up_blocks, self.up_upscalers, self.up_repeat_mappers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        levels = len(c.widths)
        for i in range(levels):
            self.down_downscalers.append(self._between(i, up=False))
            self.down_blocks.append(self._level(i, c.down[i], skip=False))
            self.down_repeat_mappers.append(self._repeats(i, c.down_repeats[i]))
        for i in reversed(range(levels)):
            self.up_blocks.append(self._level(i, c.up[levels - 1 - i], skip=i < levels - 1))
            self.up_upscalers.append(self._between(i, up=True))
            self.up_repeat_mappers.append(self._repeats(i, c.up_repeats[levels - 1 - i]))
        self.clf: Any = nn.Sequential(Norm(), Pointwise(c.widths[0], c.c_latent * c.patch**2), Shuffle(c.patch))
        for kind in (AttnBlock, TimestepBlock):
            for index, block in enumerate(self.blocks(kind)):
                block.index = index

    def _between(self, i: int, up: bool) -> nn.Module:
        if i == 0:
            return nn.Identity()
        c = self.config
        fine, coarse = c.widths[i - 1], c.widths[i]
        d_in, d_out = (coarse, fine) if up else (fine, coarse)
        if c.switch_level is None:
            return nn.Sequential(Norm(), Strided(d_in, d_out, up))
        return nn.Sequential(Norm(), UpDown(d_in, d_out, up, c.switch_level[i - 1]))

    def _repeats(self, i: int, repeats: int) -> nn.ModuleList:
        return nn.ModuleList(Pointwise(self.config.widths[i], self.config.widths[i]) for _ in range(repeats - 1))

    def _level(self, i: int, layers: int, skip: bool) -> nn.ModuleList:
        c = self.config
        width = c.widths[i]
        blocks: list[nn.Module] = []
        for layer in range(layers):
            for kind in c.levels[i]:
                if kind == "C":
                    blocks.append(ResBlock(width, width if skip and layer == 0 else 0, c.kernel, c.dropout[i]))
                elif kind == "T":
                    blocks.append(TimestepBlock(width, c.c_r, c.conds))
                else:
                    blocks.append(AttnBlock(width, c.c_cond, c.heads[i], c.self_attn, c.dropout[i]))
        return nn.ModuleList(blocks)

    def init_weights(self) -> None:
        """Weights to train from scratch, as the reference starts: an identity in noise ratio, zeros read out, quiet inputs."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if "mapper" in name.split(".")[0] and isinstance(module, (nn.Linear, nn.Conv2d)) and "repeat" not in name:
                nn.init.normal_(module.weight, std=0.02)
        nn.init.xavier_uniform_(self.embedding[1].weight, gain=0.02)
        nn.init.zeros_(self.clf[1].weight)
        for block in self.blocks(ResBlock):
            block.channelwise[-1].weight.data.mul_(sum(self.config.down) ** -0.5)
        for block in self.blocks(TimestepBlock):
            for mapper in (block.mapper, *(getattr(block, f"mapper_{name}") for name in block.conds)):
                nn.init.zeros_(mapper.weight)

    def blocks(self, kind: type) -> Iterator[Any]:
        """All blocks of one kind, in the order of the forward pass."""
        levels: tuple[Any, ...] = (*self.down_blocks, *self.up_blocks)
        return (block for level in levels for block in level if isinstance(block, kind))

    def condition_tokens(self, tokens: Tensor, mask: Tensor | None = None, spatial: Tensor | None = None) -> Conditioning:
        """The step-constant part of every block for normalised condition tokens (B, T, c_cond); with gradients, for one step."""
        once = torch.is_grad_enabled()
        pairs = [] if once else [block.key_values(tokens) for block in self.blocks(AttnBlock)]
        zero = time_embedding(tokens.new_zeros(1, dtype=torch.float32), self.config.c_r).to(tokens.dtype)
        shifts = [block.constant(zero) for block in self.blocks(TimestepBlock)]
        return Conditioning([k for k, _ in pairs], [v for _, v in pairs], shifts, mask, spatial, tokens if once else None)

    def forward(self, x: Tensor, r: Tensor, cond: Conditioning) -> Tensor:
        """Predicted noise (B, c, h, w) of latents x (B, c, h, w) at noise ratios r (B,), float32."""
        dtype = self.clf[1].weight.dtype
        r_embed = time_embedding(r, self.config.c_r).to(dtype)
        h = self.embedding(x.to(dtype).permute(0, 2, 3, 1))
        if cond.spatial is not None:
            h = h + cond.spatial
        return self._up(self._down(h, r_embed, cond), r_embed, cond).permute(0, 3, 1, 2)

    def _down(self, x: Tensor, r_embed: Tensor, cond: Conditioning) -> list[Tensor]:
        skips: list[Tensor] = []
        for blocks, downscale, repeats in zip(self.down_blocks, self.down_downscalers, self.down_repeat_mappers, strict=True):
            x = downscale(x)
            x = self._run(blocks, repeats, x, None, r_embed, cond)
            skips.insert(0, x)
        return skips

    def _up(self, skips: list[Tensor], r_embed: Tensor, cond: Conditioning) -> Tensor:
        x = skips[0]
        for i, (blocks, upscale, repeats) in enumerate(
            zip(self.up_blocks, self.up_upscalers, self.up_repeat_mappers, strict=True)
        ):
            x = upscale(self._run(blocks, repeats, x, skips[i] if i else None, r_embed, cond))
        return self.clf(x)

    def _run(self, blocks: Any, repeats: Any, x: Tensor, skip: Tensor | None,
             r_embed: Tensor, cond: Conditioning) -> Tensor:
        if skip is not None:
            x = resize(x, (skip.shape[1], skip.shape[2]))  # an odd level comes back one cell short
        mask = attention_mask(cond.mask, x)
        for again in range(len(repeats) + 1):
            for i, block in enumerate(blocks):
                if isinstance(block, ResBlock):
                    x = block(x, skip if i == 0 else None)
                elif isinstance(block, TimestepBlock):
                    x = block(x, r_embed, cond.shifts[block.index])
                else:
                    x = block(x, cond.told(block.index), mask)
            if again < len(repeats):
                x = repeats[again](x)
        return x


def attention_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """(B, T) of seen tokens -> (B, 1, 1, N + T) to add to attention scores; cells always see each other."""
    if mask is None:
        return None
    seen = F.pad(mask, (x.shape[1] * x.shape[2], 0), value=True)
    return torch.zeros_like(seen, dtype=x.dtype).masked_fill_(~seen, float("-inf"))[:, None, None, :]


class Unshuffle(nn.Module):
    """(B, h, w, c) -> (B, h/p, w/p, c p p), channels ordered as torch's pixel_unshuffle."""

    def __init__(self, patch: int):
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return x if self.patch == 1 else F.pixel_unshuffle(x.permute(0, 3, 1, 2), self.patch).permute(0, 2, 3, 1)


class Shuffle(nn.Module):
    """The way back of `Unshuffle`."""

    def __init__(self, patch: int):
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return x if self.patch == 1 else F.pixel_shuffle(x.permute(0, 3, 1, 2), self.patch).permute(0, 2, 3, 1)
