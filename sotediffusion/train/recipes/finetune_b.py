"""Stage B from a model that is there: from EffNet's latents of a picture, seen at one of many sizes, to Stage A's latents.

Pernias et al. 2023, as the reference trains it: the map is left out of one sample in ten, and the picture that it is made of has
two thirds to four thirds of the size that Stage C's latents stand for. The reference takes nearest pixels for that and one size a
batch; here pictures are reduced without aliasing and each sample has a size of its own, so that it is the same in any batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.models.cascade import Conventions
from sotediffusion.models.stage_a import StageA
from sotediffusion.models.stage_b import StageB, over_cells
from sotediffusion.models.text import TextTower
from sotediffusion.train.data import Batch, pixels
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import DROP_STREAM, DiffusionLoss, Objective, generator
from sotediffusion.train.recipes.finetune import Finetune
from sotediffusion.train.recipes.finetune_c import rows_of, told

KEEP = 0.9  # share of samples that see their EffNet latents; the others see zeros
SMALLEST, LARGEST = 2 / 3, 4 / 3  # of the size that EffNet sees for Stage C
CELL = 32  # px that EffNet sees in a latent cell


class FinetuneB(Finetune):
    """Trains `stage_b`; `text`, `effnet` and `stage_a` are only used."""

    def __init__(self, stage_b: StageB, frozen: dict[str, nn.Module], source: Source, objective: Objective,
                 conventions: Conventions):  # fmt: skip
        super().__init__({"stage_b": stage_b}, source, DiffusionLoss(objective, conventions.prediction_b), conventions)
        self.frozen, self.patch = frozen, stage_b.config.patch

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given EffNet latents and pooled captions."""
        stage_b = self.modules["stage_b"]
        picture = pixels(batch.fields["pictures"].to(self.device))
        with torch.no_grad():
            latents = _stage_a(self.frozen["stage_a"], picture)
            cells = latents.shape[2] // self.patch, latents.shape[3] // self.patch
            effnet = self.look(picture, batch, cells)
            pooled = told(_text(self.frozen["text"]), batch, self.device)[1]
        cond = stage_b.condition(effnet, pooled, (latents.shape[2], latents.shape[3]))
        rows = rows_of(batch, self.device)
        mask = None if rows.mask is None else F.interpolate(rows.mask, latents.shape[2:], mode="bilinear")
        return self.diffusion(lambda x, r: stage_b(x, r, cond), latents, batch.keys, type(rows)(rows.weight, mask, rows.void))

    def look(self, picture: Tensor, batch: Batch, cells: tuple[int, int]) -> Tensor:
        """EffNet latents (B, c, *cells) of pictures (B, 3, H, W), each seen at a size of its own and laid on Stage B's cells."""
        effnet = self.frozen["effnet"]
        weight = next(effnet.parameters())
        seen = []
        for row, key in zip(picture, batch.keys, strict=True):
            rng = generator(*key, DROP_STREAM)
            kept, factor = rng.random() < KEEP, rng.uniform(SMALLEST, LARGEST) * CELL / self.conventions.compression
            size = [max(1, int(side * factor / CELL)) * CELL for side in row.shape[1:]]
            small = F.interpolate(row[None], size, mode="bilinear", antialias=True, align_corners=False)
            latent = over_cells(effnet(small.to(weight)), cells, self.conventions.prior_layout).permute(0, 3, 1, 2).float()
            seen.append(latent if kept else torch.zeros_like(latent))
        return torch.cat(seen)


def _stage_a(network: nn.Module, picture: Tensor) -> Tensor:
    assert isinstance(network, StageA)
    weight = next(network.parameters())
    return network.encode(picture.to(weight), quantize=False).float()


def _text(network: nn.Module) -> TextTower:
    assert isinstance(network, TextTower)
    return network
