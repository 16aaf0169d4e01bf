"""Scorers of the drawn world in the contracts of the published ones: a ViT for beauty, CLIP's tower and an MLP for damage.

Both learn the continuous truth of each scene, as logits: there the card's levels lie about evenly. B pictures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTForImageClassification

from sotediffusion.miniature.damage import NONE_AREA
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.miniature.scene import Scene
from sotediffusion.train.data import Batch, Folder
from sotediffusion.train.loop import Options
from sotediffusion.train.optim import Schedule
from sotediffusion.train.recipes.base import Recipe, planes
from sotediffusion.types import UserError

DEFAULTS = Options(images=400_000, batch=32, lr=1e-3, decay=0.05, ema=5000, bf16=True, schedule=Schedule(warmup=3000))
SHADOW_MEAN, SHADOW_STD = (0.65463551, 0.60715182, 0.61108185), (0.32903292, 0.32726001, 0.31909652)  # of aesthetic-shadow-v2
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LABELS = {0: "hq", 1: "lq"}
SQUASHED, PATCH, CROP = 256, 16, 224  # px: the aesthetic network's input in training, patches, the quality network's input
EMBEDDING, HIDDEN = 512, (256, 128)  # of CLIP ViT-B/32 and of aes-B32-v0
LOWEST, HIGHEST = 0.01, 0.99  # truths beyond are not told apart
ZOOM = 0.08  # by which varied pictures are cut at most
LOUD = 4.0  # a constant beside every patch's waves
SETTLING = 128  # pictures by which the quality network's first embeddings are centred


def vit_config(hidden: int = 96, layers: int = 4, side: int = SQUASHED, patch: int = PATCH) -> ViTConfig:
    """A small ViT; `side` and `patch` may grow together, the number of patches staying the same."""
    spread = 0.55 / math.sqrt(hidden)  # of first weights; ViT's usual 0.02 is this at 768 wide and silences a narrow one
    return ViTConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(1, hidden // 32),
                     intermediate_size=3 * hidden, image_size=side, patch_size=patch, hidden_dropout_prob=0.0,
                     attention_probs_dropout_prob=0.0, initializer_range=spread, id2label=LABELS,
                     label2id={v: k for k, v in LABELS.items()})  # fmt: skip


def clip_config(hidden: int = 96, layers: int = 4) -> CLIPVisionConfig:
    """A small vision tower with CLIP's projection."""
    return CLIPVisionConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(1, hidden // 32),
                            intermediate_size=3 * hidden, image_size=CROP, patch_size=PATCH,
                            projection_dim=EMBEDDING)  # fmt: skip


