"""Stage B, from scratch on the frozen text tower: from EffNet's latents to Stage A's. Crops first, whole pictures after."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.text import TextTower
from sotediffusion.train.captions import Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, Source
from sotediffusion.train.loss import CROP_STREAM, DROP_STREAM, DiffusionLoss, Objective, generator
from sotediffusion.train.recipes.base import Recipe, no_dropout

DEFAULTS = Options(images=1_500_000, batch=16, lr=8e-4, decay=0.01, ema=30_000, bf16=True)
PREDICTION = "v"  # by saying the noise it told less of its EffNet latents, given next to nothing else, than the previewer does
LAYOUT = "cells"  # stretched, six to ten cells cannot be told where they lie
KEEP = 0.9  # share of samples that see their EffNet latents; the others see zeros
EFFNET_NOISE = 0.1  # largest standard deviation of noise on them: what Stage C draws is not exact
CROP = 4  # EffNet cells a side
CELL = 8  # Stage A cells in one EffNet cell
CROPS_UNTIL = 0.6  # progress


class StageBRecipe(Recipe):
    """Trains `stage_b` on cached latents of both kinds."""

    def __init__(self, config: CascadeConfig, source: Source, captions: Captions, text: TextTower,
                 objective: Objective = Objective("x0", most=3000.0)):
        stage_b = StageB(config.stage_b)
        stage_b.init_weights()
        no_dropout(stage_b)
        super().__init__({"stage_b": stage_b}, source)
        self.captions, self.text, self.diffusion = captions, text, DiffusionLoss(objective, PREDICTION)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given EffNet latents and pooled captions."""
        effnet, latents = batch.fields["effnet"].float(), batch.fields["stage_a"].float()
        if self.progress < CROPS_UNTIL:
            effnet, latents = crop(effnet, latents, batch)
        effnet, latents = spoil(effnet, batch).to(self.device), latents.to(self.device)
        tokens, mask = (x.to(self.device) for x in self.captions.encode(batch.tags, batch.keys))
        with torch.no_grad():
            pooled = self.text(tokens, mask)[1]
        size = (latents.shape[2], latents.shape[3])
        stage_b = self.modules["stage_b"]
        cond = stage_b.condition(effnet, pooled[:, None], size, layout=LAYOUT)
        return self.diffusion(lambda x, r: stage_b(x, r, cond), latents, batch.keys)

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """The loss's."""
        self.diffusion.conclude(join)

    def state_dict(self) -> dict[str, Any]:
        """The loss's."""
        return self.diffusion.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The loss's."""
        self.diffusion.load_state_dict(state)


def crop(effnet: Tensor, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same random square of both kinds of latents, on whole EffNet cells; its place follows from the sample's key."""
    parts, cells = [], min(CROP, *effnet.shape[2:])
    for key, coarse, fine in zip(batch.keys, effnet, latents, strict=True):
        rng = generator(*key, CROP_STREAM)
        y, x = (int(rng.integers(0, length - cells + 1)) for length in coarse.shape[1:])
        top, left, side = y * CELL, x * CELL, cells * CELL
        parts.append((coarse[:, y : y + cells, x : x + cells], fine[:, top : top + side, left : left + side]))
    coarse, fine = zip(*parts, strict=True)
    return torch.stack(coarse), torch.stack(fine)


def spoil(effnet: Tensor, batch: Batch) -> Tensor:
    """EffNet latents with a little noise, or zeros, as the sample's key has it."""
    rows = []
    for key, row in zip(batch.keys, effnet, strict=True):
        rng = generator(*key, DROP_STREAM)
        kept, sigma = rng.random() < KEEP, np.float32(rng.uniform(0, EFFNET_NOISE))
        noise = torch.from_numpy(rng.standard_normal(tuple(row.shape), dtype=np.float32))
        rows.append(row + sigma * noise if kept else torch.zeros_like(row))
    return torch.stack(rows)
