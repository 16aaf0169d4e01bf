"""The diffusers-shaped face: the card's code, every documented argument, and one sentence for what cannot be done."""

import inspect
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from quick_pipelines import PROMPT, QUICK, draw, generator, of, own_copy
from tiny import tiny_cascade

import sotediffusion
from sotediffusion.cli.main import main
from sotediffusion.generate import generate
from sotediffusion.pictures.files import read_settings
from sotediffusion.pipelines import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from sotediffusion.pipelines.noise import Source
from sotediffusion.types import Request, UserError
from sotediffusion.weights import store

POOLED = torch.zeros(1, 1, 32)
CARD_PROMPT = (
    "newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, "
    "looking at viewer, smile, indoors, casual, living room, playing guitar,"
)
CARD_NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest, loli,"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    store.save_cascade(replace(tiny_cascade(), license="apache-2.0"), path)
    return path


def refused(**arguments: Any) -> UserError:
    with pytest.raises(UserError) as found:
        draw(**arguments)
    return found.value


def test_the_cards_example_runs_with_import_model_size_and_device_changed(folder: Path, tmp_path: Path) -> None:
    from sotediffusion import StableCascadeCombinedPipeline

    device = "cpu"
    dtype = torch.bfloat16
    pipe = StableCascadeCombinedPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipe = pipe.to(device, dtype=dtype)
    pipe.prior_pipe = pipe.prior_pipe.to(device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        width=64, height=96, prompt=CARD_PROMPT, negative_prompt=CARD_NEGATIVE, decoder_guidance_scale=2.0,
        prior_guidance_scale=7.0, prior_num_inference_steps=30, output_type="pil", num_inference_steps=10,
    ).images[0]  # fmt: skip
    assert isinstance(output, Image.Image) and output.size == (64, 96) and output.mode == "RGB"
    output.save(tmp_path / "card.png")
    settings = read_settings(tmp_path / "card.png")
    assert settings["ai_generated"] is True and settings["license"] == "apache-2.0"
    assert (settings["prompt"], settings["steps"], settings["guidance"]) == (CARD_PROMPT, 30, 7.0)
    assert "seed" not in settings  # nobody gave one


@pytest.mark.parametrize("kind", [StableCascadeCombinedPipeline, StableCascadePriorPipeline, StableCascadeDecoderPipeline])
def test_arguments_and_defaults_are_those_of_diffusers(kind: Any) -> None:
    diffusers = pytest.importorskip("diffusers", reason="parity needs the dev extra")
    ours = inspect.signature(kind.__call__).parameters
    theirs = inspect.signature(inspect.unwrap(getattr(diffusers, kind.__name__).__call__)).parameters
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        if name not in ("self", "image_embeddings"):
            default = tuple(parameter.default) if isinstance(parameter.default, list) else parameter.default
            assert ours[name].default == default, name


@pytest.mark.parametrize("steps", [1, 3])
def test_prior_and_decoder_one_after_the_other_draw_what_combined_draws(steps: int) -> None:
    shared = generator(5)
    prior, decoder = of(StableCascadePriorPipeline), of(StableCascadeDecoderPipeline)
    told = prior(PROMPT, height=128, width=256, num_inference_steps=steps, negative_prompt="oldest", generator=shared)
    images = decoder(told.image_embeddings, PROMPT, num_inference_steps=steps, guidance_scale=2.0, negative_prompt="oldest",
                     generator=shared, output_type="latent").images  # fmt: skip
    whole = draw(height=128, width=256, prior_num_inference_steps=steps, num_inference_steps=steps, decoder_guidance_scale=2.0,
                 negative_prompt="oldest", generator=generator(5))  # fmt: skip
    assert torch.equal(images, whole)


def test_a_pipeline_draws_what_generate_draws_from_the_same_noise() -> None:
    request = Request(PROMPT, "oldest", 128, 128, steps=2, decoder_steps=1, seed=0)
    (picture,) = generate(tiny_cascade(), request)
    (image,) = draw(negative_prompt="oldest", prior_guidance_scale=7.0, decoder_guidance_scale=2.0, output_type="pil")
    assert np.array_equal(np.asarray(picture.image), np.asarray(image))


