"""The text tower before Stage C: captions and pictures find each other (CLIP, Radford et al. 2021), so that it can already read.

From scratch inside Stage C a tower learns slowly: what a text says decides little of a prediction's error. Asked which of a
batch's pictures a caption belongs to, it must gather every tag in its pooled vector from the first step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.text import TextTower
from sotediffusion.train.captions import Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, Source
from sotediffusion.train.recipes.base import LatentHead, Recipe

DEFAULTS = Options(images=300_000, batch=128, lr=1e-3, decay=0.02, ema=10_000, bf16=True)
COLDEST = math.log(100)  # the largest scale of similarities, as published
WARM = math.log(1 / 0.07)  # the first one


def init_text(tower: TextTower) -> None:
    """CLIP's start (Radford et al. 2021): small embeddings, residual branches scaled down by depth."""
    width, layers = tower.config.width, tower.config.layers
    for name, module in tower.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("out_proj", "fc2"))
            nn.init.normal_(module.weight, std=width**-0.5 * ((2 * layers) ** -0.5 if residual else 1.0))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(tower.text_model.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.text_model.embeddings.position_embedding.weight, std=0.01)


class PictureHead(LatentHead):
    """The other side of the comparison, and how much similarities count."""

    def __init__(self, c_latent: int, width: int):
        super().__init__(c_latent, width)
        self.scale = nn.Parameter(torch.tensor(WARM))  # as a logarithm


class TextRecipe(Recipe):
    """Trains `text` against cached latents; `head` is thrown away."""

    def __init__(self, config: CascadeConfig, source: Source, captions: Captions):
        text = TextTower(config.text)
        init_text(text)
        super().__init__({"text": text, "head": PictureHead(config.effnet.c_latent, config.text.projection)}, source)
        self.captions = captions

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of finding the picture of each caption and the caption of each picture."""
        tokens, mask = (x.to(self.device) for x in self.captions.encode(batch.tags, batch.keys))
        told = F.normalize(self.modules["text"](tokens, mask)[1].float(), dim=1)
        seen = F.normalize(self.modules["head"](batch.fields["effnet"].to(self.device).float()).float(), dim=1)
        scores = self.modules["head"].scale.clamp(max=COLDEST).exp() * told @ seen.T
        truth = torch.arange(len(scores), device=scores.device)
        loss = (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2
        return loss, {"found": (scores.argmax(1) == truth).float().mean().item()}

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower's."""
        return {key: value for key, value in averages.items() if key.startswith("text.")}
