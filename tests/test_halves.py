"""A pipeline of one half opens that half alone, also where the other is not there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_pipelines import PROMPT, draw, generator
from tiny import seeing_cascade

from sotediffusion.pipelines import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from sotediffusion.types import UserError
from sotediffusion.weights import store
from sotediffusion.weights.bundle import Choice

OPENED = {
    StableCascadePriorPipeline: {"text", "stage_c", "image", "previewer"},
    StableCascadeDecoderPipeline: {"text", "stage_b", "stage_a"},
    StableCascadeCombinedPipeline: {"text", "stage_c", "stage_b", "stage_a", "effnet", "previewer", "image"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cascade in our folder, in diffusers' one folder and in its two."""
    place = tmp_path_factory.mktemp("models")
    store.save_cascade(seeing_cascade(), place / "own")
    for format in ("diffusers", "diffusers-connected"):
        store.convert(place / "own", place / format, format)
    return place


def opened(kind: Any, folder: Path, **arguments: Any) -> Any:
    pipe = kind.from_pretrained(folder, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("folder", ["own", "diffusers", "diffusers-connected", "diffusers-connected-prior"])
@pytest.mark.parametrize("kind", OPENED)
def test_each_pipeline_opens_its_parts_alone(written: Path, kind: Any, folder: str) -> None:
    assert opened(kind, written / folder).cascade.parts().keys() == OPENED[kind]


def test_the_lone_folder_of_a_stage_draws_as_diffusers_two_pipelines_do(written: Path, tmp_path: Path) -> None:
    for name in ("prior", "decoder"):
        shutil.copytree(written / ("diffusers-connected" + "-prior" * (name == "prior")), tmp_path / name / "alone")
    with pytest.raises(UserError, match="decoder: .* goes with diffusers-connected, which is not here"):
        opened(StableCascadeCombinedPipeline, tmp_path / "prior" / "alone")
    shared = generator(5)
    prior = opened(StableCascadePriorPipeline, tmp_path / "prior" / "alone")
    told = prior(PROMPT, height=128, width=128, num_inference_steps=2, generator=shared)
    decoder = opened(StableCascadeDecoderPipeline, tmp_path / "decoder" / "alone")
    images = decoder(told.image_embeddings, PROMPT, num_inference_steps=1, generator=shared, output_type="latent").images
    want = draw(generator=generator(5))
    assert (images - want).abs().max() <= 1e-4 * want.abs().max()


def test_a_decoder_that_was_fetched_without_its_text_encoder_takes_the_priors(written: Path, tmp_path: Path) -> None:
    for name in ("diffusers-connected", "diffusers-connected-prior"):
        shutil.copytree(written / name, tmp_path / name)
    for path in (tmp_path / "diffusers-connected" / "text_encoder").glob("*.safetensors"):
        path.unlink()
    pipe = opened(StableCascadeDecoderPipeline, tmp_path / "diffusers-connected")
    assert torch.equal(pipe.text_encoder.text_projection.weight, seeing_cascade().text.text_projection.weight)
    shutil.rmtree(tmp_path / "diffusers-connected-prior")
    with pytest.raises(UserError, match="prior: .* goes with diffusers-connected-prior, which is not here"):
        opened(StableCascadeDecoderPipeline, tmp_path / "diffusers-connected")


def test_half_a_model_is_enough_for_its_half_alone(written: Path, tmp_path: Path) -> None:
    parts = {name: written / "own" / f"{name}.safetensors" for name in ("stage_c", "text")}
    half = store.open_cascade(parts, choice=Choice(StableCascadePriorPipeline.opens))
    assert half.parts().keys() == set(parts) and half.stage_b is None
    with pytest.raises(UserError, match="stage_b: is missing"):
        store.open_cascade(parts)
    with pytest.raises(UserError, match="stage_b: is missing"):
        store.open_cascade(parts, choice=Choice(StableCascadeDecoderPipeline.opens))


def test_a_half_moves_is_cast_and_offloaded_like_a_whole(written: Path, recwarn: pytest.WarningsRecorder) -> None:
    decoder = opened(StableCascadeDecoderPipeline, written / "own", torch_dtype=torch.float16)
    assert not recwarn.list  # what Stage C would compute in is nobody's business here
    decoder.to("cpu", torch.float32)
    decoder.enable_model_cpu_offload(device="cpu")
    images = decoder(torch.zeros(1, 16, 3, 3), PROMPT, num_inference_steps=1, generator=generator()).images
    assert images[0].size == (128, 128)
    assert set(decoder.components) == {"decoder", "vqgan", "text_encoder", "tokenizer"}
