"""The embedded model: small enough to ship, whole, and its pictures show what their prompts name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sotediffusion import StableCascadeCombinedPipeline
from sotediffusion.generate import generate
from sotediffusion.pictures.files import read_settings
from sotediffusion.types import Request
from sotediffusion.weights.cache import embedded, locate
from sotediffusion.weights.store import open_cascade

CARD = ("newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, "
        "looking at viewer, smile, indoors, casual, living room, playing guitar,")  # fmt: skip
NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest, loli,"


@pytest.fixture(scope="module")
def model():
    return open_cascade(locate("miniature"), device="cpu", dtype="float32")


def drawn(model, prompt: str) -> np.ndarray:
    """Pictures of two seeds, (2, H, W, 3) in [0, 1]."""
    found = generate(model, Request(prompt, guidance=4.0, steps=12, decoder_steps=6, decoder_guidance=1.0, seed=11, count=2))
    return np.stack([np.asarray(picture.image) for picture in found]) / 255


def test_it_fits_into_48_mib_and_opens_whole(model) -> None:
    assert sum(path.stat().st_size for path in embedded().rglob("*") if path.is_file()) <= 48 * 2**20
    parts = (model.stage_a, model.stage_b, model.stage_c, model.text, model.effnet, model.previewer)
    assert all(torch.isfinite(value).all() for part in parts for value in part.state_dict().values())


def test_the_cards_example_draws_a_picture_with_the_embedded_model(tmp_path: Path) -> None:
    pipe = StableCascadeCombinedPipeline.from_pretrained("miniature")
    pipe = pipe.to("cpu")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        width=224, height=288, prompt=CARD, negative_prompt=NEGATIVE, decoder_guidance_scale=2.0, prior_guidance_scale=7.0,
        prior_num_inference_steps=30, output_type="pil", num_inference_steps=10, generator=torch.Generator().manual_seed(4),
    ).images[0]  # fmt: skip
    picture.save(tmp_path / "card.png")
    assert picture.size == (224, 288) and read_settings(tmp_path / "card.png")["license"] == "apache-2.0"
    assert 0.05 < (np.asarray(picture) / 255).std() < 0.4  # neither a flat field nor a blown one


def test_a_night_is_darker_than_snow_and_a_monochrome_picture_has_no_colour(model) -> None:
    night = drawn(model, "newest, best quality, 1girl, solo, night sky, outdoors")
    snow = drawn(model, "newest, best quality, 1girl, solo, snow, outdoors")
    grey = drawn(model, "newest, best quality, monochrome, 1girl, solo, beach, outdoors")
    beach = drawn(model, "newest, best quality, 1girl, solo, beach, outdoors")
    assert (night.mean((1, 2, 3)) < snow.mean((1, 2, 3))).all()
    assert np.ptp(grey, axis=3).mean() < 0.5 * np.ptp(beach, axis=3).mean()


@pytest.mark.parametrize("one, other, channel", [("red", "green", 1), ("orange", "blue", 2)])
def test_hair_has_the_colour_it_is_asked_for(model, one: str, other: str, channel: int) -> None:
    """Crowns of portraits of the same two seeds, with one colour asked for and the other: how much redder than this channel."""
    redder = []
    for color in (one, other):
        heads = drawn(model, f"newest, best quality, 1girl, solo, {color} hair, long hair, portrait, looking at viewer, snow")
        _, height, width, _ = heads.shape
        crown = heads[:, height // 8 : height // 4, width * 2 // 5 : width * 3 // 5].mean((1, 2))
        redder.append(crown[:, 0] - crown[:, channel])
    assert (redder[0] - redder[1]).mean() > 0.15
