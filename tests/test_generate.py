"""Drawing: a picture is what its own order makes of it, whoever is drawn beside it; what must not be drawn never starts."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from io import BytesIO
from itertools import product
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_cascade

from sotediffusion.conditioning import encode_pair
from sotediffusion.diffusion.samplers import SAMPLERS
from sotediffusion.diffusion.schedule import SCHEDULES, alpha_sigma, grid, log_snr
from sotediffusion.generate import (
    DONE,
    NOISY,
    STAGE_B,
    STAGE_C,
    Run,
    draw,
    encode_picture,
    finish,
    generate,
    prepare,
    preview,
    settle,
    step,
)
from sotediffusion.models.stage_b import over_cells
from sotediffusion.types import Event, Picture, Request, UserError

LONG = "cat ears, pink hair, long hair, " * 24  # three chunks of 77 tokens
SMALL = Request("1girl, cat ears", "oldest", 128, 128, steps=3, decoder_steps=2, seed=1)
CROWD = [
    SMALL,
    replace(SMALL, prompt=LONG, seed=2, steps=5, guidance=3.0, decoder_guidance=1.0),
    replace(SMALL, seed=3, guidance=1.0, decoder_guidance=2.5, sampler="dpmpp_2m", schedule="karras", rescale=0.7),
    replace(SMALL, negative=LONG, seed=4, steps=2, decoder_steps=4, sampler="euler_ancestral", decoder_sampler="lcm", shift=2.0),
    replace(SMALL, prompt="(hat:1.3)", seed=5, guidance=0.0, decoder_guidance=0.5, decoder_sampler="dpmpp_2m_sde"),
]
TOLERANCE = 1e-5  # of the largest value; what rows of one matrix product differ by


def through(runs: Sequence[Run], order: Sequence[int], kind: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Steps runs of like keys together until all are done; `order` says who is looked at first. Returns their latents."""
    cascade = tiny_cascade(kind)
    while any(run.phase != DONE for run in runs):
        first = next(runs[i] for i in order if runs[i].phase != DONE)
        step(cascade, [runs[i] for i in order if runs[i].key == first.key])
    return [run.x for run in runs if run.x is not None]


def alone(request: Request) -> torch.Tensor:
    return through(prepare(tiny_cascade(), request), [0])[0]


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


def pixels(request: Request, **changes: Any) -> np.ndarray:
    (picture,) = generate(tiny_cascade(), replace(request, **changes))
    return np.asarray(picture.image, dtype=int)


@pytest.fixture(scope="module")
def singles() -> list[torch.Tensor]:
    return [alone(request) for request in CROWD]


def test_a_run_alone_equals_the_run_in_a_mixed_batch(singles: list[torch.Tensor]) -> None:
    runs = [run for request in CROWD for run in prepare(tiny_cascade(), request)]
    assert len({run.key for run in runs}) == 1 and {run.text.shape[1] for run in runs} == {77, 231}
    for together, single in zip(through(runs, range(len(runs))), singles, strict=True):
        near(together, single)


def test_in_bfloat16_a_batch_changes_a_picture_less_than_bfloat16_does(singles: list[torch.Tensor]) -> None:
    kind = torch.bfloat16
    together = through([prepare(tiny_cascade(kind), request)[0] for request in CROWD], range(len(CROWD)), kind)
    for request, crowded, exact in zip(CROWD, together, singles, strict=True):
        (single,) = through(prepare(tiny_cascade(kind), request), [0], kind)
        rounding = (single - exact).norm()
        assert 0 < rounding < 0.1 * exact.norm()  # of bfloat16, and no other picture
        assert (crowded - single).norm() <= rounding


@settings(max_examples=4)
@given(order=st.permutations(range(len(CROWD))))
def test_the_order_of_a_batch_does_not_matter(order: list[int], singles: list[torch.Tensor]) -> None:
    runs = [prepare(tiny_cascade(), request)[0] for request in CROWD]
    for together, single in zip(through(runs, order), singles, strict=True):
        near(together, single)


def test_a_run_may_join_one_that_is_under_way(singles: list[torch.Tensor]) -> None:
    early, late = (prepare(tiny_cascade(), CROWD[i])[0] for i in (1, 2))
    step(tiny_cascade(), [early])
    step(tiny_cascade(), [early])
    for drawn, i in zip(through([early, late], [0, 1]), (1, 2), strict=True):
        near(drawn, singles[i])