def test_every_output_type_is_the_same_picture() -> None:
    latent, pt, array, images = (draw(output_type=kind, num_images_per_prompt=2) for kind in ("latent", "pt", "np", "pil"))
    assert latent.shape == (2, 4, 32, 32) and pt.shape == (2, 3, 128, 128) and array.shape == (2, 128, 128, 3)
    assert array.dtype == np.float32 and 0 <= array.min() and array.max() <= 1
    assert np.array_equal(pt.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), (array * 255).round().astype(np.uint8))


def test_outputs_are_read_by_name_place_or_as_a_tuple() -> None:
    pipe = of(StableCascadeCombinedPipeline)
    call = {"prompt": PROMPT, "output_type": "latent", **QUICK}
    output, pair = pipe(**call, generator=generator()), pipe(**call, generator=generator(), return_dict=False)
    assert torch.equal(output.images, output["images"]) and torch.equal(output[0], pair[0]) and len(pair) == 1
    assert output.get("nothing") is None
    prior = of(StableCascadePriorPipeline)
    five = prior(PROMPT, height=128, width=128, num_inference_steps=1, return_dict=False, output_type="np")
    assert [part.shape for part in five] == [(1, 16, 3, 3), *[(1, 77, 32), (1, 1, 32)] * 2]
    assert all(isinstance(part, np.ndarray) for part in five)


def test_any_multiple_of_eight_is_drawn_at_its_own_size() -> None:
    for width, height in ((192, 320), (208, 152), (448, 64)):  # diffusers crashes on or changes each of these
        (image,) = draw(width=width, height=height, output_type="pil", num_inference_steps=1, prior_num_inference_steps=1)
        assert image.size == (width, height)
    (image,) = draw(width=None, height=None, output_type="pil", prior_num_inference_steps=1)
    assert image.size == (128, 192)


def test_a_decoder_alone_draws_the_nearest_size_to_its_embeddings() -> None:
    decoder = of(StableCascadeDecoderPipeline)
    for (h, w), size in {(3, 6): (256, 128), (2, 4): (168, 88)}.items():
        (image,) = decoder(torch.zeros(1, 16, h, w), PROMPT, num_inference_steps=1).images
        assert image.size == size


def test_lists_are_drawn_prompt_by_prompt_each_as_it_is_alone() -> None:
    together = draw(prompt=[PROMPT, "1boy, hat"], negative_prompt=["oldest", ""], num_images_per_prompt=2,
                    generator=[generator(seed) for seed in range(4)])  # fmt: skip
    for i, (prompt, negative) in enumerate([(PROMPT, "oldest")] * 2 + [("1boy, hat", "")] * 2):
        alone = draw(prompt=prompt, negative_prompt=negative, generator=generator(i))
        assert (together[i] - alone[0]).abs().max() <= 1e-4 * alone.abs().max()


def test_one_negative_prompt_serves_a_list_of_prompts() -> None:
    prompts = [PROMPT, "1boy"]
    one, each = (draw(prompt=prompts, negative_prompt=negative) for negative in ("oldest", ["oldest", "oldest"]))
    assert torch.equal(one, each)


def test_the_decoder_may_be_guided_where_the_prior_is_not() -> None:
    guidance = {"prior_guidance_scale": 1.0, "decoder_guidance_scale": 2.0}
    drawn = [draw(negative_prompt=negative, **guidance) for negative in ("oldest", "hat")]
    assert drawn[0].isfinite().all() and not torch.equal(*drawn)


def test_embeddings_from_the_prior_stand_in_for_the_prompt() -> None:
    prior = of(StableCascadePriorPipeline)
    told = prior(PROMPT, height=128, width=128, num_inference_steps=1, negative_prompt="oldest")
    names = ("prompt_embeds", "prompt_embeds_pooled", "negative_prompt_embeds", "negative_prompt_embeds_pooled")
    given = {name: told[name] for name in names}
    assert torch.equal(draw(prompt=None, **given), draw(negative_prompt="oldest"))
    half = {name: given[name] for name in names[:2]}
    assert torch.equal(draw(prompt=None, negative_prompt="oldest", **half), draw(negative_prompt="oldest"))


