"""EffNet, the encoder whose 16-channel maps Stage C learns to draw: EfficientNetV2-S features and a normalised 1x1 map.

B batch, H W pixels, h = H / 32, w = W / 32. Tan & Le 2021 (EfficientNetV2, table 4); keys are torchvision's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, per RGB channel


@dataclass(frozen=True)
class EffNetConfig:
    """Widths of the stem, of the six stages and of the head. The S network's are the defaults."""

    stem: int = 24
    widths: tuple[int, ...] = (24, 48, 64, 128, 160, 256)
    layers: tuple[int, ...] = (2, 4, 4, 6, 9, 15)
    expand: tuple[int, ...] = (1, 4, 4, 4, 6, 6)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2)
    fused: int = 3  # how many stages, from the first, use fused blocks
    head: int = 1280
    c_latent: int = 16


def _conv(d_in: int, d_out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(d_out, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.SiLU()) if act else nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channels gate themselves by their mean over the picture (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Block(nn.Module):
    """An inverted bottleneck; fused: its expansion and depthwise convolution are one 3x3 convolution."""

    def __init__(self, d_in: int, d_out: int, expand: int, stride: int, fused: bool):
        super().__init__()
        hidden = d_in * expand
        self.residual = stride == 1 and d_in == d_out
        layers: list[nn.Module]
        if fused and expand == 1:
            layers = [_conv(d_in, d_out, 3, stride)]
        elif fused:
            layers = [_conv(d_in, hidden, 3, stride), _conv(hidden, d_out, 1, act=False)]
        else:
            layers = [_conv(d_in, hidden, 1), _conv(hidden, hidden, 3, stride, groups=hidden)]
            layers += [SqueezeExcite(hidden, max(1, d_in // 4)), _conv(hidden, d_out, 1, act=False)]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class EffNetEncoder(nn.Module):
    """Pictures -> Stage C latents. The last BatchNorm is the normaliser: there is no scale or shift besides."""

    def __init__(self, config: EffNetConfig):
        super().__init__()
        self.config = config
        stages = [_conv(3, config.stem, 3, 2)]
        d_in = config.stem
        for i, width in enumerate(config.widths):
            fused = i < config.fused
            blocks = []
            for layer in range(config.layers[i]):
                blocks.append(Block(d_in, width, config.expand[i], config.strides[i] if layer == 0 else 1, fused))
                d_in = width
            stages.append(nn.Sequential(*blocks))
        stages.append(_conv(d_in, config.head, 1))
        self.backbone = nn.Sequential(*stages)
        self.mapper = nn.Sequential(
            nn.Conv2d(config.head, config.c_latent, 1, bias=False), nn.BatchNorm2d(config.c_latent, affine=False)
        )

    def features(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> latents (B, 16, h, w)."""
        return self.mapper(self.backbone(x.contiguous(memory_format=torch.channels_last)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> latents (B, 16, h, w)."""
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        return self.features((pixels - mean) / std)
