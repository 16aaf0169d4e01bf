"""EffNet and previewer, together: latents from which every tag can be read and the picture roughly redrawn.

A tag head, thrown away afterwards, gives small features a gradient that a pixel loss would not. Noise on the latents while
training makes neighbours in latent space mean neighbours in the picture, so that Stage C's small errors stay small.
"""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.models.cascade import CascadeConfig
from sotediffusion.models.effnet import Block, EffNetEncoder
from sotediffusion.models.previewer import Previewer
from sotediffusion.train.data import Batch, Folder, pixels
from sotediffusion.train.loop import Options
from sotediffusion.train.recipes.base import Recipe, latent_layers, refresh_norms
from sotediffusion.train.recipes.tags import marks, telling_loss, told_wrong

DEFAULTS = Options(images=400_000, batch=16, lr=6e-4, decay=0.02, ema=10_000, bf16=True)
LATENT_NOISE = 0.1  # of a latent's standard deviation, which is one
PICTURE_WEIGHT, TAG_WEIGHT = 5.0, 0.05  # of the mean L1 of a preview and its colours, of the summed cross-entropy of all tags
CENSUS = 5000  # samples whose tags make the head's vocabulary
RAREST = 15  # times a tag must be among them
NORM_BATCHES = 12


def vocabulary(folder: Folder) -> list[str]:
    """The tags of the folder's first samples that are not too rare, sorted."""
    counts = Counter(tag for entry in folder.entries[:CENSUS] for group in entry.tags.values() for tag in group)
    return sorted(tag for tag, count in counts.items() if count >= min(RAREST, max(1, len(folder) // 2)))


def opponent(picture: Tensor) -> Tensor:
    """Red against green and yellow against blue, (B, 3, h, w) -> (B, 2, h, w).

    Compared besides the picture itself, because a plain L1 lets an early previewer settle for grey.
    """
    red, green, blue = picture.unbind(1)
    return torch.stack([red - green, (red + green) / 2 - blue], 1)


def init_weights(effnet: EffNetEncoder, previewer: Previewer) -> None:
    """A shallow start: residual blocks are identities (Goyal et al. 2017, zero gamma) and the previewer draws grey."""
    for block in effnet.modules():
        if isinstance(block, Block) and block.residual:
            nn.init.zeros_(block.block[-1][1].weight)
    nn.init.constant_(previewer.get_parameter(f"blocks.{len(previewer.blocks) - 1}.bias"), 0.5)


class TagHead(nn.Module):
    """Latents (B, c_latent, h, w) -> logits (B, out) of tags."""

    def __init__(self, c_latent: int, out: int, width: int = 192):
        super().__init__()
        self.layers = latent_layers(c_latent, width)
        self.read = nn.Linear(2 * width, out)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.layers(latents)
        return self.read(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class EffNetRecipe(Recipe):
    """Trains `effnet` and `previewer`, with `head` thrown away."""

    def __init__(self, config: CascadeConfig, folder: Folder):
        self.index = {tag: i for i, tag in enumerate(vocabulary(folder))}
        effnet, previewer = EffNetEncoder(config.effnet), Previewer(config.previewer)
        init_weights(effnet, previewer)
        modules = {
            "effnet": effnet,
            "previewer": previewer,
            "head": TagHead(config.effnet.c_latent, len(self.index)),
        }
        super().__init__({name: module.to(memory_format=torch.channels_last) for name, module in modules.items()}, folder)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Preview L1 and tag cross-entropy, both from noised latents."""
        picture = pixels(batch.fields["pictures"].to(self.device))
        latents = self.modules["effnet"](picture)
        latents = latents + LATENT_NOISE * torch.randn_like(latents)
        preview = self.modules["previewer"](latents).float()
        target = F.avg_pool2d(picture, picture.shape[2] // preview.shape[2])
        picture_loss = F.l1_loss(preview, target)
        color_loss = F.l1_loss(opponent(preview), opponent(target))
        tags = [[tag for group in groups.values() for tag in group] for groups in batch.tags]
        logits, truth = self.modules["head"](latents).float(), marks(tags, self.index).to(self.device)
        tag_loss = telling_loss(logits, truth)
        loss = PICTURE_WEIGHT * (picture_loss + color_loss) + TAG_WEIGHT * tag_loss
        return loss, {
            "preview L1": picture_loss.item(), "colour L1": color_loss.item(),
            "tag loss": tag_loss.item(), "wrong tags": told_wrong(logits, truth),
        }  # fmt: skip

    def weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encoder and previewer, their BatchNorm statistics measured anew for the averaged weights."""
        modules = copy.deepcopy(self.modules)
        modules.load_state_dict(averages)

        def forward(batch: Batch) -> None:
            modules["previewer"](modules["effnet"](pixels(batch.fields["pictures"].to(self.device))))

        refresh_norms(modules, forward, self.source.batches(1, 0, 32), NORM_BATCHES)
        return {key: value for key, value in modules.state_dict().items() if not key.startswith("head.")}
