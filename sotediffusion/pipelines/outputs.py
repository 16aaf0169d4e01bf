"""What a pipeline returns: fields that are also items, by name or place; and pictures in the kind asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..generate import Run, to_image
from ..models.cascade import Cascade
from ..names import unknown
from ..safety.provenance import stamp

PICTURES = ("pil", "np", "pt", "latent")
TENSORS = ("pt", "np")


@dataclass
class Output:
    """Fields by attribute, `output["name"]`, `output[0]` or `output.get("name")`."""

    def __getitem__(self, key: str | int) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def get(self, name: str, default: Any = None) -> Any:
        """A field by name, or `default` where there is none of that name."""
        return getattr(self, name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        """All fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass
class ImagePipelineOutput(Output):
    """`images`: PIL images, an array (B, H, W, 3) in [0, 1], a tensor (B, 3, H, W) in [0, 1] or Stage B latents."""

    images: Any


@dataclass
class StableCascadePriorPipelineOutput(Output):
    """What Stage C drew (B, 16, h, w) and what it was told: hidden states (B, L, D) and pooled texts (B, 1, P)."""

    image_embeddings: Any
    prompt_embeds: Any
    prompt_embeds_pooled: Any
    negative_prompt_embeds: Any
    negative_prompt_embeds_pooled: Any


def check_kind(output_type: str, kinds: Sequence[str]) -> None:
    """UserError for an `output_type` that is not one of `kinds`."""
    if output_type not in kinds:
        raise unknown("output_type", str(output_type), kinds)


def pictures(cascade: Cascade, runs: Sequence[Run], output_type: str) -> Any:
    """The pictures of runs whose Stage B is drawn; those of PIL carry the marks of provenance in `info`."""
    latents = torch.cat([run.x for run in runs if run.x is not None])
    if output_type == "latent":
        return latents
    network = cascade.use("stage_a")
    weight = next(network.parameters())
    with torch.inference_mode():  # one by one: Stage A is the memory peak
        pixels = [network.decode(row.to(weight)).clamp(0, 1) for row in latents.split(1)]
    if output_type == "pil":
        images = [to_image(picture[0]) for picture in pixels]
        for image in images:
            image.info.update(stamp({}, cascade.name, cascade.license, cascade.hashes))
        return images
    joined = torch.cat(pixels)
    return joined if output_type == "pt" else array(joined.permute(0, 2, 3, 1))


def prior_output(runs: Sequence[Run], output_type: str) -> StableCascadePriorPipelineOutput:
    """The latents and texts of runs whose Stage C is drawn."""
    parts = [
        torch.cat([run.x for run in runs if run.x is not None]),
        *(torch.cat([getattr(run, name)[row : row + 1] for run in runs]) for row in (0, 1) for name in ("text", "pooled")),
    ]
    return StableCascadePriorPipelineOutput(*(parts if output_type == "pt" else map(array, parts)))


def array(tensor: Tensor) -> Any:
    """A float32 numpy array."""
    return tensor.float().cpu().numpy()
