"""What the tagger and the judge see a picture with: features of small cells that know their wider surroundings."""

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


def mixing(d_in: int, width: int) -> nn.Sequential:
    """A cell's features, mixed."""
    return nn.Sequential(nn.Conv2d(d_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
