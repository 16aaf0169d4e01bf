"""The previewer: a quick look at a Stage C latent as a small picture of eight pixels a cell.

B batch, h w prior cells.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class PreviewerConfig:
    """`width` of the first layers; later ones have a half and a quarter of it."""

    width: int = 512
    c_latent: int = 16


class Previewer(nn.Module):
    """Stage C latents (B, 16, h, w) -> pictures (B, 3, 8 h, 8 w), about [0, 1], not clamped."""

    def __init__(self, config: PreviewerConfig):
        super().__init__()
        self.config = config
        w = config.width
        steps = [
            nn.Conv2d(config.c_latent, w, 1),
            nn.Conv2d(w, w, 3, padding=1),
            nn.ConvTranspose2d(w, w // 2, 2, 2),
            nn.Conv2d(w // 2, w // 2, 3, padding=1),
            nn.ConvTranspose2d(w // 2, w // 4, 2, 2),
            nn.Conv2d(w // 4, w // 4, 3, padding=1),
            nn.ConvTranspose2d(w // 4, w // 4, 2, 2),
            nn.Conv2d(w // 4, w // 4, 3, padding=1),
        ]
        layers: list[nn.Module] = []
        for step in steps:
            layers += [step, nn.GELU(), nn.BatchNorm2d(step.out_channels)]
        self.blocks = nn.Sequential(*layers, nn.Conv2d(w // 4, 3, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return self.blocks(latents)
