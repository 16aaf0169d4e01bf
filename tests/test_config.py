"""Settings files: what goes in comes out, and every mistake is named with its nearest key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.config import build, load, override, plain, read_toml, to_toml
from sotediffusion.types import Request, UserError

PRESETS = Path(__file__).parent.parent / "sotediffusion" / "presets"


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adafactor", "adamw"] = "adafactor"
    rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Run:
    steps: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    folders: tuple[Path, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    note: str | None = None
    fast: bool = False


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
runs = st.builds(
    Run,
    steps=st.integers(0, 10**9),
    optimizer=st.builds(
        Optimizer, st.sampled_from(["adafactor", "adamw"]), st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1))
    ),
    folders=st.lists(texts.filter(bool).map(Path), max_size=3).map(tuple),
    weights=st.dictionaries(texts, st.floats(-10, 10), max_size=3),
    note=st.none() | texts,
    fast=st.booleans(),
)


@given(runs)
def test_what_is_written_as_toml_is_read_back_the_same(run):
    import tomllib

    assert build(Run, tomllib.loads(to_toml(run))) == run
    assert build(Run, plain(run)) == run


def test_defaults_stay_where_nothing_is_said(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 5\n[optimizer]\nrate = 1\n")
    assert load(Run, path) == Run(5, Optimizer(rate=1.0))


def test_overrides_reach_into_sections_and_need_no_quotes():
    values = override({"steps": 1}, ["optimizer.name=adamw", "optimizer.betas=[0.8, 0.9]", "fast=true", "note=a b"])
    assert build(Run, values) == Run(1, Optimizer("adamw", betas=(0.8, 0.9)), note="a b", fast=True)


def test_overrides_leave_the_original_alone():
    values = {"optimizer": {"rate": 1.0}}
    override(values, ["optimizer.rate=2"])
    assert values == {"optimizer": {"rate": 1.0}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, r"stepz: 'stepz' is not known; known are, nearest first, steps"),
        ({"steps": 1, "optimizer": {"rat": 1}}, r"optimizer\.rat: .* nearest first, rate"),
        ({"steps": 1, "optimizer": {"name": "adam"}}, r"optimizer\.name: .* adamw, adafactor"),
        ({"steps": 1.5}, "steps: '1.5' is not a whole number"),
        ({"steps": True}, "steps: 'True' is not a whole number"),
        ({"steps": 1, "fast": 1}, "fast: '1' is not true or false"),
        ({"steps": 1, "note": 3}, "note: '3' is not text"),
        ({"steps": 1, "optimizer": {"rate": float("nan")}}, "not a finite number"),
        ({"steps": 1, "optimizer": {"betas": [0.1]}}, "not a list of 2"),
        ({"steps": 1, "optimizer": 3}, "not a section of keys"),
        ({}, "missing: 'steps'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, message):
    with pytest.raises(UserError, match=message):
        build(Run, values)


@pytest.mark.parametrize("assignment", ["steps", "=3", "a..b=1", "steps.more=1"])
def test_an_override_that_is_none_is_refused(assignment):
    with pytest.raises(UserError, match="set: "):
        override({"steps": 1}, [assignment])


def test_a_file_that_is_missing_or_no_toml_is_one_sentence(tmp_path):
    (tmp_path / "bad.toml").write_text("a = = b")
    for name, words in (("none.toml", "No such file"), ("bad.toml", "is not TOML")):
        with pytest.raises(UserError, match=words):
            read_toml(tmp_path / name)


def test_every_preset_makes_a_request_and_says_only_what_it_changes():
    files = sorted((PRESETS / "generate").glob("*.toml"))
    assert [path.stem for path in files] == ["card", "civitai", "v2"]
    usual = plain(Request("x"))
    for path in files:
        values = read_toml(path)
        build(Request, {"prompt": "x", **values})
        assert not [key for key, value in values.items() if usual.get(key) == value]


def test_the_presets_have_the_published_numbers():
    def preset(name):
        return build(Request, {"prompt": "x", **read_toml(PRESETS / "generate" / f"{name}.toml")})

    card, civitai, v2 = preset("card"), preset("civitai"), preset("v2")
    assert (card.steps, card.guidance, card.decoder_steps, card.decoder_guidance) == (30, 7, 10, 2)
    assert (card.sampler, card.schedule, card.shift) == ("ddpm", "default", 1)
    assert (civitai.schedule, civitai.shift, civitai.compression) == ("sgm_uniform", 2, 42)
    assert (civitai.decoder_sampler, civitai.decoder_schedule, civitai.decoder_guidance) == ("euler_ancestral", "karras", 1)
    assert (v2.sampler, v2.schedule, v2.steps, v2.guidance) == ("dpmpp_2m", "sgm_uniform", 28, 6)
    assert (v2.decoder_sampler, v2.decoder_schedule, v2.decoder_steps, v2.decoder_guidance) == ("lcm", "exponential", 14, 1)
