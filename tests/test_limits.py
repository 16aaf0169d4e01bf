"""Every field of an order outside its range is one sentence with the field, the value and what is allowed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.limits import MAX_PROMPT, MAX_SEED, compression_note, size_note, size_of_area, validate
from sotediffusion.types import Request, UserError

SAMPLERS = ("ddpm", "ddim", "euler", "euler_ancestral")
SCHEDULES = ("default", "karras")
GOOD = Request("1girl, solo")


def check(**values):
    validate(replace(GOOD, **values), SAMPLERS, SCHEDULES)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"width": 64, "height": 8192},
        {"width": 832, "height": 1216},
        {"steps": 1, "decoder_steps": 1000},
        {"guidance": 0, "decoder_guidance": 100.0},
        {"seed": 0},
        {"seed": MAX_SEED},
        {"count": 64, "strength": 1.0},
        {"negative": "", "compression": 32},
        {"sampler": "euler", "schedule": "karras"},
        {"init": b"x", "strength": 0.01},
    ],
)
def test_what_can_be_drawn_is_let_through(values):
    check(**values)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("width", 1001, "1001 is not a multiple of 8; nearest are 1000 and 1008"),
        ("height", 56, "64 to 8192"),
        ("width", 8200, "64 to 8192"),
        ("width", 512.0, "not a whole number"),
        ("steps", 0, "1 to 1000"),
        ("steps", 1001, "1 to 1000"),
        ("steps", True, "not a whole number"),
        ("decoder_steps", -1, "1 to 1000"),
        ("guidance", float("nan"), "nan is not a finite number; take one from 0 to 100"),
        ("guidance", float("inf"), "not a finite number"),
        ("guidance", -1.0, "0 to 100"),
        ("decoder_guidance", "2", "not a finite number"),
        ("rescale", 1.1, "0 to 1"),
        ("shift", 0.0, "0.01 to 100"),
        ("compression", 3.0, "4 to 128"),
        ("count", 0, "1 to 64"),
        ("count", 65, "1 to 64"),
        ("strength", 0.0, "more than 0"),
        ("strength", float("nan"), "more than 0"),
        ("seed", -1, "none for a random one"),
        ("seed", 2**63, "none for a random one"),
        ("prompt", "", "it is empty"),
        ("prompt", " \n", "it is empty"),
        ("prompt", "a" * (MAX_PROMPT + 1), "8001 characters are too many; at most 8000"),
        ("negative", "a" * (MAX_PROMPT + 1), "at most 8000"),
        ("prompt", "a\ud800", "surrogate"),
        ("prompt", "a\0b", "NUL"),
        ("prompt", None, "not text"),
        ("sampler", "eular", "'eular' is not known; known are, nearest first, euler, euler_ancestral"),
        ("decoder_sampler", "", "is not known"),
        ("schedule", "karas", "nearest first, karras, default"),
        ("init", "picture.png", "not the bytes"),
    ],
)
def test_what_cannot_is_named(field, value, words):
    with pytest.raises(UserError) as caught:
        check(**{field: value})
    assert caught.value.field == field
    assert words in caught.value.message
    assert len(caught.value.message) < 300


def test_the_last_seed_of_a_series_must_exist_too():
    check(seed=MAX_SEED - 1, count=2)
    with pytest.raises(UserError, match="seed"):
        check(seed=MAX_SEED, count=2)


@given(st.floats() | st.integers() | st.text(max_size=300) | st.none() | st.binary(max_size=9))
def test_no_value_of_any_kind_breaks_the_check(value):
    for field in ("steps", "guidance", "width", "seed", "count", "strength", "sampler", "prompt"):
        try:
            check(**{field: value})
        except UserError as error:
            assert error.field == field


def test_a_size_far_from_the_models_own_is_told_and_one_near_it_is_not():
    def note(width, height):
        return size_note(replace(GOOD, width=width, height=height), 1024, 1536, 1024 * 1536)

    assert size_note(GOOD, 1024, 1536, 1024 * 1536) is None
    assert note(2048, 1152) is None
    assert note(1024, 1024) is None
    for width, height in ((256, 256), (2048, 2048), (2560, 768)):
        assert f"{width}x{height} is far from" in note(width, height)


def test_far_is_measured_from_the_area_that_was_trained_on_and_not_from_the_size_that_is_usual():
    asked = replace(GOOD, width=1024, height=1024)
    assert size_note(asked, 1024, 1024, 1024 * 1024) is None
    note = size_note(asked, 1024, 1024, 2048 * 2048)
    assert note and "1024x1024 is far from what this model was trained on, around 2048x2048" in note
    assert size_note(replace(GOOD, width=2048, height=2048), 1024, 1024, 2048 * 2048) is None


@pytest.mark.parametrize(("area", "size"), [
    (1024 * 1536, (1024, 1536)), (1100 * 1500, (1024, 1536)), (512 * 768, (512, 768)), (2048 * 3072, (2048, 3072)),
    (1365 * 1365, (1024, 1536)), (1500 * 1800, (1312, 1984)), (1, (64, 64)),
])  # fmt: skip
def test_a_size_goes_to_another_area_in_its_own_shape(area, size):
    assert size_of_area(1024, 1536, area) == size


def test_a_compression_that_is_not_the_models_is_told():
    assert compression_note(GOOD, 32.0) is None
    assert compression_note(replace(GOOD, compression=42.0), 42.67) is None
    note = compression_note(replace(GOOD, compression=42.0), 32.0)
    assert note and "compression 42 is not this model's, 32" in note and "--compression 32" in note
