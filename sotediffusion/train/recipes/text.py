"""The text tower, before anything is drawn: every tag of a caption must be told from its tokens and from its pooled vector.

Inside Stage C a tower learns slowly from scratch: what a text says decides little of a prediction's error. And to be found by
its picture (CLIP, Radford et al. 2021) a caption needs only what tells a hundred pictures apart: after 250,000 captions a linear
reader of such a tower knew backgrounds, but not hair colours. Here every tag of every caption counts, and no picture is needed.
"""

from torch import Tensor, nn

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.text import TextTower
from sotediffusion.train.captions import Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, Source
from sotediffusion.train.recipes.base import Recipe
from sotediffusion.train.recipes.tags import marks, telling_loss, told_wrong

DEFAULTS = Options(images=600_000, batch=128, lr=1e-3, decay=0.02, ema=10_000, bf16=True)


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


class Reader(nn.Module):
    """Tells the tags of captions in the two ways that stages read them: by attention to tokens, and from the pooled vector."""

    def __init__(self, width: int, projection: int, tags: int):
        super().__init__()
        self.look = nn.Linear(width, tags, bias=False)
        self.say = nn.Linear(width, tags)
        self.pooled = nn.Linear(projection, tags)

    def forward(self, hidden: Tensor, pooled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, D), pooled (B, P), mask (B, L) -> logits (B, tags) of both ways."""
        looks = self.look(hidden).float().masked_fill(~mask[..., None], float("-inf")).softmax(1)  # B L tags
        return (looks * self.say(hidden).float()).sum(1), self.pooled(pooled).float()


class TextRecipe(Recipe):
    """Trains `text` on captions alone, of any of the `tags`; `reader` is thrown away."""

    def __init__(self, config: CascadeConfig, source: Source, captions: Captions, tags: list[str]):
        text = TextTower(config.text)
        init_text(text)
        super().__init__({"text": text, "reader": Reader(config.text.width, config.text.projection, len(tags))}, source)
        self.captions, self.index = captions, {tag: place for place, tag in enumerate(tags)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of which tags each caption has, summed over the tags, a mean over both ways of reading."""
        captions = self.captions.compose(batch.tags, batch.keys)
        tokens, mask = self.captions.tokens(captions)
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        truth = marks(captions, self.index).to(self.device)
        attended, pooled = self.modules["reader"](*self.modules["text"](tokens, mask), mask)
        wrong = {"wrong by tokens": told_wrong(attended, truth), "wrong by pooled": told_wrong(pooled, truth)}
        return (telling_loss(attended, truth) + telling_loss(pooled, truth)) / 2, wrong

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower's."""
        return {key: value for key, value in averages.items() if key.startswith("text.")}
