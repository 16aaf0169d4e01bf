"""Our networks give diffusers' numbers on the same random weights."""

import pytest
import torch
import transformers
from reference_pipelines import unet as reference
from reference_pipelines import vision
from tiny import fill

from sotediffusion.models.cascade import SIZES
from sotediffusion.models.image_encoder import ImageConfig, ImageEncoder
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextConfig, TextTower
from sotediffusion.models.unet import Conditioning, UNetConfig


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


TINY = SIZES["tiny"]
LITE_LIKE = UNetConfig(
    **{**TINY.stage_b.__dict__, "heads": (-1, 2, 2, 2), "up_repeats": (3, 3, 2, 2), "down_repeats": (1, 2, 1, 1)}
)


@pytest.mark.parametrize("switch", [(False,), (True,), None])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_stage_c_gives_the_reference_values(switch: tuple[bool] | None, size: tuple[int, int]) -> None:
    config = UNetConfig(**{**TINY.stage_c.__dict__, "switch_level": switch})
    ours = StageC(config).eval()
    fill(ours)
    theirs = reference(ours)
    g = torch.Generator().manual_seed(1)
    x, r = torch.randn(3, 16, *size, generator=g), torch.tensor([1.0, 0.4, 0.02])
    text, pooled = torch.randn(3, 77, 32, generator=g), torch.randn(3, 1, 32, generator=g)
    image = torch.randn(3, 1, 16, generator=g)
    with torch.no_grad():
        want = theirs(x, r, clip_text_pooled=pooled, clip_text=text, clip_img=image).sample
        close(ours(x, r, ours.condition(text, pooled, image)), want)
        want = theirs(x, r, clip_text_pooled=pooled, clip_text=text, clip_img=torch.zeros_like(image)).sample
        close(ours(x, r, ours.condition(text, pooled)), want)


@pytest.mark.parametrize("config", [TINY.stage_b, LITE_LIKE], ids=["full-like", "lite-like"])
@pytest.mark.parametrize("size", [(32, 32), (48, 72), (34, 50)])
def test_stage_b_gives_the_reference_values(config: UNetConfig, size: tuple[int, int]) -> None:
    ours = StageB(config).eval()
    fill(ours)
    theirs = reference(ours)
    g = torch.Generator().manual_seed(2)
    x, r = torch.randn(2, 4, *size, generator=g), torch.tensor([0.9, 0.1])
    effnet, pooled = torch.randn(2, 16, 5, 7, generator=g), torch.randn(2, 1, 32, generator=g)
    with torch.no_grad():
        want = theirs(x, r, clip_text_pooled=pooled, effnet=effnet).sample
        close(ours(x, r, ours.condition(effnet, pooled, size)), want)
        pixels = torch.randn(2, 3, 8, 8, generator=g)
        want = theirs(x, r, clip_text_pooled=pooled, effnet=effnet, pixels=pixels).sample
        close(ours(x, r, ours.condition(effnet, pooled, size, pixels)), want)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_text_tower_gives_the_reference_values(act: str) -> None:
    config = TextConfig(width=32, layers=3, heads=4, hidden=64, projection=24, vocabulary=100, eos=99, act=act)
    ours = TextTower(config).eval()
    fill(ours)
    theirs = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=100, hidden_size=32, intermediate_size=64, projection_dim=24, num_hidden_layers=3, num_attention_heads=4,
            hidden_act=act, bos_token_id=98, eos_token_id=99, pad_token_id=99,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 98, (2, 77), generator=torch.Generator().manual_seed(0))
    tokens[0, 20:], tokens[1, 50:] = 99, 99
    mask = torch.arange(77)[None] <= torch.tensor([[20], [50]])
    with torch.no_grad():
        for seen in (mask, None):
            hidden, pooled = ours(tokens, seen)
            want = theirs(tokens, attention_mask=None if seen is None else seen.long(), output_hidden_states=True)
            close(hidden, want.hidden_states[-1])
            close(pooled, want.text_embeds)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_image_tower_gives_the_reference_values(act: str) -> None:
    ours = ImageEncoder(ImageConfig(width=32, layers=3, heads=4, hidden=48, projection=24, act=act, size=40, patch=8)).eval()
    fill(ours)
    theirs = vision(ours)
    pixels = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(ours(pixels), theirs(pixels).image_embeds)


def test_the_published_image_towers_tensors_are_those_of_transformers() -> None:
    with torch.device("meta"):
        ours = ImageEncoder(ImageConfig())
        theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, projection_dim=768, num_hidden_layers=24, num_attention_heads=16,
            patch_size=14,
        ))  # fmt: skip
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_rows_of_other_text_lengths_in_one_batch_equal_themselves_alone() -> None:
    ours = StageC(TINY.stage_c).eval()
    fill(ours)
    g = torch.Generator().manual_seed(3)
    x, r = torch.randn(2, 16, 8, 8, generator=g), torch.tensor([0.7, 0.3])
    conds = [ours.condition(torch.randn(1, n, 32, generator=g), torch.randn(1, 1, 32, generator=g)) for n in (77, 231)]
    with torch.no_grad():
        together = ours(x, r, Conditioning.cat(conds))
        for i, cond in enumerate(conds):
            close(together[i : i + 1], ours(x[i : i + 1], r[i : i + 1], cond))


def test_the_time_embedding_stays_float32_under_bfloat16_weights() -> None:
    """At bfloat16 weights the answer must stay nearer the float32 one than a rounded ratio would put it."""
    ours = StageC(TINY.stage_c).eval()
    fill(ours)
    g = torch.Generator().manual_seed(4)
    x, text, pooled = (torch.randn(s, generator=g) for s in ((1, 16, 8, 8), (1, 77, 32), (1, 1, 32)))
    r = torch.tensor([0.4567])
    with torch.no_grad():
        want = ours(x, r, ours.condition(text, pooled))
        rounded = ours(x, r.bfloat16().float(), ours.condition(text, pooled))
        ours.bfloat16()
        got = ours(x, r, ours.condition(text.bfloat16(), pooled.bfloat16())).float()
    assert (got - want).norm() < 0.5 * (rounded - want).norm()
