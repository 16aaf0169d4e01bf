"""Pictures drawn while a run goes on, always the same prompts and seeds, by the product's own `generate`, without dropout.

They are drawn with a copy of the weights, so that what is trained is not touched; LoRA are drawn with where they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sotediffusion.generate import generate
from sotediffusion.models.cascade import Cascade
from sotediffusion.pictures.files import save_picture, write_whole
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.export import as_networks, taken
from sotediffusion.train.loop import Milestone
from sotediffusion.train.validation import standing_in
from sotediffusion.types import Picture, Request

FOLDER = "drawn"  # in a run's: one folder for each point of it
SHEET = "sheet.webp"  # all of a point's pictures, small, beside them
SIDE = 320  # px of a picture on a sheet
COLUMNS = 4


class Drawings(Milestone):
    """Draws `requests` into the run's folder and tells `tell` of each picture; the first process alone does."""

    first = True

    def __init__(self, base: Cascade, requests: Sequence[Request], folder: Path, every: int, how: tuple[str, Any], ranks: Ranks,
                 tell: Callable[[int, str, bytes, tuple[int, int]], None]):  # fmt: skip
        self.base, self.requests, self.folder, self.every = base, requests, folder / FOLDER, every
        self.device, self.live = how  # the recipe whose modules are drawn with as they are; none: copies of the weights are
        self.ranks, self.tell = ranks, tell

    def reach(self, place: dict[str, Any], weights: dict[str, Tensor], last: bool) -> None:
        """Draw all with the weights as they are now."""
        whole = {} if self.live else taken(weights, self.ranks)
        if not self.ranks.first:
            return
        kind = torch.bfloat16 if self.device == "cuda" else torch.float32
        networks = {name: network.to(kind) for name, network in as_networks(self.base, whole).items()}
        folder = self.folder / f"{place['images']:012d}"
        pictures = []
        with standing_in(self.live.modules, weights) if self.live else nullcontext():
            with lent(replace(self.base, **networks), self.device) as cascade:
                for number, request in enumerate(self.requests):
                    (picture,) = generate(cascade, replace(request, count=1))
                    save_picture(picture, folder / f"{number:02d}.png")
                    pictures.append(picture)
        content, size = sheet(pictures)
        write_whole(folder / SHEET, content)
        self.tell(place["images"], "drawn", content, size)


@contextmanager
def lent(cascade: Cascade, device: str) -> Iterator[Cascade]:
    """Within it networks visit a GPU one at a time, where weights in training leave little room; then all are where they were."""
    homes = [(network, next(network.parameters()).device) for network in cascade.parts().values()]
    try:
        yield cascade if device == "cpu" else replace(cascade, offload_to=device, resident=None, worn={})
    finally:
        for network, home in homes:
            network.to(home)
        if device == "cuda":
            torch.cuda.empty_cache()


def sheet(pictures: Sequence[Picture]) -> tuple[bytes, tuple[int, int]]:
    """All pictures side by side, small, as the bytes of a WebP, and its width and height."""
    images = []
    for picture in pictures:
        image = picture.image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        images.append(image)
    columns = min(COLUMNS, len(images))
    wide, high = max(image.width for image in images), max(image.height for image in images)
    whole = Image.new("RGB", (columns * wide, -(-len(images) // columns) * high), "white")
    for number, image in enumerate(images):
        whole.paste(image, (number % columns * wide, number // columns * high))
    file = BytesIO()
    whole.save(file, "WEBP", quality=85)
    return file.getvalue(), whole.size