def test_a_decoder_shares_its_embeddings_and_repeats_among_its_prompts() -> None:
    decoder = of(StableCascadeDecoderPipeline)
    embeddings = torch.randn(4, 16, 2, 2, generator=generator())
    images = decoder(embeddings, [PROMPT, "1boy"], num_inference_steps=1, num_images_per_prompt=2, output_type="latent").images
    assert images.shape[0] == 8
    with pytest.raises(UserError, match="image_embeddings: 4 do not fit 3 prompts"):
        decoder(embeddings, ["a", "b", "c"])


def test_prompts_are_literal_and_of_any_length() -> None:
    assert torch.equal(draw(prompt="hat, cat\nears"), draw(prompt="hat, cat ears"))
    assert torch.equal(draw(prompt="hat BREAK cat"), draw(prompt="hat break cat"))
    weighted, plain = draw(prompt="(hat:1.5)"), draw(prompt="hat")
    assert not torch.equal(weighted, plain)
    (picture,) = generate(tiny_cascade(), Request("(hat:1.5)", "", 128, 128, steps=2, decoder_steps=1, seed=0))
    (literal,) = draw(prompt="(hat:1.5)", prior_guidance_scale=7.0, decoder_guidance_scale=2.0, output_type="pil")
    assert not np.array_equal(np.asarray(picture.image), np.asarray(literal))
    assert draw(prompt="{a|b}").isfinite().all()
    told = of(StableCascadePriorPipeline)("cat ears, " * 60, height=128, width=128, num_inference_steps=1)
    assert told.prompt_embeds.shape == told.negative_prompt_embeds.shape == (1, 231, 32)


def test_given_latents_are_where_drawing_starts() -> None:
    start = torch.randn(1, 16, 3, 3, generator=generator(8))
    shared = generator(8)
    assert torch.equal(draw(generator=shared), draw(latents=start, generator=_after(16 * 9, 8)))


def _after(numbers: int, seed: int) -> torch.Generator:
    """A generator that has drawn so many numbers."""
    own = generator(seed)
    torch.randn(1, numbers, generator=own)
    return own


def test_noise_is_drawn_in_the_dtype_of_the_network_at_work() -> None:
    """As in diffusers: the same generator draws other numbers in another dtype, for few numbers quite other ones."""
    drawn = []
    for kind in (torch.float32, torch.bfloat16):
        source = Source(generator(), 3)
        source.kind = kind
        rows = [source.row(i) for i in (0, 1, 2)]
        first, second = ([row((1, 2), torch.float32) for row in rows] for _ in range(2))
        shared = generator()
        want = [torch.randn(3, 2, generator=shared, dtype=kind).float() for _ in range(2)]
        assert torch.equal(torch.cat(first), want[0]) and torch.equal(torch.cat(second), want[1])
        drawn.append(want[0])
    assert not torch.equal(*drawn)


def test_timesteps_of_the_prior_are_followed() -> None:
    prior = of(StableCascadePriorPipeline)
    call = {"prompt": PROMPT, "height": 128, "width": 128}
    ways = ({"num_inference_steps": 4}, {"timesteps": [1.0, 0.75, 0.5, 0.25, 0.0]}, {"timesteps": [1.0, 0.9, 0.2, 0.1, 0.0]})
    even, same, uneven = (prior(**call, **own, generator=generator()).image_embeddings for own in ways)
    assert torch.allclose(even, same) and not torch.allclose(even, uneven)
    for wrong in ([0.0, 1.0], [1.0], [1.5, 0.0], [1.0, 0.5]):
        with pytest.raises(UserError, match="timesteps"):
            prior(**call, timesteps=wrong)


