"""What the tagger and the judge see a picture with: features of small cells, and how choices are read from them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.models.effnet import Block

EXPANDS = (1, 2, 3, 3, 2)


class Cells(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> features (B, `c_cells`, H/16, W/16), those of 32 px beside those of 16."""

    def __init__(self, widths: tuple[int, ...] = (24, 32, 64, 112, 160), layers: tuple[int, ...] = (1, 1, 2, 3, 2)):
        super().__init__()
        stages, d_in = [], 3
        for width, count, expand in zip(widths, layers, EXPANDS, strict=True):
            blocks = [Block(d_in if j == 0 else width, width, expand, 2 if j == 0 else 1, fused=True) for j in range(count)]
            stages.append(nn.Sequential(*blocks))
            d_in = width
        self.fine, self.wide = nn.Sequential(*stages[:-1]), stages[-1]
        self.c_cells, self.c_mixed = widths[-2] + widths[-1], 2 * widths[-2]
        for block in self.modules():
            if isinstance(block, Block) and block.residual:
                nn.init.zeros_(block.block[-1][1].weight)  # a shallow start (Goyal et al. 2017)

    def cells(self, picture: Tensor) -> Tensor:
        """The features."""
        fine = self.fine(((picture - 0.5) / 0.25).contiguous(memory_format=torch.channels_last))
        return torch.cat([fine, F.interpolate(self.wide(fine), size=fine.shape[2:])], 1)


class Reader(nn.Module):
    """Features (B, d, h, w) -> logits (B, choices): looks where it has learnt to look for each, and at the whole.

    The whole, and where in the picture a cell lies, say what no cell shows: how much of a figure is seen, how many there are.
    `owners`: for each choice which of the looks it is read by; those of one group share one.
    """

    def __init__(self, d_in: int, width: int, owners: Sequence[int]):
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(d_in + 2, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.look = nn.Conv2d(width, max(owners) + 1, 1)
        self.say = nn.Conv2d(width, len(owners), 1)
        self.whole = nn.Linear(width, len(owners), bias=False)
        for module in (self.look, self.whole):  # at first everywhere alike, and nothing of the whole
            nn.init.zeros_(module.weight)
        self.register_buffer("owners", torch.tensor(owners), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mix(torch.cat([features, places(features)], 1))
        looks = self.look(x).float().flatten(2).softmax(2)  # B looks cells
        said = self.say(x).float().flatten(2)  # B choices cells
        return (looks[:, self.owners] * said).sum(2) + self.whole(x.mean((2, 3))).float()


def places(features: Tensor) -> Tensor:
    """How far down and how far right each cell of (B, d, h, w) lies, from -1 to 1: (B, 2, h, w)."""
    down, right = (torch.linspace(-1, 1, length, device=features.device, dtype=features.dtype) for length in features.shape[2:])
    rows = features.shape[0]  # not len(): a trace for ONNX would keep the number
    return torch.stack(torch.meshgrid(down, right, indexing="ij")).expand(rows, -1, -1, -1)
