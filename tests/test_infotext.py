"""The infotext is A1111's to the letter, and comes back as it went."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.pictures.infotext import Infotext, infotext_of, parse_infotext, settings_of, write_infotext

SETTINGS = {
    "prompt": "1girl, solo,\ncat ears",
    "negative": "worst quality",
    "width": 1024,
    "height": 1536,
    "steps": 30,
    "guidance": 7.0,
    "decoder_steps": 10,
    "decoder_guidance": 2.0,
    "sampler": "ddpm",
    "decoder_sampler": "ddpm",
    "schedule": "default",
    "decoder_schedule": "default",
    "shift": 1.0,
    "decoder_shift": 1.0,
    "rescale": 0.0,
    "compression": 42.67,
    "seed": 42,
    "model": "sotediffusion-wr3_3b",
    "hashes": {"stage_c": "0123456789abcdef"},
    "software": "SoteDiffusion",
    "version": "0.1.0",
}


def test_a_cascade_picture_has_the_line_that_others_read():
    assert infotext_of(SETTINGS) == (
        "1girl, solo,\ncat ears\nNegative prompt: worst quality\n"
        "Steps: 30, Sampler: Default, CFG scale: 7, Seed: 42, Size: 1024x1536, Model hash: 0123456789, "
        "Model: sotediffusion-wr3_3b, Refiner steps: 10, Decoder CFG scale: 2, Compression: 42.67, Version: SoteDiffusion 0.1.0"
    )


def test_an_empty_negative_has_no_line():
    assert "Negative prompt" not in infotext_of(SETTINGS | {"negative": ""})


def test_no_key_is_one_that_the_web_ui_acts_on():
    text = infotext_of(SETTINGS | {"shift": 2.0, "decoder_sampler": "lcm", "rescale": 0.7, "strength": 0.5})
    assert not re.search(r"Hires|Refiner:|Refiner switch at", text)


def test_what_we_write_we_read():
    settings = SETTINGS | {"sampler": "dpmpp_2m", "schedule": "sgm_uniform", "shift": 2.0,
                           "decoder_sampler": "euler_ancestral", "decoder_schedule": "karras",
                           "rescale": 0.7, "guidance": 6.5}  # fmt: skip
    found = settings_of(parse_infotext(infotext_of(settings)))
    kept = {key for key in found if key in settings and key not in ("version", "hashes")}
    assert {key: found[key] for key in kept} == {key: settings[key] for key in kept}
    assert {"prompt", "negative", "width", "height", "steps", "decoder_steps", "seed", "sampler", "decoder_schedule"} <= kept
    assert found["model_hash"] == "0123456789"
    assert "other" not in found


def test_a_file_of_the_web_ui_is_read_and_what_is_strange_to_us_is_kept_as_text():
    text = (
        "a cat\nsitting\nNegative prompt: bad\nworse\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1, "
        'Size: 512x768, Model hash: abc, Model: x, Clip skip: 2, Lora hashes: "a: 1, b: 2", Version: v1.6.0'
    )
    found = settings_of(parse_infotext(text))
    assert (found["prompt"], found["negative"]) == ("a cat\nsitting", "bad\nworse")
    assert (found["sampler"], found["schedule"], found["guidance"]) == ("dpmpp_2m", "karras", 7.5)
    assert (found["width"], found["height"], found["seed"]) == (512, 768, 1)
    assert found["other"] == {"Clip skip": "2", "Lora hashes": "a: 1, b: 2"}


def test_an_unknown_sampler_is_kept_as_text_and_not_guessed():
    found = settings_of(parse_infotext("x\nSteps: 20, Sampler: UniPC, CFG scale: 7, Seed: 1"))
    assert "sampler" not in found
    assert found["other"] == {"Sampler": "UniPC"}


def test_a_last_line_with_fewer_than_three_pairs_belongs_to_the_prompt():
    assert parse_infotext("a cat\nSteps: 20, Seed: 1").prompt == "a cat\nSteps: 20, Seed: 1"


def test_values_with_commas_colons_and_newlines_are_quoted():
    info = Infotext("x", pairs={"Steps": "1", "Seed": "2", "Model": 'a, b: "c"\nd'})
    assert write_infotext(info) == 'x\nSteps: 1, Seed: 2, Model: "a, b: \\"c\\"\\nd"'
    assert parse_infotext(write_infotext(info)) == info


line = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40).map(str.strip)
prose = st.lists(line.filter(lambda text: text and not text.startswith("Negative prompt:")), max_size=3).map("\n".join)
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: text == text.strip() and text and not text.startswith('"')
)
keys = st.from_regex(re.compile(r"[A-Za-z][A-Za-z \-/]{1,20}[a-z]", re.ASCII), fullmatch=True)
pairs = st.dictionaries(keys, values, min_size=3, max_size=6).filter(lambda d: all(key != value for key, value in d.items()))


@given(prose, prose, pairs)
def test_every_infotext_comes_back_as_it_went(prompt, negative, found):
    info = Infotext(prompt, negative, found)
    assert parse_infotext(write_infotext(info)) == info


@given(st.text(max_size=300))
def test_any_text_is_read_without_error(text):
    settings_of(parse_infotext(text))
    settings_of(parse_infotext(f"x\nSteps: {text}, Seed: {text}, Size: {text}, Sampler: {text}"))


def test_a_megabyte_without_a_pair_is_read_in_no_time():
    assert parse_infotext("a" * 2**20).pairs == {}
