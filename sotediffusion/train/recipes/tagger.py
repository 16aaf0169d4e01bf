"""A tagger of the drawn world in the contract of the WD v3 taggers: what a figure and a place show, as chances of tags.

It sees half the contract's 448 px: letters are not read, and everything else is large enough. B pictures, T tags, R cells.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.miniature.cast import series_of
from sotediffusion.train.data import Batch, Folder
from sotediffusion.train.loop import Options
from sotediffusion.train.optim import Schedule
from sotediffusion.train.recipes.base import ReadingRecipe, planes
from sotediffusion.train.recipes.cells import Cells, Reader
from sotediffusion.train.recipes.tags import marks, telling_loss

DEFAULTS = Options(images=800_000, batch=16, lr=1e-3, decay=0.02, ema=10_000, bf16=True, schedule=Schedule(warmup=8000))
SIDE, SEEN = 448, 224  # px of the contract's square, and of what the network looks at
RATINGS = ("general", "sensitive", "questionable", "explicit")
TEXT_TAGS = ("english_text", "speech_bubble")  # of pictures in which something is said
SMALLEST = 0.88  # of the square that a varied picture still fills


@dataclass(frozen=True)
class Tag:
    """A line of selected_tags.csv: category 9 rating, 0 general, 4 character."""

    name: str
    category: int
    count: int


def tags_shown(groups: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """(name, category) of the tags of a drawn picture, as boards write them: saber_(fate) for a character of a series."""
    text = any(tag.startswith("The text says") for tag in groups["custom"])
    general = [tag.replace(" ", "_") for tag in groups["rest"]] + list(TEXT_TAGS if text else ())
    characters = [f"{name}_({series_of(name)})".replace(" ", "_") for name in groups["character"]]
    return [(groups["rating"][0], 9), *((tag, 0) for tag in general), *((tag, 4) for tag in characters)]


def taglist(samples: Iterable[Mapping[str, Sequence[str]]]) -> list[Tag]:
    """The tags of these samples: ratings, then general, then characters, each from the most frequent to the rarest."""
    counts = Counter(tag for groups in samples for tag in tags_shown(groups))
    found = [Tag(name, 9, counts[name, 9]) for name in RATINGS]
    for category in (0, 4):
        names = [(name, count) for (name, kind), count in counts.items() if kind == category]
        found += [Tag(name, category, count) for name, count in sorted(names, key=lambda item: (-item[1], item[0]))]
    return found


class Tagger(Cells):
    """Pictures (B, 3, SEEN, SEEN), RGB in [0, 1] -> logits (B, T); every tag looks where it has learnt to look."""

    def __init__(self, tags: int, **shape: tuple[int, ...]):
        super().__init__(**shape)
        self.reader = Reader(self.c_cells, self.c_mixed, range(tags))
        nn.init.constant_(self.reader.say.get_parameter("bias"), -3.0)  # most tags are rare

    def forward(self, picture: Tensor) -> Tensor:
        return self.reader(self.cells(picture))


class Contract(nn.Module):
    """A tagger behind the contract's face: (B, 448, 448, 3) float32, BGR, 0 to 255 -> chances (B, T)."""

    def __init__(self, tagger: Tagger):
        super().__init__()
        self.tagger = tagger

    def forward(self, picture: Tensor) -> Tensor:
        rgb = picture.flip(3).permute(0, 3, 1, 2) / 255
        return self.tagger(F.avg_pool2d(rgb, SIDE // SEEN)).sigmoid()


def squared(picture: Tensor, varied: bool = False) -> Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, SEEN, SEEN) in [0, 1], in the middle of white; varied ones are smaller, elsewhere, mirrored.

    Resized in bytes, as curation does it and in an eighth of the time.
    """
    scale = SEEN / max(picture.shape[2:])
    if varied:
        scale *= 1 - (1 - SMALLEST) * torch.rand(()).item()
    height, width = (max(1, min(SEEN, round(side * scale))) for side in picture.shape[2:])
    small = F.interpolate(picture, size=(height, width), mode="bilinear", antialias=True).float().div_(255)
    small = small.flip(3) if varied and torch.rand(()) < 0.5 else small
    down, right = SEEN - height, SEEN - width
    top, left = (int(torch.randint(0, free + 1, ())) if varied else free // 2 for free in (down, right))
    return F.pad(small, (left, right - left, top, down - top), value=1.0)


class TaggerRecipe(ReadingRecipe):
    """Trains `tagger`; its tags are those of the data folder."""

    def __init__(self, folder: Folder, **shape: tuple[int, ...]):
        self.tags = taglist(entry.tags for entry in folder.entries)
        self.index = {(tag.name, tag.category): i for i, tag in enumerate(self.tags)}
        super().__init__("tagger", Tagger(len(self.tags), **shape), folder)

    def inputs(self, batch: Batch) -> Tensor:
        """Pictures as curation gives them."""
        return squared(planes(batch.fields["pictures"])).to(self.device)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of all tags, summed; logged are precision and recall of the batch at even chances."""
        self.settle()
        logits = self.network(squared(planes(batch.fields["pictures"]), varied=True).to(self.device)).float()
        truth = marks([tags_shown(groups) for groups in batch.tags], self.index).to(self.device)
        loss = telling_loss(logits, truth)
        told, right = (logits > 0).sum().item(), ((logits > 0) & (truth > 0)).sum().item()
        return loss / 10, {"precision": right / max(told, 1), "recall": right / truth.sum().item()}