def test_a_kept_batch_keeps_those_it_is_of_so_that_nothing_new_is_taken_for_them() -> None:
    first, gone = (prepare(tiny_cascade(), CROWD[i])[0] for i in (0, 1))
    step(tiny_cascade(), [first, gone])
    known = ref(gone.cond[0])
    del gone
    assert known() is not None
    step(tiny_cascade(), [first])
    assert known() is None


def test_pictures_of_one_order_are_those_of_its_seeds() -> None:
    pictures = generate(tiny_cascade(), replace(SMALL, count=3))
    assert [picture.seed for picture in pictures] == [1, 2, 3]
    for picture in pictures:
        assert np.abs(np.asarray(picture.image, dtype=int) - pixels(SMALL, seed=picture.seed)).max() <= 1


@pytest.mark.parametrize(("sampler", "schedule"), product(SAMPLERS, SCHEDULES))
def test_every_sampler_on_every_schedule_draws_a_finite_picture(sampler: str, schedule: str) -> None:
    request = Request("1girl", "", 64, 64, steps=3, decoder_steps=2, seed=0, sampler=sampler, decoder_sampler=sampler,
                      schedule=schedule, decoder_schedule=schedule)  # fmt: skip
    assert alone(request).isfinite().all()
    assert alone(replace(request, steps=1, decoder_steps=1)).isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_draw_noise_are_known_by_name(sampler: str) -> None:
    table = SAMPLERS[sampler](grid("default", 4).log_snr)
    assert (sampler in NOISY) == bool(table[:, 3].any())


@settings(max_examples=8)
@given(width=st.integers(8, 24), height=st.integers(8, 24), compression=st.floats(24, 64))
def test_a_picture_has_the_size_that_was_asked_for(width: int, height: int, compression: float) -> None:
    request = Request("1girl", "", width * 8, height * 8, steps=1, decoder_steps=1, seed=0, compression=compression)
    (picture,) = generate(tiny_cascade(), request)
    assert picture.image.size == (width * 8, height * 8) and picture.image.mode == "RGB"


def test_what_an_order_leaves_open_is_the_models() -> None:
    request = settle(tiny_cascade(), Request("1girl"))
    assert (request.width, request.height, request.compression) == (128, 192, 42.67)
    assert request.seed is not None and request.seed != settle(tiny_cascade(), Request("1girl")).seed


def test_a_small_order_is_done_while_a_large_one_goes_on() -> None:
    large = replace(SMALL, width=256, height=256, steps=12, decoder_steps=6)
    drawn = list(draw(tiny_cascade(), [large, SMALL]))
    assert [picture.image.size for picture in drawn] == [(128, 128), (256, 256)]


def test_no_run_waits_longer_than_its_turn() -> None:
    """With runs of K kinds, a kind is stepped at least once in any K steps for as long as it has runs."""
    orders = [replace(SMALL, width=64 * (i + 1), height=64, seed=i, steps=4, decoder_steps=2) for i in range(3)]
    turns: list[tuple[str, int]] = []
    list(draw(tiny_cascade(), [*orders, replace(orders[0], seed=9)], lambda event: turns.append((event.stage, event.step))))
    stepped = [turn for turn in turns if turn[0] == STAGE_C]
    assert stepped == [(STAGE_C, i) for i in range(4) for _ in range(3)]


def test_more_runs_than_a_batch_holds_take_turns() -> None:
    events: list[Event] = []
    pictures = generate(tiny_cascade(), replace(SMALL, count=5, width=64, height=64), events.append, batch=2)
    assert [picture.seed for picture in pictures] == [1, 2, 3, 4, 5]
    assert sum(event.stage == STAGE_C for event in events) == 8  # 5 runs of 3 steps, two at a time


def test_events_name_each_stage_in_turn() -> None:
    events: list[Event] = []
    generate(tiny_cascade(), SMALL, events.append)
    assert [(event.stage, event.step, event.steps) for event in events] == [
        ("text", 0, 0), (STAGE_C, 0, 3), (STAGE_C, 1, 3), (STAGE_C, 2, 3), (STAGE_B, 0, 2), (STAGE_B, 1, 2), ("stage a", 0, 0),
        (DONE, 0, 0),
    ]  # fmt: skip


def test_a_preview_is_there_once_a_step_is_done() -> None:
    (run,) = prepare(tiny_cascade(), SMALL)
    assert preview(tiny_cascade(), run) is None
    step(tiny_cascade(), [run])
    picture = preview(tiny_cascade(), run)
    assert picture is not None and picture.image.size == (24, 24) and picture.settings["ai_generated"] is True
    assert preview(replace(tiny_cascade(), previewer=None), run) is None