def cosine_patches(weight: Tensor, rise: int) -> None:
    """Let a patch embedding (d, 3, p, p) begin as cosines of brightness from coarse to fine, and of colour, coarse only.

    Fine grain and blur are small beside shapes, so that random patches would find them late (Ahmed et al. 1974, the DCT);
    `rise` is the power of frequency by which fine waves are made louder.
    """
    d, _, side, _ = weight.shape
    grid = (torch.arange(side) + 0.5) * math.pi / side
    waves = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda wave: (wave[0] + wave[1], wave))
    grey, red, blue = torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]])
    luma = 3 * d // 4
    chosen = [(waves[i * (len(waves) - 1) // max(luma - 1, 1)], grey) for i in range(luma)]
    chosen += [(waves[i // 2], (red, blue)[i % 2]) for i in range(d - luma)]
    with torch.no_grad():
        for row, ((u, v), color) in enumerate(chosen):
            wave = torch.outer((u * grid).cos(), (v * grid).cos())
            weight[row] = color[:, None, None] * wave * (1 + u + v) ** rise / side**2 * 0.3  # pictures fade with frequency


def keep_contrast(positions: Tensor) -> None:
    """Let position embeddings (N, d) begin small but for a loud constant in two of the places.

    CLIP normalises each patch at once; beside the constant a patch keeps its own loudness, which is what damage changes.
    """
    with torch.no_grad():
        nn.init.normal_(positions, std=0.1)
        positions[:, -2:] += positions.new_tensor([LOUD, -LOUD])


def resized(picture: Tensor, height: int, width: int, mode: str = "bilinear") -> Tensor:
    """As Pillow resizes uint8 (B, 3, H, W): in bytes, which takes a sixth of the time."""
    return F.interpolate(picture, size=(height, width), mode=mode, antialias=True)


def cut(picture: Tensor) -> Tensor:
    """(B, 3, H, W) mirrored or not, less up to ZOOM of either direction."""
    picture = picture.flip(3) if torch.rand(()) < 0.5 else picture
    sides = [round(length * (1 - ZOOM * torch.rand(()).item())) for length in picture.shape[2:]]
    top, left = (int(torch.randint(0, length - side + 1, ())) for length, side in zip(picture.shape[2:], sides, strict=True))
    return picture[:, :, top : top + sides[0], left : left + sides[1]]


def centred(picture: Tensor, varied: bool = False) -> Tensor:
    """(B, 3, H, W) -> (B, 3, CROP, CROP): the shorter side as long as that, the middle cut out; varied ones anywhere."""
    scale = CROP / min(picture.shape[2:])
    height, width = (max(CROP, int(side * scale)) for side in picture.shape[2:])
    small = resized(picture, height, width, "bicubic")
    top, left = ((int(torch.randint(0, free + 1, ())) if varied else free // 2) for free in (height - CROP, width - CROP))
    return small[:, :, top : top + CROP, left : left + CROP]


def normalised(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32, standardised by channel."""
    values = picture.float().div_(255)
    return (values - values.new_tensor(mean)[:, None, None]) / values.new_tensor(std)[:, None, None]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of values (N,) without ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


class Aes(nn.Module):
    """The MLP of aes-B32-v0: embeddings (B, 512), each made one long -> logits (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(EMBEDDING, HIDDEN[0]), nn.Linear(*HIDDEN)
        self.fc3 = nn.Linear(HIDDEN[1], 1)
        nn.init.normal_(self.fc1.weight, std=2.0)  # what comes in is one long as a whole, so small in every place

    def forward(self, embeddings: Tensor) -> Tensor:
        x = F.normalize(embeddings.float(), dim=1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))[:, 0]


class ScoringRecipe(Recipe):
    """Trains one scorer on the truths of the scenes behind a data folder's pictures."""

    def __init__(self, modules: dict[str, nn.Module], folder: Folder, seed: int):
        super().__init__(modules, folder)
        self.seed = seed

    def logits(self, batch: Batch, varied: bool) -> Tensor:
        """The logits (B,) of the scores of a batch."""
        raise NotImplementedError

    def truth_of(self, scene: Scene) -> float:
        """What is to be learnt of a scene, in [0, 1]."""
        raise NotImplementedError

    def truth(self, batch: Batch) -> Tensor:
        """(B,): the number of a sample in its folder is that of its scene."""
        return torch.tensor([self.truth_of(sample_scene(self.seed, key[2])) for key in batch.keys], device=self.device)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Huber's on logits."""
        logits, truth = self.logits(batch, varied=True).float(), self.truth(batch)
        loss = F.smooth_l1_loss(logits, truth.clamp(LOWEST, HIGHEST).logit())
        numbers = {"error": (logits.sigmoid() - truth).abs().mean().item()}
        return loss, numbers | ({"rank": rank_correlation(logits.detach(), truth)} if batch.size > 2 else {})


class AestheticRecipe(ScoringRecipe):
    """Trains `aesthetic`."""

    def __init__(self, folder: Folder, seed: int, **shape: int):
        network = ViTForImageClassification(vit_config(**shape))
        cosine_patches(network.vit.embeddings.patch_embeddings.projection.weight, rise=1)
        nn.init.normal_(network.vit.embeddings.position_embeddings, std=0.1)
        super().__init__({"aesthetic": network}, folder, seed)

    def logits(self, batch: Batch, varied: bool) -> Tensor:
        picture = planes(batch.fields["pictures"])
        seen = resized(cut(picture) if varied else picture, SQUASHED, SQUASHED).to(self.device)
        found = self.modules["aesthetic"](pixel_values=normalised(seen, SHADOW_MEAN, SHADOW_STD)).logits
        return found[:, 0] - found[:, 1]

    def truth_of(self, scene: Scene) -> float:
        return scene.aesthetic


def _area(bucket: str) -> int:
    width, height = map(int, bucket.split("x"))
    return width * height


class QualityRecipe(ScoringRecipe):
    """Trains `quality`, a vision tower, and `mlp`. Raises UserError for pictures too small to show the damage as it is."""

    def __init__(self, folder: Folder, seed: int, **shape: int):
        smallest = min(folder.buckets, key=_area)
        if _area(smallest) < NONE_AREA:
            raise UserError("data", f"pictures of {smallest} px hide how far others are blown up; draw at least {NONE_AREA} px: "
                                    "sote train render --area 147456")  # fmt: skip
        network = CLIPVisionModelWithProjection(clip_config(**shape))
        embeddings = network.vision_model.embeddings
        cosine_patches(embeddings.patch_embedding.weight, rise=2)
        keep_contrast(embeddings.position_embedding.weight)
        super().__init__({"quality": network, "mlp": Aes()}, folder, seed)
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Make what the first embeddings share as short as what tells them apart, which unit length would drown."""
        norm = self.modules["quality"].vision_model.post_layernorm
        batches = self.source.batches(0, 0, 32)
        tokens = torch.cat([self._tokens(next(batches)) for _ in range(max(1, SETTLING // 32))])
        shared = tokens.mean(0)
        apart = (tokens - shared).pow(2).sum(1).mean().sqrt()
        norm.bias.sub_(shared * (1 - apart / shared.norm()))

    def _tokens(self, batch: Batch) -> Tensor:
        """What the projection to embeddings reads, (B, hidden)."""
        return self.modules["quality"].vision_model(pixel_values=self.seen(batch, varied=False)).pooler_output

    def seen(self, batch: Batch, varied: bool) -> Tensor:
        """What the contract shows of a batch, (B, 3, CROP, CROP)."""
        return normalised(centred(planes(batch.fields["pictures"]), varied).to(self.device), CLIP_MEAN, CLIP_STD)

    def logits(self, batch: Batch, varied: bool) -> Tensor:
        return self.modules["mlp"](self.modules["quality"](pixel_values=self.seen(batch, varied)).image_embeds)

    def truth_of(self, scene: Scene) -> float:
        return scene.quality
