"""What recipes share that start from a model: the diffusion loss of a network that says what the model says, and conventions."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from sotediffusion.models.cascade import Conventions
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import DiffusionLoss
from sotediffusion.train.recipes.base import Recipe
from sotediffusion.types import UserError

OF_DATA = ("width", "height", "area")  # conventions that follow the sizes trained on, by which no weight means anything else


class Finetune(Recipe):
    """Trains `modules` towards `objective` under the conventions that their weights were made under; `loss` is a recipe's own."""

    def __init__(self, modules: Mapping[str, nn.Module], source: Source, diffusion: DiffusionLoss, conventions: Conventions):
        super().__init__(modules, source)
        self.diffusion, self.conventions = diffusion, conventions

    def conclude(self, join: Callable[[Tensor], Tensor]) -> None:
        """The loss's."""
        self.diffusion.conclude(join)

    def state_dict(self) -> dict[str, Any]:
        """The loss's, and what the weights are trained to expect."""
        return {"loss": self.diffusion.state_dict(), "conventions": asdict(self.conventions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it. UserError: the weights were trained to expect something else."""
        self.check(state)
        self.diffusion.load_state_dict(state["loss"])

    def check(self, state: dict[str, Any]) -> None:
        """UserError where a run would go on from `state` under other conventions than it began with."""
        before = state["conventions"]
        for name, value in asdict(self.conventions).items():
            if name not in OF_DATA and before.get(name, value) != value:
                raise UserError("recipe", f"the run began with {name} = {before[name]} and would go on with {value}; take the "
                                          "settings it began with, or begin another run with --out")
