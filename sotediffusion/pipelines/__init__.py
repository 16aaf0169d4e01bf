"""The diffusers-shaped face: code written for diffusers' Stable Cascade pipelines runs with its import line changed."""

from .combined import StableCascadeCombinedPipeline
from .decoder import StableCascadeDecoderPipeline
from .outputs import ImagePipelineOutput, StableCascadePriorPipelineOutput
from .prior import StableCascadePriorPipeline

__all__ = [
    "ImagePipelineOutput",
    "StableCascadeCombinedPipeline",
    "StableCascadeDecoderPipeline",
    "StableCascadePriorPipeline",
    "StableCascadePriorPipelineOutput",
]