def test_latents_that_a_callback_returns_are_used_and_the_rest_goes_on() -> None:
    calls = []

    def blank(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        calls.append((type(pipe).__name__, i, pipe.num_timesteps))
        given["latents"].zero_()  # in place, as notebooks do
        return given

    images = draw(prior_callback_on_step_end=blank, callback_on_step_end=blank)
    assert not images.any()
    prior, decoder = "StableCascadePriorPipeline", "StableCascadeDecoderPipeline"
    assert calls == [(prior, 0, 2), (prior, 1, 2), (decoder, 0, 1)]
    assert torch.equal(draw(callback_on_step_end=lambda *given: None), draw())


def test_a_callback_error_is_one_sentence() -> None:
    error = refused(callback_on_step_end=print, callback_on_step_end_tensor_inputs=["nothing"])
    assert error.field == "callback_on_step_end_tensor_inputs" and "latents" in error.message
    error = refused(callback_on_step_end=lambda *given: {"latents": torch.zeros(1)})
    assert error.field == "callback_on_step_end" and "(1, 4, 32, 32)" in error.message
    error = refused(prior_callback_on_step_end=lambda *given: {"prompt_embeds": torch.zeros(1)})
    assert error.field == "prior_callback_on_step_end"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [PROMPT, 3]}, "prompt"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "prompt"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 32)}, "prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 9), "prompt_embeds_pooled": POOLED}, "prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 32), "prompt_embeds_pooled": POOLED[0]}, "prompt_embeds_pooled"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 32), "prompt_embeds_pooled": POOLED}, "prompt_embeds"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
        ({"negative_prompt": 3}, "negative_prompt"),
        ({"negative_prompt_embeds": torch.zeros(1, 154, 32), "negative_prompt_embeds_pooled": POOLED}, "negative_prompt_embeds"),
        ({"negative_prompt_embeds": torch.zeros(2, 77, 32), "negative_prompt_embeds_pooled": torch.zeros(2, 1, 32)},
         "negative_prompt_embeds"),
        ({"images": Image.new("RGB", (8, 8))}, "images"),
        ({"height": 1001}, "height"),
        ({"width": 10**6}, "width"),
        ({"prior_num_inference_steps": 0}, "prior_num_inference_steps"),
        ({"num_inference_steps": {0.5: 3}}, "num_inference_steps"),
        ({"prior_guidance_scale": float("nan")}, "prior_guidance_scale"),
        ({"decoder_guidance_scale": -1.0}, "decoder_guidance_scale"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"generator": [generator(), generator()]}, "generator"),
        ({"generator": 7}, "generator"),
        ({"latents": torch.zeros(1, 16, 9, 9)}, "latents"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_sentence_that_names_the_argument(arguments: dict[str, Any], field: str) -> None:
    error = refused(**arguments)
    assert error.field == field
    assert "\n" not in error.message and len(error.message) < 250


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "A.JPEG"])
def test_a_plainly_saved_picture_says_what_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image,) = draw(negative_prompt="oldest", prior_guidance_scale=7.0, output_type="pil", generator=generator(5))
    image.save(tmp_path / name)
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / name)])
    lines = capsys.readouterr().out.splitlines()
    wanted = [f"prompt: {PROMPT}", "negative: oldest", "seed: 5", "steps: 2", "guidance: 7.0", "ai_generated: True",
              "model: tiny", "pipeline: StableCascadeCombinedPipeline", "noise: cpu float32", "width: 128"]  # fmt: skip
    assert set(wanted) <= set(lines)
    with Image.open(tmp_path / name) as file:
        comment = file.info.get("parameters") or file.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
        assert comment.startswith(f"{PROMPT}\nNegative prompt: oldest\nSteps: 2, Sampler: Default, CFG scale: 7, Seed: 5, ")
        assert file.size == (128, 128)


def test_like_draws_a_pipelines_picture_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = of(StableCascadeCombinedPipeline, store.open_cascade(folder))
    (image,) = draw(pipe, prompt="hat (red), cat", negative_prompt="oldest", output_type="pil", generator=generator(5))
    image.save(tmp_path / "a.png")
    with pytest.raises(SystemExit):
        main(["generate", "--like", str(tmp_path / "a.png"), "--model", str(folder), "--out", str(tmp_path / "b.png")])
    assert capsys.readouterr().err == ""
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(Image.open(tmp_path / "b.png")))


def test_a_seed_is_written_down_only_where_the_picture_follows_from_it(tmp_path: Path) -> None:
    def seeds(**arguments: Any) -> list[int | None]:
        images = draw(output_type="pil", num_images_per_prompt=2, **arguments)
        for i, image in enumerate(images):
            image.save(tmp_path / f"{i}.png")
        return [read_settings(tmp_path / f"{i}.png").get("seed") for i in range(len(images))]

    assert seeds(generator=[generator(3), generator(4)]) == [3, 4]
    assert seeds(generator=[generator(3), _after(1, 4)]) == [3, None]
    assert seeds(generator=generator(3)) == seeds(generator=None) == [None, None]
    start = torch.zeros(2, 16, 3, 3)
    assert seeds(generator=[generator(3), generator(4)], latents=start) == [None, None]


