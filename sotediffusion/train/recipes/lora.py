"""A LoRA on a model that is there: Stage C's, the text encoder's, or both; the model's own weights stay as they are."""

from collections.abc import Mapping

from sotediffusion.models.cascade import Cascade, Conventions
from sotediffusion.train.adapters import Adapters, LoraSettings
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import Objective
from sotediffusion.train.recipes.finetune_c import FinetuneC


class LoraC(FinetuneC):
    """The loss of fine-tuning, of which only the adapters learn; `modules` are these and nothing else."""

    def __init__(self, cascade: Cascade, adapters: Mapping[str, Adapters], source: Source, objective: Objective,
                 conventions: Conventions):  # fmt: skip
        super().__init__(cascade.stage_c, cascade.text, source, objective, conventions, adapters)
        self.adapters = dict(adapters)


def adapters_of(cascade: Cascade, settings: LoraSettings, rates: Mapping[str, float], seed: int) -> dict[str, Adapters]:
    """Adapters on every part that has a learning rate."""
    parts = [part for part in ("stage_c", "text") if rates.get(part)]
    return {part: Adapters(part, getattr(cascade, part), settings, seed + number) for number, part in enumerate(parts)}
