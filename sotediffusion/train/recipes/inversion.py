"""Textual inversion on a model that is there: nothing but the vectors of one word learns."""

from dataclasses import replace

from torch import Tensor

from sotediffusion.models.cascade import Cascade, Conventions
from sotediffusion.train.data import Batch
from sotediffusion.train.inversion import Words
from sotediffusion.train.loop import Source
from sotediffusion.train.loss import Objective
from sotediffusion.train.recipes.finetune_c import FinetuneC


class Inversion(FinetuneC):
    """The loss of fine-tuning on captions that begin with the word."""

    def __init__(self, cascade: Cascade, words: Words, source: Source, objective: Objective, conventions: Conventions):
        super().__init__(cascade.stage_c, cascade.text, source, objective, conventions, {"text": words})
        self.words = words

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The diffusion loss given the captions with the word."""
        tokens, mask = self.words.say(batch.fields["tokens"], batch.fields["token_mask"])
        return super().loss(replace(batch, fields=batch.fields | {"tokens": tokens, "token_mask": mask}))
