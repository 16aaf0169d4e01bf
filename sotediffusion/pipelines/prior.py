"""Text to image embeddings: Stage C behind the arguments of diffusers' StableCascadePriorPipeline."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.samplers import trajectory
from ..diffusion.schedule import Grid, log_snr
from ..generate import STAGE_C, Run, prior_cells, settle, start_prior
from ..types import Request, UserError
from .handle import Component, Pipeline
from .image_prompt import followed
from .noise import Generators, Source
from .outputs import TENSORS, StableCascadePriorPipelineOutput, known_kind, prior_output
from .walk import Callback, begin, walk
from .wording import Wording, encode, orders


class StableCascadePriorPipeline(Pipeline):
    """Draws Stage C latents, the image embeddings that a decoder pipeline takes."""

    networks = ("text", "stage_c", "image")
    opens = (*networks, "previewer")  # which callbacks like to show their latents by
    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "negative": "negative_prompt"}
    prior = Component("stage_c")
    text_encoder = Component("text")
    tokenizer = Component("tokenizer")
    image_encoder = Component("image")
    _callback_tensor_inputs = ("latents", "text_encoder_hidden_states", "negative_prompt_embeds")
    guidance_scale = 0.0  # of the last call, for callbacks
    num_timesteps = 0

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the negative prompt counts."""
        return self.guidance_scale > 1

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        images: Any = None,
        height: int | None = 1024,
        width: int | None = 1024,
        num_inference_steps: int = 20,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float = 4.0,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_pooled: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_pooled: Tensor | None = None,
        image_embeds: Tensor | None = None,
        num_images_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> StableCascadePriorPipelineOutput | tuple[Any, ...]:
        """Draws `num_images_per_prompt` latents of every prompt, those of one prompt after each other.

        Arguments and defaults are diffusers'; height and width in px, None for the model's own; `timesteps` fall from at most 1
        to 0 and replace the even ones; `images` (see `image_prompt.embed`) are prompts too, followed together by every latent.
        `output_type` is pt or np. UserError: anything that cannot or must not be drawn.
        """
        kind = known_kind(output_type or "pt", TENSORS)
        callback = Callback(callback_on_step_end, callback_on_step_end_tensor_inputs).of(self)
        wording = Wording(prompt, negative_prompt, prompt_embeds, prompt_embeds_pooled,
                          negative_prompt_embeds, negative_prompt_embeds_pooled)  # fmt: skip
        grid = None if timesteps is None else _grid(timesteps)
        order = Request("", width=width, height=height, steps=num_inference_steps, guidance=guidance_scale)
        requests = orders(self.cascade, wording, order, self.names)
        image_embeds = followed(self.cascade, images, image_embeds)
        source, runs = self.begin(wording, requests, num_images_per_prompt, generator, latents)
        self.draw(source, runs, callback, image_rows(image_embeds, len(runs), self.cascade.stage_c.config.c_image), grid)
        return prior_output(runs, kind, return_dict)

    def begin(
        self, wording: Wording, requests: Sequence[Request], repeats: int | None, generator: Generators, latents: Tensor | None
    ) -> tuple[Source, list[Run]]:
        """Runs with their texts, not yet at their first step, and the source of their noise; `latents` are first noise given."""
        count = repeats_of(repeats)
        requests = [settle(self.cascade, request) for request in requests]
        texts = encode(self.cascade, wording, requests)
        repeated = [pair for pair in zip(requests, texts, strict=True) for _ in range(count)]
        return begin(self, "stage_c", repeated, prior_cells(requests[0]), generator, latents)

    def draw(
        self, source: Source, runs: Sequence[Run], callback: Callback, images: Sequence[Tensor] | None = None,
        grid: Grid | None = None,
    ) -> None:  # fmt: skip
        """Takes runs through Stage C, at the times of `grid` where one is given."""
        request = runs[0].request
        source.kind = self.cascade.stage_c.clip_txt_mapper.weight.dtype
        for i, run in enumerate(runs):
            run.last = STAGE_C
            run.image = None if images is None else images[i].to(run.text)
            with torch.inference_mode():
                start_prior(self.cascade, run)
            if grid is not None:
                run.trajectory = trajectory(request.sampler, grid, self.cascade.conventions.time_condition)
        self.guidance_scale, self.num_timesteps = request.guidance, runs[0].steps
        negative = torch.cat([run.text[1:] for run in runs])
        hidden = [torch.cat([run.text[:1] for run in runs]), negative][: 2 if self.do_classifier_free_guidance else 1]
        constants = {"text_encoder_hidden_states": torch.cat(hidden), "negative_prompt_embeds": negative}
        walk(self, runs, callback, constants)


def repeats_of(count: int | None) -> int:
    """`num_images_per_prompt`. UserError: not a whole number from 1 on."""
    if count is None:
        return 1
    count = count.item() if isinstance(count, np.generic) else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError("num_images_per_prompt", f"{count} is not a number of pictures; take 1 or more")
    return count


def _grid(timesteps: Sequence[float]) -> Grid:
    try:
        t = torch.as_tensor(timesteps, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        t = torch.empty(0)
    if len(t) < 2 or not bool(((t >= 0) & (t <= 1)).all()) or not bool((t.diff() < 0).all()) or t[-1] != 0:
        raise UserError("timesteps", "must fall from at most 1 to 0, as [1.0, 0.6, 0.3, 0.0]; leave them out for even ones")
    return Grid(log_snr(t), t[:-1])


def image_rows(image_embeds: Any, rows: int, width: int) -> list[Tensor] | None:
    """CLIP image embeddings (1 or B, I, c_image) as one (1, I, c_image) per row."""
    if image_embeds is None:
        return None
    fits = isinstance(image_embeds, Tensor) and image_embeds.dim() == 3 and image_embeds.shape[2] == width
    if not fits or len(image_embeds) not in (1, rows):
        raise UserError("image_embeds", f"must be a tensor (1, images, {width}), or ({rows}, images, {width}), a row a picture")
    return list(image_embeds.expand(rows, -1, -1).split(1))
