"""Pipelines around the tiny cascade, and calls of them that take no time."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from tiny import tiny_cascade

from sotediffusion.models.cascade import Cascade
from sotediffusion.pipelines import StableCascadeCombinedPipeline

PROMPT = "1girl, cat ears, playing guitar"
QUICK = {"height": 128, "width": 128, "prior_num_inference_steps": 2, "num_inference_steps": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of(kind: Any, cascade: Cascade | None = None) -> Any:
    pipe = kind(cascade or tiny_cascade())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any = None, **arguments: Any) -> Any:
    """The images of a quick call, as a tensor where nothing else is asked for."""
    pipe = pipe or of(StableCascadeCombinedPipeline)
    return pipe(**{"prompt": PROMPT, "generator": generator(), "output_type": "latent", **QUICK, **arguments}).images


def own_copy() -> Cascade:
    shared = tiny_cascade()
    return replace(shared, **{name: deepcopy(network) for name, network in shared.parts().items()})
