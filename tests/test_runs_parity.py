"""Whole drawings equal diffusers' own, from text to pictures, on shared random weights and the same generator."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import lite_cascade, tiny_cascade

from sotediffusion.generate import prior_cells
from sotediffusion.pipelines import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from sotediffusion.types import Request

pytest.importorskip("diffusers", reason="parity needs the dev extra")
pytest.importorskip("transformers", reason="parity needs the dev extra")
import reference_pipelines as reference  # noqa: E402

SIZE = {"height": 256, "width": 384}  # 6 x 9 prior cells where the card's 1024 x 1536 has 24 x 36
PROMPT, NEGATIVE = "newest, best quality, 1girl, cat ears, (guitar)", "worst quality, oldest"
EXACT, FLOAT = 1e-8, 1e-4  # of the largest value


@cache
def pipelines(dtype: torch.dtype, kind: Any = tiny_cascade) -> SimpleNamespace:
    """Ours and theirs around the same weights."""
    cascade = kind(dtype)
    parts = reference.components(cascade)
    ours = SimpleNamespace(prior=StableCascadePriorPipeline(cascade), decoder=StableCascadeDecoderPipeline(cascade),
                           combined=StableCascadeCombinedPipeline(cascade))  # fmt: skip
    for pipe in vars(ours).values():
        pipe.set_progress_bar_config(disable=True)
    theirs = SimpleNamespace(prior=reference.prior(parts), decoder=reference.decoder(parts), combined=reference.combined(parts))
    return SimpleNamespace(ours=ours, theirs=theirs)


def both(
    pipe: str, dtype: torch.dtype = torch.float64, seed: int | list[int] = 0, kind: Any = tiny_cascade, **arguments: Any
) -> tuple[Any, Any]:
    """The same call of both, each with a generator of its own at the same seed."""
    pair = pipelines(dtype, kind)

    def generator() -> Any:
        if isinstance(seed, list):
            return [torch.Generator().manual_seed(one) for one in seed]
        return torch.Generator().manual_seed(seed)

    return tuple(getattr(side, pipe)(**arguments, generator=generator()) for side in (pair.ours, pair.theirs))


def near(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert want.isfinite().all()
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def latents(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**SIZE, "prior_num_inference_steps": 3, "num_inference_steps": 2, "output_type": "latent", **arguments}


BOTH = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
PAIR = {"prompt": [PROMPT, "1boy"]}
CALLS = {
    "guided in both stages": {**BOTH, "prior_guidance_scale": 4.0, "decoder_guidance_scale": 2.0},
    "guided in the prior": {**BOTH, "prior_guidance_scale": 7.0, "decoder_guidance_scale": 1.0},
    "guided in neither": {"prompt": PROMPT, "prior_guidance_scale": 1.0, "decoder_guidance_scale": 0.0},
    "without a negative": {"prompt": PROMPT, "prior_guidance_scale": 4.0, "decoder_guidance_scale": 1.1},
    "two prompts, two negatives": {**PAIR, "negative_prompt": [NEGATIVE, ""], "decoder_guidance_scale": 2.0},
    "two pictures of each of two prompts": {**PAIR, "num_images_per_prompt": 2, "decoder_guidance_scale": 2.0},
    "one step in each stage": {"prompt": PROMPT, "prior_num_inference_steps": 1, "num_inference_steps": 1},
    "an empty prompt": {"prompt": "", "negative_prompt": NEGATIVE},
    "square": {"prompt": PROMPT, "height": 256, "width": 256},
}  # fmt: skip


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
def test_a_whole_drawing_in_float64_equals_the_reference(arguments: dict[str, Any]) -> None:
    got, want = both("combined", **latents(arguments))
    near(got.images, want.images, EXACT)


@pytest.mark.parametrize("name", ["guided in both stages", "two pictures of each of two prompts"])
def test_a_whole_drawing_in_float32_equals_the_reference(name: str) -> None:
    got, want = both("combined", torch.float32, **latents(CALLS[name]))
    near(got.images, want.images, FLOAT)


@pytest.mark.parametrize("name", ["guided in both stages", "guided in neither", "two pictures of each of two prompts"])
def test_a_whole_drawing_of_lite_like_networks_equals_the_reference(name: str) -> None:
    got, want = both("combined", kind=lite_cascade, **latents(CALLS[name]))
    near(got.images, want.images, EXACT)
    got, want = both("combined", torch.float32, kind=lite_cascade, **latents(CALLS[name]))
    near(got.images, want.images, FLOAT)


def test_thirty_and_ten_steps_at_the_cards_guidance_equal_the_reference() -> None:
    steps = {"prior_num_inference_steps": 30, "num_inference_steps": 10}
    card = {**steps, "prior_guidance_scale": 7.0, "decoder_guidance_scale": 2.0}
    got, want = both("combined", **latents({**BOTH, **card, "height": 128, "width": 128}))
    near(got.images, want.images, EXACT)


@pytest.mark.parametrize("seed", [0, [3, 5, 7, 9]], ids=["one generator", "a list of generators"])
def test_the_same_generator_gives_the_same_pictures(seed: int | list[int]) -> None:
    arguments = latents({**CALLS["two pictures of each of two prompts"], "output_type": "pil"})
    got, want = both("combined", torch.float32, seed, **arguments)
    assert len(got.images) == len(want.images) == 4
    for ours, theirs in zip(got.images, want.images, strict=True):
        assert ours.size == theirs.size == (384, 256)
        difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int))
        assert difference.max() <= 1


def test_the_generator_is_left_where_the_reference_leaves_it() -> None:
    pair = pipelines(torch.float32)
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    for side, generator in zip((pair.ours, pair.theirs), generators, strict=True):
        side.combined(**latents({"prompt": PROMPT, "num_images_per_prompt": 2}), generator=generator)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_without_a_generator_the_global_one_draws_in_the_same_order() -> None:
    pair = pipelines(torch.float32)
    drawn = []
    for side in (pair.ours, pair.theirs):
        torch.manual_seed(11)
        drawn.append(side.combined(**latents({"prompt": PROMPT, "num_images_per_prompt": 2})).images)
    near(*drawn, FLOAT)


def test_the_prior_alone_equals_the_reference_in_every_output() -> None:
    arguments = {**PAIR, "negative_prompt": [NEGATIVE, ""], "num_images_per_prompt": 2, "num_inference_steps": 3}
    got, want = both("prior", **SIZE, **arguments)
    for name in want:
        near(got[name], want[name], EXACT)


def test_the_prior_follows_image_embeddings_as_the_reference_does() -> None:
    image = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for guidance in (1.0, 4.0):
        got, want = both("prior", **SIZE, prompt=PROMPT, image_embeds=image, num_inference_steps=3, guidance_scale=guidance)
        near(got.image_embeddings, want.image_embeddings, EXACT)
    plain, _ = both("prior", **SIZE, prompt=PROMPT, num_inference_steps=3)
    assert (plain.image_embeddings - got.image_embeddings).abs().max() > 1e-3


def test_given_latents_and_embeddings_give_the_reference_values() -> None:
    g = torch.Generator().manual_seed(6)
    start = torch.randn(2, 16, 6, 9, generator=g, dtype=torch.float64)
    words = {"prompt": [PROMPT + ", 1girl" * 40, "1boy" + ", smile" * 40], "negative_prompt": [NEGATIVE, "monochrome"]}
    parts = pipelines(torch.float64).ours.prior.encode_prompt("cpu", 2, 1, True, **words)
    names = ("prompt_embeds", "prompt_embeds_pooled", "negative_prompt_embeds", "negative_prompt_embeds_pooled")
    assert parts[0].shape[1] > 77  # longer than a chunk, which text given to the reference is cut to
    got, want = both("prior", **SIZE, latents=start, **dict(zip(names, parts, strict=True)), num_inference_steps=3)
    near(got.image_embeddings, want.image_embeddings, EXACT)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_decoder_alone_equals_the_reference(guidance: float) -> None:
    embeddings = torch.randn(2, 16, 3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    arguments = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 2, "guidance_scale": guidance}
    got, want = both("decoder", image_embeddings=embeddings, output_type="pt", **arguments)
    near(got.images, want.images, EXACT)
    got, want = both("decoder", image_embeddings=list(embeddings.split(1)), output_type="np", **arguments)
    assert got.images.dtype == want.images.dtype == np.float32
    assert np.abs(got.images - want.images).max() <= 1e-6


def test_callbacks_see_and_change_what_the_reference_lets_them() -> None:
    pair = pipelines(torch.float64)
    seen: dict[int, list[Any]] = {0: [], 1: []}
    drawn = []
    for number, side in enumerate((pair.ours, pair.theirs)):

        def watch(pipe: Any, i: int, t: Any, given: dict[str, Any], log: list[Any] = seen[number]) -> dict[str, Any]:
            log.append((i, float(t), {name: value.clone() for name, value in given.items()}))
            given["latents"] = given["latents"] * 0.9
            return given

        drawn.append(side.combined(
            **latents({"prompt": PROMPT, "negative_prompt": NEGATIVE, "decoder_guidance_scale": 2.0}),
            generator=torch.Generator().manual_seed(1), prior_callback_on_step_end=watch, callback_on_step_end=watch,
            prior_callback_on_step_end_tensor_inputs=["latents", "text_encoder_hidden_states", "negative_prompt_embeds"],
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds_pooled", "image_embeddings"],
        ).images)  # fmt: skip
    near(*drawn, EXACT)
    assert [entry[0] for entry in seen[0]] == [0, 1, 2, 0, 1]
    for (i, t, ours), (j, u, theirs) in zip(seen[0], seen[1], strict=True):
        assert (i, ours.keys()) == (j, theirs.keys()) and abs(t - u) < 1e-6
        for name in ours:
            near(ours[name], theirs[name], EXACT)


@pytest.mark.parametrize("side", range(128, 1153, 128))
def test_sizes_of_the_reference_are_ours_too(side: int) -> None:
    """ceil and a quarter here, 42.67 and 10.67 there: the same where the reference draws the size that was asked for."""
    cells, _ = prior_cells(Request("", width=side, height=side, compression=42.67))
    assert int(cells * 10.67) == side // 4