def test_what_is_cut_or_scaled_of_a_picture_keeps_its_marks_and_the_callers_go_first(tmp_path: Path) -> None:
    (image,) = draw(output_type="pil")
    small = image.convert("L").resize((32, 32)).crop((0, 0, 16, 16)).rotate(90)
    small.save(tmp_path / "a.webp")
    deepcopy(image).save(tmp_path / "b.png")
    own = PngInfo()
    own.add_text("Title", "mine")
    image.save(tmp_path / "c.png", pnginfo=own)
    image.save(tmp_path / "d.jpg", quality=30, exif=Image.Exif().tobytes())
    for name in ("a.webp", "b.png", "c.png", "d.jpg"):
        assert read_settings(tmp_path / name)["ai_generated"] is True, name
    assert Image.open(tmp_path / "c.png").info["Title"] == "mine"
    image.save(tmp_path / "e.bmp")  # has no place for them
    with pytest.raises(ValueError, match="unknown file extension"):
        image.save(tmp_path / "e.nonsense")


def test_a_decoder_alone_says_nothing_of_the_prior_it_has_not_seen(tmp_path: Path) -> None:
    (image,) = of(StableCascadeDecoderPipeline)(torch.zeros(1, 16, 3, 3), PROMPT, num_inference_steps=1).images
    image.save(tmp_path / "a.png")
    settings = read_settings(tmp_path / "a.png")
    assert settings["decoder_steps"] == 1 and not {"steps", "guidance", "seed"} & settings.keys()


