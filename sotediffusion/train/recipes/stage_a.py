"""Stage A: a vector-quantized autoencoder on crops, crisp by multi-scale L1 on pixels and on their differences.

The code's BatchNorm is fixed at the model's scale, so latents have unit variance by construction. The decoder learns on
quantized codes and on slightly noised unquantized ones, because what Stage B draws lies between codebook entries.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.stage_a import StageA, commitment
from sotediffusion.train.data import Batch, Folder, pixels
from sotediffusion.train.loop import Options
from sotediffusion.train.loss import CROP_STREAM, generator
from sotediffusion.train.recipes.base import Recipe, refresh_norms

DEFAULTS = Options(images=600_000, batch=8, lr=1.5e-3, decay=0.0, ema=20_000, bf16=True)
CROP = 128  # px
SCALES = (1, 2, 4)  # at which pixels and differences are compared
DIFFERENCE_WEIGHT = 1.0
COMMITMENT = 0.25
CODE_NOISE = 0.15  # of a latent's standard deviation
QUANTIZED_SHARE = 0.5  # of the samples
PATIENCE = 200  # batches after which a codebook entry nobody chose is moved to where codes are
NORM_BATCHES = 16


def crop(batch: Batch, side: int) -> Tensor:
    """A random square of each picture, no larger than it: uint8 (B, side, side, 3); its place follows from the sample's key."""
    pictures = batch.fields["pictures"]
    side = min(side, *pictures.shape[1:3])
    result = []
    for key, picture in zip(batch.keys, pictures, strict=True):
        rng = generator(*key, CROP_STREAM)
        y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        result.append(picture[y : y + side, x : x + side])
    return torch.stack(result)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over SCALES of L1 between pictures and between their horizontal and vertical differences."""
    total = output.new_zeros(())
    for scale in SCALES:
        a, b = (F.avg_pool2d(x, scale) if scale > 1 else x for x in (output, target))
        total = total + F.l1_loss(a, b) + DIFFERENCE_WEIGHT * (_difference(a, b, 2) + _difference(a, b, 3)) / 2
    return total / len(SCALES)


def _difference(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return F.l1_loss(a.diff(dim=dim), b.diff(dim=dim))


class StageARecipe(Recipe):
    """Trains `stage_a`; remembers since when each codebook entry has not been chosen."""

    def __init__(self, config: CascadeConfig, folder: Folder):
        stage_a = StageA(config.stage_a)
        norm = stage_a.down_blocks[-1][1]
        nn.init.constant_(norm.weight, config.stage_a.scale)
        norm.requires_grad_(False)
        nn.init.normal_(stage_a.vquantizer.codebook.weight, std=config.stage_a.scale)
        super().__init__({"stage_a": stage_a.to(memory_format=torch.channels_last)}, folder)
        self.idle = torch.zeros(config.stage_a.codebook, dtype=torch.int64)
        self.noise = CODE_NOISE * config.stage_a.scale

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction from quantized and from noised codes, and the quantizer's two losses."""
        stage_a = self.modules["stage_a"]
        picture = pixels(crop(batch, CROP).to(self.device))
        code = stage_a.code(picture).float()
        with torch.autocast(picture.device.type, enabled=False):
            self._revive(code)
            quantized, index = stage_a.vquantizer(code)
        self._count(index)
        book, commit = commitment(code, quantized)
        straight = code + (quantized - code).detach()
        exact = torch.rand(len(code), 1, 1, 1, device=code.device) < QUANTIZED_SHARE
        output = stage_a.decode_code(torch.where(exact, straight, code + self.noise * torch.randn_like(code))).float()
        picture_loss = reconstruction_loss(output, picture)
        scale = stage_a.config.scale**2
        loss = picture_loss + (book + COMMITMENT * commit) / scale
        numbers = {"L1": F.l1_loss(output, picture).item(), "quantization error": (commit / scale).item() ** 0.5,
                   "idle codes": float((self.idle > PATIENCE).sum())}
        return loss, numbers

    @torch.no_grad()
    def _revive(self, code: Tensor) -> None:
        """Move the entries that were idle too long to codes of this batch."""
        stale = (self.idle > PATIENCE).nonzero()[:, 0]
        if not len(stale):
            return
        flat = code.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = flat[torch.randint(len(flat), (len(stale),), device=flat.device)]
        self.modules["stage_a"].vquantizer.codebook.weight[stale.to(flat.device)] = chosen
        self.idle[stale] = 0

    def _count(self, index: Tensor) -> None:
        self.idle += 1
        self.idle[index.flatten().cpu()] = 0

    def state_dict(self) -> dict[str, Any]:
        """How long each entry has been idle."""
        return {"idle": self.idle}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.idle.copy_(state["idle"])

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stage A, its code's statistics measured anew on whole pictures for the averaged weights."""
        modules = copy.deepcopy(self.modules)
        modules.load_state_dict(averages)
        book = "stage_a.vquantizer.codebook.weight"  # entries jump when revived, so that their averages mean nothing
        modules.load_state_dict({book: self.modules.state_dict()[book]}, strict=False)

        def forward(batch: Batch) -> None:
            modules["stage_a"].code(pixels(batch.fields["pictures"].to(self.device)))

        refresh_norms(modules, forward, self.source.batches(1, 0, 8), NORM_BATCHES)
        return modules.state_dict()
