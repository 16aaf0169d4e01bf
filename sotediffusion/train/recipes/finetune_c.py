"""Stage C from a model that is there, with its text encoder or on it: what the published anime models were made by."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sotediffusion.models.cascade import Conventions
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextTower
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import DiffusionLoss, Objective, Rows
from sotediffusion.train.recipes.base import Recipe
from sotediffusion.types import UserError


def told(text: TextTower, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states (B, K L, D) of K chunks of captions one after the other, and pooled (B, 1, P) of the first, as in drawing."""
    tokens, mask = (batch.fields[name].to(device) for name in ("tokens", "token_mask"))  # (B, K, L)
    hidden, pooled = text(tokens.flatten(0, 1), mask.flatten(0, 1))
    return hidden.unflatten(0, tokens.shape[:2]).flatten(1, 2).float(), pooled.unflatten(0, tokens.shape[:2])[:, :1].float()


def rows_of(batch: Batch, device: torch.device) -> Rows:
    """What counts of a batch's samples."""
    weight, mask = (batch.fields.get(name) for name in ("weight", "mask"))
    return Rows(weight, None if mask is None else mask.to(device), batch.void)


class FinetuneC(Recipe):
    """Trains those of `stage_c` and `text` that require gradients, on EffNet's latents; the other is only used."""

    def __init__(self, stage_c: StageC, text: TextTower, source: Source, objective: Objective, conventions: Conventions):
        networks = {"stage_c": stage_c, "text": text}
        trained = {name: network for name, network in networks.items() if any(p.requires_grad for p in network.parameters())}
        super().__init__(trained, source)
        self.stage_c, self.text = stage_c, text
        self.conventions, self.diffusion = conventions, DiffusionLoss(objective, conventions.prediction_c)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given the captions."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.modules):
            hidden, pooled = told(self.text, batch, self.device)
        cond = self.stage_c.condition(hidden, pooled)
        latents = batch.fields["effnet"].to(self.device).float()
        return self.diffusion(lambda x, r: self.stage_c(x, r, cond), latents, batch.keys, rows_of(batch, self.device))

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """The loss's."""
        self.diffusion.conclude(join)

    def state_dict(self) -> dict[str, Any]:
        """The loss's, and what the weights are trained to expect."""
        return {"loss": self.diffusion.state_dict(), "conventions": asdict(self.conventions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it. UserError: the weights were trained to expect something else."""
        check_conventions(state["conventions"], self.conventions)
        self.diffusion.load_state_dict(state["loss"])


def check_conventions(before: dict[str, Any], now: Conventions) -> None:
    """UserError where a run would go on under other conventions than it began with."""
    for name, value in asdict(now).items():
        if before.get(name, value) != value:
            raise UserError("recipe", f"the run began with {name} = {before[name]} and would go on with {value}; take the "
                                      "settings it began with, or begin another run with --out")