def encoded(prompt: str, negative: str | None = None, **changes: Any) -> dict[str, torch.Tensor]:
    order = {"device": "cpu", "batch_size": 1, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    parts = of(StableCascadePriorPipeline).encode_prompt(**(order | changes), prompt=prompt, negative_prompt=negative)
    names = ("prompt_embeds", "prompt_embeds_pooled", "negative_prompt_embeds", "negative_prompt_embeds_pooled")
    return dict(zip(names, parts, strict=True))


def test_encode_prompt_has_the_arguments_of_diffusers_and_its_embeddings_stand_in_for_the_prompt() -> None:
    diffusers = pytest.importorskip("diffusers", reason="parity needs the dev extra")
    for kind in (StableCascadePriorPipeline, StableCascadeDecoderPipeline):
        theirs = inspect.signature(getattr(diffusers, kind.__name__).encode_prompt).parameters
        assert list(inspect.signature(kind.encode_prompt).parameters) == list(theirs)
    drawn = draw(negative_prompt="oldest")
    given = encoded(PROMPT, "oldest")
    assert torch.equal(draw(prompt=None, **given), drawn)
    half = {name: value.bfloat16().double() for name, value in given.items()}  # a cast on the way makes no stranger of them
    assert draw(prompt=None, **half).isfinite().all()
    twice = encoded(PROMPT, "oldest", num_images_per_prompt=2)
    assert twice["prompt_embeds"].shape[0] == twice["negative_prompt_embeds_pooled"].shape[0] == 2
    assert encoded(PROMPT, do_classifier_free_guidance=False)["negative_prompt_embeds"] is None
    with pytest.raises(UserError, match="batch_size"):
        encoded(PROMPT, batch_size=3)


def test_the_text_of_given_embeddings_is_written_into_the_picture(tmp_path: Path) -> None:
    (image,) = draw(prompt=None, output_type="pil", **encoded("hat (red)", "oldest"))
    image.save(tmp_path / "a.png")
    settings = read_settings(tmp_path / "a.png")
    assert (settings["prompt"], settings["negative"]) == (r"hat \(red\)", "oldest")


def test_embeddings_that_nobody_knows_the_text_of_are_refused() -> None:
    given = encoded(PROMPT, "oldest")
    other = encoded("1boy, hat")
    strange = [
        {"prompt_embeds": given["prompt_embeds"] * 1.01},
        {"prompt_embeds_pooled": other["prompt_embeds_pooled"]},  # known, but of another text
        {"negative_prompt_embeds": torch.zeros_like(given["negative_prompt_embeds"])},
        {"prompt_embeds": torch.randn(1, 77, 32)},
    ]
    for change in strange:
        error = refused(prompt=None, **(given | change))
        assert error.field == next(iter(change)).replace("_pooled", "") and "the policy cannot be asked" in error.message


def test_the_policy_reads_the_text_of_given_embeddings_in_the_place_they_are_given_for() -> None:
    with pytest.raises(UserError, match="never drawn"):
        encoded("loli, nsfw")
    avoided = encoded(PROMPT, "loli, nsfw")  # a wish to avoid, like the card's own
    assert draw(prompt=None, **avoided).isfinite().all()
    turned = {name: avoided[f"negative_{name}"] for name in ("prompt_embeds", "prompt_embeds_pooled")}
    error = refused(prompt=None, **turned)
    assert error.field == "prompt" and "never drawn" in error.message
    halves = encoded("child", "oldest"), encoded("nsfw", "oldest")
    mixed = halves[0] | {"prompt_embeds_pooled": halves[1]["prompt_embeds_pooled"]}
    assert "the policy cannot be asked" in refused(prompt=None, **mixed).message


def test_image_prompts_are_refused_with_the_way_that_works() -> None:
    assert "image_embeds" in refused(images=Image.new("RGB", (8, 8))).message
    for wrong in (torch.zeros(16), torch.zeros(1, 1, 15), torch.zeros(2, 1, 16)):
        with pytest.raises(UserError, match="image_embeds"):
            of(StableCascadePriorPipeline)(PROMPT, image_embeds=wrong)
    with pytest.raises(UserError, match="image_embeddings"):
        of(StableCascadeDecoderPipeline)(torch.zeros(1, 3, 8, 8), PROMPT)


@pytest.mark.parametrize("prompt", ["loli, nsfw", ["1girl", "loli, nsfw"], "lo\nli, nsfw"])
def test_the_policy_is_asked_before_any_network_works(prompt: Any) -> None:
    cascade = replace(tiny_cascade(), text=None, stage_c=None, stage_b=None, stage_a=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="never drawn") as found:
        draw(of(StableCascadeCombinedPipeline, cascade), prompt=prompt)
    assert found.value.field == "prompt"
    with pytest.raises(UserError, match="never drawn"):
        of(StableCascadePriorPipeline)(prompt)
    with pytest.raises(UserError, match="never drawn"):
        of(StableCascadeDecoderPipeline)(torch.zeros(2, 16, 3, 3), prompt)


def test_parts_have_the_names_of_diffusers() -> None:
    cascade = own_copy()
    pipe = of(StableCascadeCombinedPipeline, cascade)
    assert pipe.prior_prior is cascade.stage_c and pipe.decoder is cascade.stage_b and pipe.vqgan is cascade.stage_a
    assert pipe.text_encoder is pipe.prior_text_encoder is cascade.text and pipe.tokenizer is cascade.tokenizer
    names = "prior_prior prior_text_encoder prior_tokenizer prior_image_encoder decoder vqgan text_encoder tokenizer"
    assert set(pipe.components) == set(names.split())
    assert pipe.prior_pipe.prior is cascade.stage_c and pipe.decoder_pipe.vqgan is cascade.stage_a
    other = deepcopy(cascade.stage_a)
    pipe.vqgan = other
    assert cascade.stage_a is other is pipe.decoder_pipe.vqgan


def test_a_scheduler_is_refused_since_it_would_not_be_asked() -> None:
    pipe = of(StableCascadeCombinedPipeline)
    for one, name in ((pipe, "prior_scheduler"), (pipe.prior_pipe, "scheduler"), (pipe.decoder_pipe, "scheduler")):
        with pytest.raises(UserError, match="scheduler: object is not taken, pipelines draw by ddpm; .*Request"):
            setattr(one, name, object())


def test_a_folder_opens_in_float32_or_what_is_asked_for_and_float16_is_warned_of_once(folder: Path, tmp_path: Path) -> None:
    store.convert(folder, tmp_path / "half", "folder", torch.float16)
    for kind in (StableCascadeCombinedPipeline, StableCascadePriorPipeline, StableCascadeDecoderPipeline):
        networks = kind.from_pretrained(str(tmp_path / "half")).cascade.parts().values()
        assert {next(network.parameters()).dtype for network in networks} == {torch.float32}
    with pytest.warns(UserWarning, match="float16") as told:
        pipe = sotediffusion.StableCascadeCombinedPipeline.from_pretrained(folder, torch_dtype=torch.float16)
        pipe.to("cpu", torch.float16).prior_pipe.to(torch.float16)
    assert len(told) == 1
    assert pipe.vqgan.out_block[0].weight.dtype == torch.float16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StableCascadePriorPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)