def some_picture(width: int = 128, height: int = 128) -> bytes:
    noise = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(3)).mul(255).byte().permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def test_a_small_strength_stays_near_the_given_picture() -> None:
    given_picture = some_picture()
    request = replace(SMALL, init=given_picture, guidance=1.0, steps=8)
    latent = encode_picture(tiny_cascade(), settle(tiny_cascade(), request))
    distances = []
    for strength in (0.02, 0.3, 1.0):
        (run,) = prepare(tiny_cascade(), replace(request, strength=strength))
        run.last = STAGE_C
        distances.append(float((through([run], [0])[0] - latent).abs().mean()))
    assert distances == sorted(distances) and distances[0] < 0.1 * distances[2]


def test_a_given_picture_of_any_shape_is_fitted_to_the_size_asked_for() -> None:
    (picture,) = generate(tiny_cascade(), replace(SMALL, init=some_picture(50, 90), width=192, height=64))
    assert picture.image.size == (192, 64)


def test_a_picture_to_start_from_needs_the_encoder() -> None:
    with pytest.raises(UserError, match="EffNet") as found:
        generate(replace(tiny_cascade(), effnet=None), replace(SMALL, init=some_picture()))
    assert found.value.field == "init"


def again(picture: Picture) -> Request:
    """The order that a picture's settings describe."""
    names = Request.__dataclass_fields__
    return Request(**{name: value for name, value in picture.settings.items() if name in names})


@pytest.mark.parametrize("prompt", ["1girl, {red|blue|green} hair, (hat:1.2)", r"\{a|b\} cat \(ears\) BREAK hat"])
def test_the_settings_of_a_picture_draw_it_again(prompt: str) -> None:
    request = replace(CROWD[3], prompt=prompt, count=2, seed=None, rescale=0.3, compression=32.0)
    for picture in generate(tiny_cascade(), request):
        (repeated,) = generate(tiny_cascade(), again(picture))
        assert np.abs(np.asarray(picture.image, dtype=int) - np.asarray(repeated.image)).max() <= 1
        assert repeated.settings == picture.settings


def test_settings_carry_the_model_and_the_marks_of_provenance() -> None:
    cascade = replace(tiny_cascade(), license="apache-2.0", hashes={"stage_c": "0" * 64})
    (picture,) = generate(cascade, SMALL)
    wanted = {"prompt": "1girl, cat ears", "seed": 1, "model": "tiny", "license": "apache-2.0", "ai_generated": True}
    assert wanted.items() <= picture.settings.items() and picture.settings["hashes"] == {"stage_c": "0" * 64}
    assert "init" not in picture.settings and "strength" not in picture.settings


def test_a_weight_changes_the_picture_and_a_weight_of_one_does_not() -> None:
    plain = pixels(SMALL, prompt="1girl, cat ears")
    assert np.array_equal(pixels(SMALL, prompt="1girl, (cat ears:1.0)"), plain)
    for weighted in ("1girl, (cat ears:1.2)", "1girl, (cat ears)", "1girl, [cat ears]"):
        assert not np.array_equal(pixels(SMALL, prompt=weighted), plain)


def test_a_weight_of_nought_leaves_what_the_empty_prompt_has_there() -> None:
    cascade = tiny_cascade()
    empty, _ = encode_pair(cascade.text, cascade.tokenizer, "", "", "masked")
    hidden, _ = encode_pair(cascade.text, cascade.tokenizer, "(hat:0)", "", "masked")
    full, _ = encode_pair(cascade.text, cascade.tokenizer, "hat", "", "masked")
    assert torch.equal(hidden[0, 1], empty[0, 1]) and torch.equal(hidden[0, 2:], full[0, 2:])
    assert not torch.equal(full[0, 1], empty[0, 1])


@pytest.mark.parametrize("mask", ["masked", "unmasked", "sote"])
def test_a_prompt_and_its_negative_are_equally_long_under_every_convention(mask: str) -> None:
    cascade = tiny_cascade()
    hidden, pooled = encode_pair(cascade.text, cascade.tokenizer, LONG, "", mask)
    assert hidden.shape == (2, 231, 32) and pooled.shape == (2, 1, 32)


def test_the_negative_prompt_counts_where_guidance_is_above_one_in_either_stage() -> None:
    for guidance, decoder_guidance, counts in ((1.0, 1.0, False), (2.0, 1.0, True), (1.0, 2.0, True)):
        one, other = (pixels(SMALL, negative=n, guidance=guidance, decoder_guidance=decoder_guidance) for n in ("hat", "oldest"))
        assert np.array_equal(one, other) != counts


