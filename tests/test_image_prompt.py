"""Prompts that are pictures: prepared and followed as diffusers does, kept by every format that has a place for the tower."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quick_pipelines import PROMPT, QUICK, draw, generator, of
from tiny import seeing_cascade, tiny_cascade

from sotediffusion.models.cascade import Cascade
from sotediffusion.models.image_encoder import ImageConfig, ImageEncoder
from sotediffusion.pictures.files import read_settings
from sotediffusion.pipelines import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from sotediffusion.pipelines.image_prompt import prepared
from sotediffusion.types import UserError
from sotediffusion.weights import store
from sotediffusion.weights.bundle import WHOLE

HOMES = [format for format in store.FORMATS if format not in ("kohya", "onetrainer", "loose")]


def picture(width: int = 50, height: int = 70, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def latents(**arguments: Any) -> Any:
    call = {"prompt": PROMPT, "height": 128, "width": 128, "num_inference_steps": 2, "generator": generator(), **arguments}
    return of(StableCascadePriorPipeline, seeing_cascade())(**call).image_embeddings


@pytest.mark.parametrize("size", [(50, 70), (33, 500), (224, 224), (301, 97), (10, 10)])
def test_a_picture_is_prepared_as_transformers_prepares_it(size: tuple[int, int]) -> None:
    reference = pytest.importorskip("reference_pipelines", reason="parity needs the dev extra")
    for side in (32, 224):
        want = reference.extractor(side)(picture(*size), return_tensors="pt").pixel_values[0]
        got = prepared(picture(*size), side)
        assert got.shape == want.shape == (3, side, side) and (got - want).abs().max() <= 1e-6


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_are_followed_as_diffusers_follows_them(count: int, guidance: float) -> None:
    reference = pytest.importorskip("reference_pipelines", reason="parity needs the dev extra")
    cascade = seeing_cascade(torch.float64)
    parts = reference.components(cascade)
    given = {"prompt": [PROMPT, "1boy"], "images": [picture(seed=i) for i in range(count)], "num_images_per_prompt": 2}
    one = {"height": 128, "width": 128, "num_inference_steps": 2, "guidance_scale": guidance}
    ours, theirs = (pipe(**given, **one, generator=generator()).image_embeddings
                    for pipe in (of(StableCascadePriorPipeline, cascade), reference.prior(parts)))  # fmt: skip
    assert (ours - theirs).abs().max() <= 1e-7 * theirs.abs().max()
    both = {**QUICK, "prior_guidance_scale": guidance, "decoder_guidance_scale": guidance, "output_type": "latent"}
    ours, theirs = (pipe(**given, **both, generator=generator()).images
                    for pipe in (of(StableCascadeCombinedPipeline, cascade), reference.combined(parts)))  # fmt: skip
    assert (ours - theirs).abs().max() <= 1e-7 * theirs.abs().max()


def test_a_picture_may_be_pils_or_a_tensor_and_alone_or_in_a_list() -> None:
    image, other = picture(), picture(seed=1)
    want = latents(images=image)
    values = tensor(image)
    for same in ([image], (image,), image.convert("RGBA"), values, values[None], [values], values / 255, values.double() / 255):
        assert torch.equal(latents(images=same), want)
    assert not torch.equal(latents(images=other), want) and not torch.equal(latents(), want)
    assert torch.equal(latents(images=torch.stack([values, tensor(other)])), latents(images=[image, other]))


def test_a_call_with_pictures_is_one_with_their_embeddings() -> None:
    image, tower = picture(), seeing_cascade().image
    assert tower is not None
    with torch.inference_mode():
        embeds = tower(prepared(image, 32)[None])[None]
    assert torch.equal(latents(image_embeds=embeds), latents(images=image))


def test_a_picture_says_how_many_pictures_it_followed(tmp_path: Path) -> None:
    for count, images in ((2, [picture(), picture(seed=1)]), (None, None)):
        drawn = draw(of(StableCascadeCombinedPipeline, seeing_cascade()), images=images, output_type="pil")[0]
        drawn.save(tmp_path / "drawn.png")
        assert read_settings(tmp_path / "drawn.png").get("image_prompts") == count


@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_an_offloaded_tower_tells_the_same(offload: str) -> None:
    pipe = of(StableCascadePriorPipeline, replace(seeing_cascade()))
    getattr(pipe, offload)(device="cpu")
    call = {"prompt": PROMPT, "height": 128, "width": 128, "num_inference_steps": 2, "images": picture()}
    assert torch.equal(pipe(**call, generator=generator()).image_embeddings, latents(images=picture()))
    pipe.to("cpu")


def test_to_casts_the_tower_with_the_rest() -> None:
    tower = ImageEncoder(seeing_cascade().image.config)  # type: ignore[union-attr]
    copies = {name: deepcopy(getattr(seeing_cascade(), name)) for name in ("text", "stage_c")}
    own = replace(seeing_cascade(), image=tower, **copies)
    pipe = of(StableCascadePriorPipeline, own).to(torch.bfloat16)
    assert pipe.image_encoder is tower and tower.visual_projection.weight.dtype == torch.bfloat16
    assert pipe(PROMPT, picture(), 128, 128, 1, generator=generator()).image_embeddings.isfinite().all()


class Broken(Image.Image):
    """A file that ends before its pixels do."""

    size = (8, 8)

    def convert(self, *arguments: Any, **named: Any) -> Any:
        raise OSError("image file is truncated")


@pytest.mark.parametrize(("images", "message"), [
    ([], "an empty list"),
    ("picture.png", "a str is no picture"),
    ([picture(), 3], "a int is no picture"),
    (torch.zeros(4, 8, 8), r"a tensor \(4, 8, 8\) of float32 is no picture"),
    (torch.zeros(3, 0, 8), "is no picture"),
    (torch.full((3, 8, 8), 200.0), "is no picture"),
    (torch.full((3, 8, 8), float("nan")), "is no picture"),
    (Image.new("1", (9000, 9000)), "9000x9000 is too large"),
    (Image.new("L", (1, 1000)), "1x1000 is too large or too long"),
    (Broken(), "damaged or cut short .*truncated"),
])  # fmt: skip
def test_what_is_no_picture_is_one_sentence(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as found:
        latents(images=images)
    assert found.value.field == "images"


def test_weights_without_a_tower_or_with_a_strangers_and_two_ways_at_once_are_refused() -> None:
    with pytest.raises(UserError, match="images: these weights carry no CLIP image encoder; put in .* `sote weights convert"):
        of(StableCascadePriorPipeline, tiny_cascade())(PROMPT, picture())
    strange = ImageEncoder(ImageConfig(width=32, layers=1, heads=2, hidden=32, projection=24, size=32, patch=8))
    with pytest.raises(UserError, match="says 24 numbers of a picture where Stage C takes 16"):
        of(StableCascadeCombinedPipeline, replace(seeing_cascade(), image=strange))(PROMPT, picture(), 128, 128)
    with pytest.raises(UserError, match="images: given together with image_embeds"):
        latents(images=picture(), image_embeds=torch.zeros(1, 1, 16))


def test_the_policy_is_asked_before_the_tower_looks() -> None:
    class Looked(ImageEncoder):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise AssertionError("looked")

    blind = replace(seeing_cascade(), image=Looked(seeing_cascade().image.config))  # type: ignore[union-attr]
    for kind in (StableCascadePriorPipeline, StableCascadeCombinedPipeline):
        with pytest.raises(UserError, match="never drawn"):
            of(kind, blind)("loli, nsfw", picture())


# Files


def saved(cascade: Cascade, path: Path, format: str) -> Path:
    store.save_cascade(cascade, path, format)
    return path


@pytest.mark.parametrize("format", HOMES)
def test_every_format_with_a_place_for_the_tower_brings_it_back(tmp_path: Path, format: str) -> None:
    folder = saved(seeing_cascade(), tmp_path / "own", "folder")
    assert store.convert(folder, tmp_path / "m", format) == []
    assert store.convert(tmp_path / "m", tmp_path / "back", "folder") == []
    hashes = [{part.name: (part.hash, part.size) for part in store.inspect(path).parts} for path in (folder, tmp_path / "back")]
    assert hashes[0] == hashes[1] and hashes[0]["image"][1] == "tiny"
    assert store.open_cascade(tmp_path / "m").image is None  # nobody asked for it
    opened = store.open_cascade(tmp_path / "m", choice=WHOLE).image
    assert opened is not None and opened.config == seeing_cascade().image.config  # type: ignore[union-attr]


def test_formats_without_a_place_for_the_tower_say_so(tmp_path: Path) -> None:
    folder = saved(seeing_cascade(), tmp_path / "own", "folder")
    assert "image" in store.convert(folder, tmp_path / "loose", "loose")
    assert "image" in store.convert(folder, tmp_path / "pair.safetensors", "kohya")


@pytest.mark.parametrize("format", ["diffusers", "diffusers-connected"])
def test_transformers_reads_the_tower_and_how_pictures_are_prepared(tmp_path: Path, format: str) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the dev extra")
    folder, mark = saved(seeing_cascade(), tmp_path / "m", format), ""
    if format == "diffusers":
        mark = "prior_"
    else:
        folder = tmp_path / "m-prior"
    extractor = transformers.CLIPImageProcessorPil.from_pretrained(folder / f"{mark}feature_extractor")
    kind = transformers.CLIPVisionModelWithProjection
    tower, report = kind.from_pretrained(folder / f"{mark}image_encoder", output_loading_info=True)
    assert not any(report.values()), report
    pixels = extractor(picture(), return_tensors="pt").pixel_values
    assert torch.equal(pixels[0], prepared(picture(), 32))
    with torch.no_grad():
        want = seeing_cascade().image(prepared(picture(), 32)[None])  # type: ignore[misc]
        assert (tower(pixels).image_embeds - want).abs().max() <= 1e-5 * want.abs().max()


def test_pipelines_open_the_tower_where_the_folder_has_one(tmp_path: Path) -> None:
    folder = saved(seeing_cascade(), tmp_path / "m", "diffusers")
    pipe = StableCascadePriorPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 128, "width": 128, "num_inference_steps": 2, "generator": generator()}
    drawn, want = pipe(PROMPT, picture(), **call).image_embeddings, latents(images=picture())
    assert (drawn - want).abs().max() <= 1e-4 * want.abs().max()
    assert StableCascadeCombinedPipeline.from_pretrained(folder).prior_image_encoder is not None
    assert StableCascadeDecoderPipeline.from_pretrained(folder).cascade.image is None


def test_the_tower_may_be_named_beside_other_parts(tmp_path: Path) -> None:
    theirs = saved(seeing_cascade(), tmp_path / "m", "diffusers-connected").with_name("m-prior") / "image_encoder"
    plain = saved(tiny_cascade(), tmp_path / "plain", "folder")
    (tmp_path / "mix.toml").write_text(f'base = "{plain}"\nimage_encoder = "{theirs}"\n')
    assert store.convert(tmp_path / "mix.toml", tmp_path / "out", "folder") == []
    assert "image" in {part.name for part in store.inspect(tmp_path / "out").parts}
