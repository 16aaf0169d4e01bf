"""Image embeddings to pictures: Stages B and A behind the arguments of diffusers' StableCascadeDecoderPipeline."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..generate import STAGE_B, Run, start_decoder
from ..limits import SIDE_STEP
from ..types import Request, UserError
from .handle import Component, Pipeline
from .noise import Generators, Source
from .outputs import PICTURES, ImagePipelineOutput, known_kind, pictures
from .prior import repeats_of
from .walk import Callback, begin, walk
from .wording import Wording, encode, orders


class StableCascadeDecoderPipeline(Pipeline):
    """Draws the pictures that image embeddings stand for."""

    networks = opens = ("text", "stage_b", "stage_a")
    names = {
        "decoder_steps": "num_inference_steps", "decoder_guidance": "guidance_scale", "negative": "negative_prompt",
        "width": "image_embeddings", "height": "image_embeddings",
    }  # fmt: skip
    unsaid = ("steps", "guidance", "sampler", "schedule", "shift", "rescale")  # Stage C's, which it has not seen
    decoder = Component("stage_b")
    vqgan = Component("stage_a")
    text_encoder = Component("text")
    tokenizer = Component("tokenizer")
    _callback_tensor_inputs = ("latents", "prompt_embeds_pooled", "negative_prompt_embeds", "image_embeddings")
    guidance_scale = 0.0  # of the last call, for callbacks
    num_timesteps = 0

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the negative prompt counts."""
        return self.guidance_scale > 1

    def __call__(
        self,
        image_embeddings: Tensor | Sequence[Tensor],
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 10,
        guidance_scale: float = 0.0,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_pooled: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_pooled: Tensor | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any, ...]:
        """Draws `num_images_per_prompt` pictures of every image embedding, which may be several to a prompt.

        Arguments and defaults are diffusers'; a picture is as large as its embeddings at the model's compression, to the nearest
        multiple of 8 px. `output_type` is pil, np, pt or latent. UserError: anything that cannot or must not be drawn.
        """
        kind = known_kind(output_type or "pil", PICTURES)
        callback = Callback(callback_on_step_end, callback_on_step_end_tensor_inputs).of(self)
        embeddings = self._embeddings(image_embeddings).repeat_interleave(repeats_of(num_images_per_prompt), dim=0)
        wording = Wording(prompt, negative_prompt, prompt_embeds, prompt_embeds_pooled,
                          negative_prompt_embeds, negative_prompt_embeds_pooled)  # fmt: skip
        order = replace(self._size(embeddings), decoder_steps=num_inference_steps, decoder_guidance=guidance_scale)
        requests = orders(self.cascade, wording, order, self.names)
        source, runs = self._begin(embeddings, wording, requests, generator, latents)
        self.draw(source, runs, callback)
        return pictures(self, source, runs, kind, return_dict)

    def _begin(
        self, embeddings: Tensor, wording: Wording, requests: Sequence[Request], generator: Generators, latents: Tensor | None
    ) -> tuple[Source, list[Run]]:
        share, rest = divmod(len(embeddings), len(requests))
        if rest or not share:
            raise UserError("image_embeddings", f"{len(embeddings)} do not fit {len(requests)} prompts; give as many to each")
        texts = encode(self.cascade, wording, requests)
        repeated = [pair for pair in zip(requests, texts, strict=True) for _ in range(share)]
        cells = (requests[0].height or 0) // 4, (requests[0].width or 0) // 4
        source, runs = begin(self, "stage_b", repeated, cells, generator, latents)
        for run, row in zip(runs, embeddings.split(1), strict=True):
            run.x = row.to(run.text.device)
        return source, runs

    def draw(self, source: Source, runs: Sequence[Run], callback: Callback) -> None:
        """Takes runs whose `x` is a Stage C latent through Stage B."""
        source.kind = self.cascade.stage_b.clip_mapper.weight.dtype
        for run in runs:
            run.last = STAGE_B
            with torch.inference_mode():
                start_decoder(self.cascade, run)
        self.guidance_scale, self.num_timesteps = runs[0].guidance, runs[0].steps
        pooled = [torch.cat([run.pooled[row : row + 1] for run in runs]) for row in (0, 1)]
        constants = {
            "prompt_embeds_pooled": torch.cat(pooled[: 2 if self.do_classifier_free_guidance else 1]),
            "negative_prompt_embeds": torch.cat([run.text[1:] for run in runs]),
            "image_embeddings": torch.cat([run.latent for run in runs if run.latent is not None]),
        }
        walk(self, runs, callback, constants)

    def _embeddings(self, given: Any) -> Tensor:
        channels = self.cascade.stage_b.config.c_effnet
        parts = given if isinstance(given, list | tuple) else [given]
        shapes = {part.shape[1:] if isinstance(part, Tensor) and part.dim() == 4 else None for part in parts}
        if len(shapes) != 1 or (only := shapes.pop()) is None or only[0] != channels:
            shape = f"(pictures, {channels}, h, w)"
            raise UserError("image_embeddings", f"must be a tensor {shape} as the prior returns it, or a list of them")
        return torch.cat(list(parts))

    def _size(self, embeddings: Tensor) -> Request:
        """The nearest size in px to so many prior cells."""
        compression = self.cascade.conventions.compression
        height, width = (round(cells * compression / SIDE_STEP) * SIDE_STEP for cells in embeddings.shape[2:])
        return Request("", width=width, height=height, compression=compression)
