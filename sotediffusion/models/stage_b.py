"""Stage B, the decoder's diffusion model: Stage C latent -> a 4-channel latent of a quarter of the picture's side.

B batch, P pooled texts, h w prior cells, H W Stage B cells. https://arxiv.org/abs/2306.00637.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Norm, Pointwise, layer_norm, resize
from .unet import Conditioning, UNet, UNetConfig

# "corners": stretched from corner to corner, so that how wide a cell is hangs on their number; as published.
# "cells": each over what it was made from. Of few cells a small network learns then what a large one learns anyway.
LAYOUTS = ("corners", "cells")


def over_cells(effnet: Tensor, cells: tuple[int, int], layout: str) -> Tensor:
    """Prior latents (B, c, h, w) laid over Stage B's cells: channels-last (B, *cells, c)."""
    if layout == "cells":
        return F.interpolate(effnet, size=cells, mode="nearest-exact").permute(0, 2, 3, 1)
    return resize(effnet.permute(0, 2, 3, 1), cells)


class StageB(UNet):
    """Predicts the noise in a Stage B latent from the Stage C latent and the pooled text."""

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        c = config
        self.effnet_mapper = _mapper(c.c_effnet, c.widths[0])
        self.pixels_mapper = _mapper(c.c_pixels, c.widths[0])
        self.clip_mapper = nn.Linear(c.c_pooled, c.c_cond * c.c_seq)
        self.build_body()

    def condition(self, effnet: Tensor, pooled: Tensor, size: tuple[int, int], pixels: Tensor | None = None,
                  layout: str = "corners") -> Conditioning:  # fmt: skip
        """Everything that stays the same over the steps.

        effnet (B, c_effnet, h, w), any h and w, zeros to leave it out; pooled (B, P, c_pooled); size (H, W) to draw;
        pixels (B, 3, y, x), zeros when None; layout: one of LAYOUTS.
        """
        c = self.config
        tokens = self.clip_mapper(pooled).unflatten(-1, (c.c_seq, c.c_cond)).flatten(1, 2)
        cells = (size[0] // c.patch, size[1] // c.patch)
        if pixels is None:
            pixels = effnet.new_zeros(1, c.c_pixels, 1, 1)  # a constant map: one cell says it all
        spatial = self.effnet_mapper(over_cells(effnet, cells, layout))
        spatial = spatial + resize(self.pixels_mapper(pixels.permute(0, 2, 3, 1)), cells)
        return self.condition_tokens(layer_norm(tokens), spatial=spatial)


def _mapper(d_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(Pointwise(d_in, width * 4), nn.GELU(), Pointwise(width * 4, width), Norm())
