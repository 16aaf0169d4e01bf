"""The image tower: CLIP's vision transformer with a projection (Radford et al. 2021; OpenAI's ViT-L/14 at full size).

B batch, S px of a square picture's side, N patches, D width. Keys are those of transformers' CLIPVisionModelWithProjection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .text import Encoder, TowerConfig


@dataclass(frozen=True)
class ImageConfig(TowerConfig):
    """The shape of an image tower, which sees `size` x `size` px in squares of `patch` px."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    projection: int = 768
    act: str = "quick_gelu"
    size: int = 224
    patch: int = 14


class PatchEmbeddings(nn.Module):
    """A token for every patch behind one for the whole picture, each with its place."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding((config.size // config.patch) ** 2 + 1, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).mT
        whole = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([whole, patches], dim=1) + self.position_embedding.weight


class VisionModel(nn.Module):
    """Embeddings, layers and a norm on either side of them; the first is misspelt in the published keys."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.width)


class ImageEncoder(nn.Module):
    """Pictures -> one vector each, in the space that a prior can follow."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, S, S), normalised as CLIP's were -> (B, projection)."""
        x = self.vision_model.pre_layrnorm(self.vision_model.embeddings(pixels))
        for layer in self.vision_model.encoder.layers:
            x = layer(x)
        return self.visual_projection(self.vision_model.post_layernorm(x[:, 0]))
