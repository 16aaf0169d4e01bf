"""Stage C from a model that is there, with its text encoder or on it: what the published anime models were made by."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sotediffusion.models.cascade import Conventions
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextTower
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import DiffusionLoss, Objective, Rows
from sotediffusion.train.recipes.finetune import Finetune


def told(text: TextTower, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states (B, K L, D) of K chunks of captions one after the other, and pooled (B, 1, P) of the first, as in drawing."""
    tokens, mask = (batch.fields[name].to(device) for name in ("tokens", "token_mask"))  # (B, K, L)
    hidden, pooled = text(tokens.flatten(0, 1), mask.flatten(0, 1))
    return hidden.unflatten(0, tokens.shape[:2]).flatten(1, 2).float(), pooled.unflatten(0, tokens.shape[:2])[:, :1].float()


def rows_of(batch: Batch, device: torch.device) -> Rows:
    """What counts of a batch's samples."""
    weight, mask = (batch.fields.get(name) for name in ("weight", "mask"))
    return Rows(weight, None if mask is None else mask.to(device), batch.void)


class FinetuneC(Finetune):
    """Trains those of `stage_c` and `text` that require gradients on EffNet's latents, or `modules` that change what these do."""

    def __init__(self, stage_c: StageC, text: TextTower, source: Source, objective: Objective, conventions: Conventions,
                 modules: Mapping[str, nn.Module] | None = None):  # fmt: skip
        if modules is None:
            networks = {"stage_c": stage_c, "text": text}
            modules = {name: network for name, network in networks.items() if any(p.requires_grad for p in network.parameters())}
        super().__init__(modules, source, DiffusionLoss(objective, conventions.prediction_c), conventions)
        self.stage_c, self.text = stage_c, text

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given the captions."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.modules):
            hidden, pooled = told(self.text, batch, self.device)
        cond = self.stage_c.condition(hidden, pooled)
        latents = batch.fields["effnet"].to(self.device).float()
        return self.diffusion(lambda x, r: self.stage_c(x, r, cond), latents, batch.keys, rows_of(batch, self.device))
