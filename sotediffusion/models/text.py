"""The text tower: CLIP's causal transformer with a text projection (Radford et al. 2021; ViT-bigG of OpenCLIP at full size).

B batch, L text tokens, D width. Keys are those of transformers' CLIPTextModelWithProjection.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend


@dataclass(frozen=True)
class TowerConfig:
    """The shape of a transformer of CLIP's, which reads texts or pictures."""

    width: int
    layers: int
    heads: int
    hidden: int
    projection: int
    act: str


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The shape of a text tower; `eos` is the id that pooling looks for."""

    width: int = 1280
    layers: int = 32
    heads: int = 20
    hidden: int = 5120
    projection: int = 1280
    vocabulary: int = 49408
    positions: int = 77
    eos: int = 49407
    act: str = "gelu"


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's cheap GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Attention(nn.Module):
    """Multi-head attention with separate projections, as the published keys have them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out = attend(q, k, v, mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear maps with an activation between."""

    def __init__(self, width: int, hidden: int, act: str):
        super().__init__()
        self.act = act
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.self_attn = Attention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = Perceptron(config.width, config.hidden, config.act)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    """Token and position embeddings."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class Encoder(nn.Module):
    """Holds `layers`, as the published keys do."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))


class TextModel(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width)


class TextTower(nn.Module):
    """One chunk of token ids -> its hidden states and one pooled vector."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)
        self.text_projection = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (B, L) int64, L <= positions; mask (B, L), false where a token must not be attended to.

        Returns the last layer's states before the final norm (B, L, D), which is what the cascade was trained on, and the
        projected state of the first end-of-text token (B, projection).
        """
        x = self.text_model.embeddings(tokens)
        bias = _causal_bias(tokens, mask, x.dtype)
        for layer in self.text_model.encoder.layers:
            x = layer(x, bias)
        end = (tokens == self.config.eos).int().argmax(dim=1)
        last = self.text_model.final_layer_norm(x[torch.arange(len(x), device=x.device), end])
        return x, self.text_projection(last)


def _causal_bias(tokens: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(B or 1, 1, L, L) to add to attention scores: no token sees a later one, none sees a masked one."""
    length = tokens.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()[None, None]
    if mask is not None:
        seen = seen & mask.bool()[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype, device=tokens.device).masked_fill_(~seen, torch.finfo(dtype).min)
