"""The two networks that measure a cascade, trained on drawn pictures only: a judge reads pixels, a probe reads EffNet latents.

Neither is part of a cascade. The judge learns on slightly roughened pictures too, because it is to read what Stage A draws.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.train.data import Batch, Folder, pixels
from sotediffusion.train.judging import HIDDEN, NAMES, SIZES, targets_of
from sotediffusion.train.loop import Options
from sotediffusion.train.recipes.base import ReadingRecipe, latent_layers, read_part
from sotediffusion.train.recipes.cells import Cells, Reader

JUDGE_DEFAULTS = Options(images=400_000, batch=16, lr=8e-4, decay=0.02, ema=10_000, bf16=True)
PROBE_DEFAULTS = Options(images=400_000, batch=32, lr=8e-4, decay=0.02, ema=10_000)
SHIFT = 8  # px by which pictures are cut, at one side or the other, so that places are not learnt by heart
ROUGH_SHARE = 0.5  # of the pictures, which then no longer have the quality of their tag
SMALLEST, NOISE = 0.6, 0.03  # the roughest: a side redrawn from this share of it; grain on [0, 1]
OWNERS = tuple(i for i, size in enumerate(SIZES) for _ in range(size))  # choices of a group are looked for at one place


class Judge(Cells):
    """Pictures (B, 3, H, W) in [0, 1] of any size -> logits; `shape` is that of Cells."""

    def __init__(self, **shape: tuple[int, ...]):
        super().__init__(**shape)
        self.reader = Reader(self.c_cells, self.c_mixed, OWNERS)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.reader(self.cells(pixels))


class Probe(nn.Module):
    """EffNet latents (B, 16, h, w) -> logits."""

    def __init__(self, c_latent: int = 16, width: int = 160):
        super().__init__()
        self.layers = latent_layers(c_latent, width)
        self.reader = Reader(width, width, OWNERS)

    def forward(self, latents: Tensor) -> Tensor:
        return self.reader(self.layers(latents))


def truth(batch: Batch) -> Tensor:
    """The choices (B, G) that the pictures of a batch show."""
    return torch.tensor([targets_of(tags) for tags in batch.tags])


def told(logits: Tensor) -> Tensor:
    """The likeliest choice of every group (B, G)."""
    return torch.stack([group.argmax(1) for group in logits.split(SIZES, 1)], 1)


def level(logits: Tensor, name: str) -> Tensor:
    """The expected choice (B,) in the ordinal group of this name, between levels too."""
    chances = logits.split(SIZES, 1)[NAMES.index(name)].softmax(1)
    return chances @ torch.arange(chances.shape[1], dtype=chances.dtype, device=chances.device)


def reading_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the groups that pictures show."""
    losses = [
        F.cross_entropy(group, target, ignore_index=HIDDEN, reduction="sum")
        for group, target in zip(logits.split(SIZES, 1), targets.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / (targets != HIDDEN).sum().clamp(min=1)


def shift(picture: Tensor) -> Tensor:
    """(B, 3, H, W) -> the same less SHIFT px of either side."""
    top, left = torch.randint(0, SHIFT + 1, (2,)).tolist()
    return _cut(picture, top, left)


def views(picture: Tensor) -> Tensor:
    """One picture (3, H, W) -> (5, 3, H - SHIFT, W - SHIFT), cut to its middle and corners as the judge learnt to see pictures.

    Whole, a wallpaper's frame lies where no picture of the training had one. The mean of the five logits is the judge's answer.
    """
    places = ((SHIFT // 2, SHIFT // 2), (0, 0), (0, SHIFT), (SHIFT, 0), (SHIFT, SHIFT))
    return torch.stack([_cut(picture, top, left) for top, left in places])


def _cut(picture: Tensor, top: int, left: int) -> Tensor:
    height, width = (length - SHIFT for length in picture.shape[-2:])
    return picture[..., top : top + height, left : left + width]


def roughen(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Softens and grains a share of the pictures (B, 3, H, W) by any amount; also says which (B,)."""
    rough = torch.rand(len(picture), device=picture.device) < ROUGH_SHARE
    amount = (rough * torch.rand(len(picture), device=picture.device))[:, None, None, None]
    scale = 1 - (1 - SMALLEST) * torch.rand(()).item()
    small = F.interpolate(picture, scale_factor=scale, mode="bilinear")
    soft = F.interpolate(small, size=picture.shape[2:], mode="bilinear")
    return picture + amount * (soft - picture + NOISE * torch.randn_like(picture)), rough


class TagsRecipe(ReadingRecipe):
    """Trains one reader of all groups of tags."""

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs as they are varied in training, and choices (B, G)."""
        return self.inputs(batch), truth(batch).to(self.device)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy over all groups that are seen."""
        self.settle()
        inputs, targets = self.examples(batch)
        logits = self.network(inputs)
        loss = reading_loss(logits, targets)
        seen = targets != HIDDEN
        return loss, {"right tags": (told(logits) == targets)[seen].float().mean().item()}


class JudgeRecipe(TagsRecipe):
    """Trains `judge` on pictures."""

    def __init__(self, folder: Folder, network: Judge | None = None):
        super().__init__("judge", network or Judge(), folder)

    def inputs(self, batch: Batch) -> Tensor:
        """Pixels as drawn."""
        return pixels(batch.fields["pictures"].to(self.device))

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Shifted pixels, a share of them roughened and without a quality."""
        picture, rough = roughen(shift(self.inputs(batch)))
        targets = truth(batch).to(self.device)
        targets[rough, NAMES.index("quality")] = HIDDEN
        return picture, targets


class ProbeRecipe(TagsRecipe):
    """Trains `probe` on EffNet latents."""

    def __init__(self, folder: Folder, network: Probe | None = None):
        super().__init__("probe", network or Probe(), folder)

    def inputs(self, batch: Batch) -> Tensor:
        """Latents as encoded."""
        return batch.fields["effnet"].to(self.device).float()


def open_reader(path: Path, network: nn.Module) -> nn.Module:
    """Give a judge or probe the weights in its run folder. Raises UserError when they are not there."""
    return read_part(path, type(network).__name__.lower(), network)