def test_opening_what_is_not_there_or_not_taken_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        StableCascadeCombinedPipeline.from_pretrained(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(UserError, match="is not here"):
        StableCascadeCombinedPipeline.from_pretrained("m" * 300)
    with pytest.raises(UserError, match="variant: 'bf16' is in the name of no file here"):
        StableCascadeCombinedPipeline.from_pretrained(folder, variant="bf16")
    with pytest.raises(UserError, match="device_map: is not taken here; leave it out; taken are torch_dtype"):
        StableCascadeCombinedPipeline.from_pretrained(folder, device_map="auto")
    with pytest.raises(UserError, match="dtype"):
        StableCascadeCombinedPipeline.from_pretrained(folder, torch_dtype=torch.int64)


def test_a_hub_id_opens_from_the_cache_where_the_hub_cannot_be_reached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--someone--tiny", "c" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(folder)
    for revision in (None, "main", commit):
        pipe = StableCascadeCombinedPipeline.from_pretrained("someone/tiny", revision=revision, cache_dir=tmp_path)
        assert torch.equal(pipe.prior_prior.clip_txt_mapper.weight, tiny_cascade().stage_c.clip_txt_mapper.weight)
    for name, revision in (("someone/else", None), ("someone/tiny", "v2"), ("tiny", None)):
        with pytest.raises(UserError):
            StableCascadeCombinedPipeline.from_pretrained(name, revision=revision, cache_dir=tmp_path)


def test_the_progress_bar_takes_what_tqdm_takes(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = StableCascadeCombinedPipeline(tiny_cascade())
    pipe.set_progress_bar_config(desc="stage", ascii=True)
    draw(pipe)
    prior, decoder = capsys.readouterr().err.strip().split("\n")
    assert "stage: 100%" in prior and " 2/2 " in prior and "stage: 100%" in decoder and " 1/1 " in decoder
    pipe.set_progress_bar_config(disable=True)
    draw(pipe)
    assert capsys.readouterr().err == ""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_numbers_of_a_sweep_are_numbers() -> None:
    swept = {"prior_guidance_scale": np.float32(4), "prior_num_inference_steps": np.int64(2), "height": np.int64(128)}
    plain = {name: value.item() for name, value in swept.items()}
    assert torch.equal(draw(num_images_per_prompt=2, **plain), draw(num_images_per_prompt=np.int64(2), **swept))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prior_callback_on_step_end": 3}, "prior_callback_on_step_end: type int cannot be called"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "callback_on_step_end_tensor_inputs: 'latents' is no list"),
        ({"prompt": []}, "prompt: it is an empty list"),
    ],
)
def test_arguments_of_another_kind_are_one_sentence(arguments: dict[str, Any], said: str) -> None:
    assert str(refused(**arguments)).startswith(said)


def test_timesteps_that_are_none_are_refused_before_any_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sotediffusion.pipelines.prior.encode", lambda *_: pytest.fail("the text was read"))
    for timesteps in ("abc", [[]], [1.0, None, 0.0], [1.0]):
        with pytest.raises(UserError, match="^timesteps: must fall from at most 1 to 0"):
            of(StableCascadePriorPipeline)(PROMPT, timesteps=timesteps)


def test_what_is_saved_is_opened_again(folder: Path, tmp_path: Path) -> None:
    pipe = StableCascadeCombinedPipeline.from_pretrained(folder, low_cpu_mem_usage=True)
    pipe.enable_xformers_memory_efficient_attention()
    pipe.enable_attention_slicing("auto")
    pipe.save_pretrained(tmp_path / "m")
    again = StableCascadeCombinedPipeline.from_pretrained(tmp_path / "m")
    assert again.cascade.hashes == pipe.cascade.hashes
    with pytest.raises(UserError, match="is there already"):
        pipe.save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match="plain safetensors"):
        pipe.save_pretrained(tmp_path / "n", variant="fp16")
    with pytest.raises(UserError, match="on meta the weights would be lost"):
        pipe.to("meta")