def test_a_model_may_have_its_own_units_of_guidance() -> None:
    units = replace(tiny_cascade().conventions, guidance_unit=0.25, decoder_guidance_unit=0.5)
    (soft,) = generate(replace(tiny_cascade(), conventions=units), replace(SMALL, guidance=9.0, decoder_guidance=3.0))
    assert np.array_equal(np.asarray(soft.image), pixels(SMALL, guidance=3.0, decoder_guidance=2.0))


@pytest.mark.parametrize("part", ["stage_c", "stage_b"])
def test_a_network_that_says_v_draws_what_one_draws_that_says_the_noise(part: str) -> None:
    cascade = tiny_cascade()
    network = copy(getattr(cascade, part))
    forward = network.forward

    def velocity(x: torch.Tensor, r: torch.Tensor, cond: Any) -> torch.Tensor:
        a, b = (share.view(-1, 1, 1, 1) for share in alpha_sigma(log_snr(r)))
        return (forward(x, r, cond) - b * x) / a

    network.forward = velocity
    name = {"stage_c": "prediction_c", "stage_b": "prediction_b"}[part]
    said = replace(cascade, **{part: network}, conventions=replace(cascade.conventions, **{name: "v"}))
    (picture,) = generate(said, SMALL)
    difference = np.abs(np.asarray(picture.image).astype(int) - pixels(SMALL))
    assert difference.max() <= 1


def test_stage_b_may_see_each_cell_over_its_own_pixels_instead_of_stretched() -> None:
    effnet = torch.arange(6.0).view(1, 1, 2, 3)
    stretched = F.interpolate(effnet, (4, 6), mode="bilinear", align_corners=True)
    assert torch.equal(over_cells(effnet, (4, 6), "corners"), stretched.permute(0, 2, 3, 1))
    whole = effnet.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(over_cells(effnet, (4, 6), "cells"), whole.permute(0, 2, 3, 1))
    cascade = tiny_cascade()
    laid = replace(cascade, conventions=replace(cascade.conventions, prior_layout="cells"))
    (picture,) = generate(laid, SMALL)
    assert not np.array_equal(np.asarray(picture.image), pixels(SMALL))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 9000}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"negative": "\0"}, "negative"),
        ({"width": 1001}, "width"),
        ({"height": 0}, "height"),
        ({"height": 10**7}, "height"),
        ({"steps": 0}, "steps"),
        ({"decoder_steps": 10**6}, "decoder_steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"decoder_guidance": float("inf")}, "decoder_guidance"),
        ({"guidance": -1.0}, "guidance"),
        ({"sampler": "heun"}, "sampler"),
        ({"decoder_sampler": ""}, "decoder_sampler"),
        ({"schedule": "linear"}, "schedule"),
        ({"decoder_schedule": None}, "decoder_schedule"),
        ({"shift": 0.0}, "shift"),
        ({"rescale": 1.5}, "rescale"),
        ({"compression": 1.0}, "compression"),
        ({"seed": -1}, "seed"),
        ({"count": 0}, "count"),
        ({"init": b"no picture"}, "init"),
        ({"init": "picture.png"}, "init"),
        ({"init": b"", "strength": 0.0}, "strength"),
        ({"prompt": "(hat:99)"}, "prompt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_that_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as found:
        generate(tiny_cascade(), replace(SMALL, **changes))
    assert found.value.field == field
    assert "\n" not in found.value.message and len(found.value.message) < 300


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": "loli, nsfw"}, "prompt"),
        ({"prompt": "{lo|sho}li, nsfw"}, "prompt"),
        ({"negative": "(oldest:-1)"}, "negative"),
        ({"guidance": -7.0}, "guidance"),
    ],
)  # fmt: skip
def test_what_must_not_be_drawn_is_refused_before_any_network_works(changes: dict[str, Any], field: str) -> None:
    nothing = dict.fromkeys(("text", "stage_c", "stage_b", "stage_a"))
    with pytest.raises(UserError) as found:
        prepare(replace(tiny_cascade(), **nothing), replace(SMALL, **changes))
    assert found.value.field == field


def test_a_child_in_the_negative_prompt_is_a_wish_to_avoid_it() -> None:
    assert generate(tiny_cascade(), replace(SMALL, negative="very displeasing, worst quality, loli,"))


def test_finishing_one_by_one_or_together_gives_the_same_pictures() -> None:
    runs = prepare(tiny_cascade(), replace(SMALL, count=2))
    through(runs, [0, 1])
    together = finish(tiny_cascade(), runs)
    for picture, run in zip(together, runs, strict=True):
        (single,) = finish(tiny_cascade(), [run])
        assert np.array_equal(np.asarray(picture.image), np.asarray(single.image))
