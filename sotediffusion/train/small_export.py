"""What a run trains beside a model, a LoRA or an embedding, as files, written when the run reaches its milestones."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sotediffusion.models.cascade import Cascade
from sotediffusion.train.adapters import pairs_of
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.export import MODELS
from sotediffusion.train.loop import Milestone
from sotediffusion.train.recipes.inversion import Inversion
from sotediffusion.train.recipes.lora import LoraC
from sotediffusion.train.settings import Settings
from sotediffusion.weights import embeddings, licences
from sotediffusion.weights.embeddings import Embedding
from sotediffusion.weights.lora import TEXT_MASK, TRIGGER, Lora, save
from sotediffusion.weights.store import DTYPES


class SmallExport(Milestone):
    """One file a milestone. `base` is the model that it is for."""

    def __init__(self, base: Cascade, recipe: LoraC | Inversion, settings: Settings, folder: Path, every: int, epoch: int,
                 ranks: Ranks):  # fmt: skip
        self.base, self.recipe, self.settings, self.folder, self.ranks = base, recipe, settings, folder / MODELS, ranks
        self.every, self.epoch = every, epoch  # images

    def reach(self, place: dict[str, Any], weights: dict[str, Tensor], last: bool) -> None:
        """Write it as it is now under the name that the run's place gives it."""
        if not self.ranks.first:
            return
        path = self.path(place, last)
        if isinstance(self.recipe, LoraC):
            save(self.lora(self.recipe, weights), path, self.settings.lora.form)
        else:
            vectors = weights["text.vectors"].detach().to("cpu", DTYPES[self.settings.save.dtype])
            embeddings.save(Embedding(path.stem, vectors, self._said()), path)

    def lora(self, recipe: LoraC, weights: dict[str, Tensor]) -> Lora:
        """These weights as what is put into a model."""
        trigger = {TRIGGER: self.settings.lora.trigger} if self.settings.lora.trigger else {}
        pairs = pairs_of(recipe.adapters, weights, DTYPES[self.settings.save.dtype])
        return Lora(pairs, self.settings.name, self._said() | trigger)

    def _said(self) -> dict[str, str]:
        said = {
            "modelspec.license": licences.describe(self.base.license), "ss_base_model_version": "stable-cascade",
            "ss_sd_model_name": self.base.name, TEXT_MASK: self.recipe.conventions.text_mask,
        }  # fmt: skip
        return {key: value for key, value in said.items() if value}

    def path(self, place: dict[str, Any], last: bool) -> Path:
        """Where the file of this place in the run goes."""
        pattern = self.settings.save.final if last else self.settings.save.pattern
        at = {"images": place["images"], "steps": place["steps"], "epoch": place["images"] // self.epoch}
        return self.folder / f"{pattern.format(name=self.settings.name, **at)}.safetensors"
