"""Text to pictures: all stages behind the arguments of diffusers' StableCascadeCombinedPipeline, which the card's code uses."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..models.cascade import Cascade
from ..types import Request
from .decoder import StableCascadeDecoderPipeline
from .handle import Component, Pipeline
from .image_prompt import followed
from .noise import Generators
from .outputs import PICTURES, ImagePipelineOutput, known_kind, pictures
from .prior import StableCascadePriorPipeline, image_rows
from .walk import Callback
from .wording import Wording, orders


class StableCascadeCombinedPipeline(Pipeline):
    """Draws pictures from text; `prior_pipe` and `decoder_pipe` are its halves and share its networks."""

    networks = ("text", "stage_c", "stage_b", "stage_a", "image")
    names = {
        "steps": "prior_num_inference_steps", "guidance": "prior_guidance_scale", "decoder_steps": "num_inference_steps",
        "decoder_guidance": "decoder_guidance_scale", "negative": "negative_prompt",
    }  # fmt: skip
    prior_prior = Component("stage_c")
    prior_text_encoder = Component("text")
    prior_tokenizer = Component("tokenizer")
    prior_image_encoder = Component("image")
    decoder = Component("stage_b")
    vqgan = Component("stage_a")
    text_encoder = Component("text")
    tokenizer = Component("tokenizer")

    def __init__(self, cascade: Cascade):
        super().__init__(cascade)
        self.prior_pipe = StableCascadePriorPipeline(cascade)
        self.decoder_pipe = StableCascadeDecoderPipeline(cascade)

    def set_progress_bar_config(self, **config: Any) -> None:
        """Takes what tqdm takes, for the bars of both halves."""
        self.prior_pipe.set_progress_bar_config(**config)
        self.decoder_pipe.set_progress_bar_config(**config)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        images: Any = None,
        height: int | None = 512,
        width: int | None = 512,
        prior_num_inference_steps: int = 60,
        prior_guidance_scale: float = 4.0,
        num_inference_steps: int = 12,
        decoder_guidance_scale: float = 0.0,
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
        prior_callback_on_step_end: Callable[..., Any] | None = None,
        prior_callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any, ...]:
        """Draws `num_images_per_prompt` pictures of every prompt, those of one prompt after each other.

        Arguments and defaults are diffusers'; height and width in px, any multiple of 8, None for the model's own.
        `images` are prompts too, followed together by every picture (see `image_prompt.embed`). `output_type` is pil, np, pt or
        latent. UserError: anything that cannot or must not be drawn.
        """
        kind = known_kind(output_type or "pil", PICTURES)
        ours = Callback(
            prior_callback_on_step_end, prior_callback_on_step_end_tensor_inputs, "prior_callback_on_step_end"
        ).of(self.prior_pipe)  # fmt: skip
        theirs = Callback(callback_on_step_end, callback_on_step_end_tensor_inputs).of(self.decoder_pipe)
        wording = Wording(prompt, negative_prompt, prompt_embeds, prompt_embeds_pooled,
                          negative_prompt_embeds, negative_prompt_embeds_pooled)  # fmt: skip
        order = Request("", width=width, height=height, steps=prior_num_inference_steps, guidance=prior_guidance_scale,
                        decoder_steps=num_inference_steps, decoder_guidance=decoder_guidance_scale)  # fmt: skip
        requests = orders(self.cascade, wording, order, self.names)
        shown = followed(self.cascade, images, None)
        source, runs = self.prior_pipe.begin(wording, requests, num_images_per_prompt, generator, latents)
        self.prior_pipe.draw(source, runs, ours, image_rows(shown, len(runs), self.cascade.stage_c.config.c_image))
        self.decoder_pipe.draw(source, runs, theirs)
        return pictures(self, source, runs, kind, return_dict)
