"""What a pipeline returns: fields that are also items, by name or place; and pictures in the kind asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..generate import Run, settings_of, to_image
from ..names import unknown
from ..pictures.marks import mark
from .handle import Pipeline
from .noise import Source
from .wording import handed_out

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


def known_kind(output_type: str, kinds: Sequence[str]) -> str:
    """The `output_type`. UserError for one that is not among `kinds`."""
    if output_type not in kinds:
        raise unknown("output_type", str(output_type), kinds)
    return output_type


def pictures(
    pipe: Pipeline, source: Source, runs: Sequence[Run], kind: str, return_dict: bool
) -> ImagePipelineOutput | tuple[Any, ...]:
    """The pictures of runs whose Stage B is drawn; PIL's carry their settings and marks into the files that are saved of them."""
    latents = torch.cat([run.x for run in runs if run.x is not None])
    images: Any = latents
    if kind != "latent":
        network = pipe.cascade.use("stage_a")
        weight = next(network.parameters())
        with torch.inference_mode():  # one by one: Stage A is the memory peak
            pixels = [network.decode(row.to(weight)).clamp(0, 1) for row in latents.split(1)]
        images = torch.cat(pixels)
    if kind == "pil":
        images = [mark(to_image(pixels), _settings(pipe, run, source)) for pixels, run in zip(images, runs, strict=True)]
    elif kind == "np":
        images = array(images.permute(0, 2, 3, 1))
    return ImagePipelineOutput(images) if return_dict else (images,)


def _settings(pipe: Pipeline, run: Run, source: Source) -> dict[str, Any]:
    """What is known of a picture; of its noise, how the numbers of its seed were drawn."""
    known = settings_of(pipe.cascade, run.request) | {"pipeline": type(pipe).__name__}
    if run.request.seed is not None:
        known["noise"] = f"{torch.device(source.device).type} {str(source.kind).removeprefix('torch.')}"
    if run.image is not None:
        known["image_prompts"] = run.image.shape[1]  # how many; the pictures themselves are not kept
    return {name: value for name, value in known.items() if name not in pipe.unsaid and value is not None}


def prior_output(runs: Sequence[Run], kind: str, return_dict: bool) -> StableCascadePriorPipelineOutput | tuple[Any, ...]:
    """The latents and texts of runs whose Stage C is drawn."""
    texts = handed_out([run.request for run in runs], [(run.text, run.pooled) for run in runs])
    parts = [torch.cat([run.x for run in runs if run.x is not None]), *texts]
    output = StableCascadePriorPipelineOutput(*(parts if kind == "pt" else map(array, parts)))
    return output if return_dict else output.to_tuple()


def array(tensor: Tensor) -> Any:
    """A float32 numpy array."""
    return tensor.float().cpu().numpy()
