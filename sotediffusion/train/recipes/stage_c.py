"""Stage C from scratch on the frozen text tower: from a caption to EffNet's latents of the picture."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextTower
from sotediffusion.train.captions import Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, Source
from sotediffusion.train.loss import DiffusionLoss, Objective
from sotediffusion.train.recipes.base import Recipe, no_dropout

DEFAULTS = Options(images=4_000_000, batch=32, lr=8e-4, decay=0.01, ema=8_000, bf16=True)
PREDICTION = "v"  # at this size, saying the noise left the first steps, and with them hair and light, to the seed


class StageCRecipe(Recipe):
    """Trains `stage_c` on cached latents; captions are composed as they are read."""

    def __init__(self, config: CascadeConfig, source: Source, captions: Captions, text: TextTower,
                 objective: Objective = Objective("x0", most=3000.0)):
        stage_c = StageC(config.stage_c)
        stage_c.init_weights()
        no_dropout(stage_c)
        super().__init__({"stage_c": stage_c}, source)
        self.captions, self.text, self.diffusion = captions, text, DiffusionLoss(objective, PREDICTION)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given the captions."""
        tokens, mask = (x.to(self.device) for x in self.captions.encode(batch.tags, batch.keys))
        with torch.no_grad():
            hidden, pooled = self.text(tokens, mask)
        cond = self.modules["stage_c"].condition(hidden, pooled[:, None])
        latents = batch.fields["effnet"].to(self.device).float()
        return self.diffusion(lambda x, r: self.modules["stage_c"](x, r, cond), latents, batch.keys)

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """The loss's."""
        self.diffusion.conclude(join)

    def state_dict(self) -> dict[str, Any]:
        """The loss's."""
        return self.diffusion.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The loss's."""
        self.diffusion.load_state_dict(state)
