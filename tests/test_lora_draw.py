"""Claims about drawing with LoRA: what they change, that crowds do not matter, what a picture tells of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loras import lora_file, random_lora
from PIL import Image
from tiny import tiny_cascade

from sotediffusion.cli.main import main
from sotediffusion.generate import DONE, STAGE_B, STAGE_C, Run, generate, prepare, step
from sotediffusion.limits import validate
from sotediffusion.pictures.files import read_settings, save_picture
from sotediffusion.pictures.infotext import infotext_of, parse_infotext, settings_of
from sotediffusion.serve.engine.engine import Engine
from sotediffusion.serve.engine.memory import EngineLimits
from sotediffusion.serve.engine.orders import keys_of
from sotediffusion.serve.engine.residents import Residents
from sotediffusion.types import Request, UserError
from sotediffusion.weights.lora import read, save
from sotediffusion.weights.lora_sets import KEPT, find, take_off, wear
from sotediffusion.weights.store import merge, open_cascade, save_cascade

SMALL = Request("1girl, cat ears", "oldest", 128, 128, steps=2, decoder_steps=2, seed=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("loras")
    save_cascade(tiny_cascade(), path / "model")
    lora_file(path / "one.safetensors", seed=0)
    lora_file(path / "two.safetensors", "comfyui", seed=1)
    lora_file(path / "words.safetensors", seed=2, parts=("text",))
    return path


def through(cascade, runs: list[Run]) -> list[torch.Tensor]:
    while any(run.phase != DONE for run in runs):
        first = next(run for run in runs if run.phase != DONE)
        step(cascade, [run for run in runs if run.key == first.key])
    return [run.x for run in runs]


def alone(cascade, request: Request) -> torch.Tensor:
    return through(cascade, prepare(cascade, request))[0]


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def with_loras(place: Path, **weights: float) -> Request:
    return replace(SMALL, loras=tuple((str(place / f"{name}.safetensors"), weight) for name, weight in weights.items()))


def test_a_picture_with_lora_beside_one_without_equals_itself_alone(place):
    cascade = open_cascade(place / "model")
    one = with_loras(place, one=0.8)
    requests = [SMALL, one, replace(one, seed=2), with_loras(place, one=0.8, two=-0.5), with_loras(place, two=-0.5, one=0.8),
                with_loras(place, words=1.0)]  # fmt: skip
    singles = [alone(open_cascade(place / "model"), request) for request in requests]
    runs = [run for request in requests for run in prepare(cascade, request)]
    assert len({run.key for run in runs}) == 3, "none, one, and two in any order; what changes only the text shares the prior"
    for together, single in zip(through(cascade, runs), singles, strict=True):
        near(together, single)
    assert all((singles[0] - single).abs().max() > 1e-3 for single in singles[1:])
    near(alone(cascade, SMALL), singles[0])


def test_the_models_own_weights_are_never_touched(place):
    cascade = open_cascade(place / "model")
    before = {part: [value.clone() for value in network.state_dict().values()] for part, network in cascade.parts().items()}
    generate(cascade, with_loras(place, one=1.0, words=2.0))
    for part, network in cascade.parts().items():
        assert all(map(torch.equal, network.state_dict().values(), before[part]))


def test_drawing_with_lora_equals_drawing_with_the_model_that_they_were_merged_into(place, tmp_path):
    lora_file(place / "lengths.safetensors", seed=3, kind="dora")
    lora_file(place / "product.safetensors", seed=4, kind="lokr")
    for weights in ({"one": 0.7, "two": 0.3}, {"two": 0.3, "one": 0.7}, {"lengths": 0.6, "product": -0.2}):
        request = with_loras(place, **weights)
        merge(place / "model", tmp_path / "-".join(weights), request.loras, name="both")
        merged = open_cascade(tmp_path / "-".join(weights))
        assert merged.name == "both"
        assert torch.equal(alone(open_cascade(place / "model"), request), alone(merged, SMALL))


def test_the_decoder_shares_its_steps_whatever_the_prior_wore(place):
    cascade = open_cascade(place / "model")
    runs = [run for request in (SMALL, with_loras(place, one=1.0)) for run in prepare(cascade, request)]
    assert runs[0].key != runs[1].key
    while any(run.phase == STAGE_C for run in runs):
        for run in runs:
            step(cascade, [run])
    assert runs[0].key == runs[1].key and runs[0].phase == STAGE_B


def test_weights_of_a_set_are_made_once_kept_a_while_and_forgotten(place):
    cascade = open_cascade(place / "model")
    one = [(str(place / "one.safetensors"), 0.5)]
    first = wear(cascade, one)
    assert wear(cascade, one).networks["stage_c"] is first.networks["stage_c"]
    assert wear(cascade, [*one, *one]).key == ((read(one[0][0]).identity, 1.0),)
    nothing = wear(cascade, [(one[0][0], 0.0)])
    assert nothing.key == () and not nothing.networks and nothing.about[0]["weight"] == 0
    for weight in range(2, 6):
        wear(cascade, [(one[0][0], weight / 2)])
    assert len(cascade.worn) == KEPT
    take_off(cascade)
    assert not cascade.worn
    worn = wear(cascade, one)
    cascade.stage_c.to(torch.bfloat16)
    assert next(wear(cascade, one).networks["stage_c"].parameters()).dtype == torch.bfloat16 != worn


def test_where_networks_take_turns_on_a_device_the_one_with_lora_takes_its_turn_too(place):
    cascade = open_cascade(place / "model")
    cascade.offload_to = "cpu"
    request = with_loras(place, one=1.0)
    runs = prepare(cascade, request)
    assert cascade.resident is runs[0].worn.networks["stage_c"] is not cascade.stage_c
    near(through(cascade, runs)[0], alone(open_cascade(place / "model"), request))


@pytest.mark.parametrize(("loras", "says"), [
    ((("none.safetensors", 1.0),), "none.safetensors is not here"),
    ((("x", 9.0),), "9 is out of range"),
    ((("x", float("nan")),), "is not a finite number"),
    ((("x",),), "give its path and its weight"),
    ("x", "is no list"),
    ((("x", 1.0),) * 17, "is no list of at most 16"),
])  # fmt: skip
def test_what_is_no_lora_is_refused_in_a_sentence(loras, says):
    with pytest.raises(UserError, match=says):
        prepare(tiny_cascade(), replace(SMALL, loras=loras))


def test_the_policy_hears_what_lora_are_called(tmp_path):
    named = save(random_lora(), tmp_path / "nude_style.safetensors")
    said = save(replace(random_lora(1), metadata={"modelspec.trigger_phrase": "nude"}), tmp_path / "plain.safetensors")
    grown = save(random_lora(2), tmp_path / "adult.safetensors")
    for path, weight, prompt in ((named, 1.0, "child"), (said, 0.5, "child"), (grown, -1.0, "1girl, nude")):
        prepare(tiny_cascade(), replace(SMALL, loras=((str(path), weight),)))
        with pytest.raises(UserError, match="never drawn"):
            prepare(tiny_cascade(), replace(SMALL, prompt=prompt, loras=((str(path), weight),)))


def test_a_picture_tells_its_lora_by_name_and_hash_and_not_where_they_lie(place, tmp_path):
    (picture,) = generate(open_cascade(place / "model"), with_loras(place, one=0.8, two=-0.5))
    hashes = {name: read(place / f"{name}.safetensors").digest for name in ("one", "two")}
    told = [{"name": "one", "weight": 0.8, "hash": hashes["one"]}, {"name": "two", "weight": -0.5, "hash": hashes["two"]}]
    assert picture.settings["loras"] == told
    for suffix in ("png", "webp", "jpeg"):
        save_picture(picture, tmp_path / f"picture.{suffix}", suffix)
        assert read_settings(tmp_path / f"picture.{suffix}")["loras"] == told
        assert str(place).encode() not in (tmp_path / f"picture.{suffix}").read_bytes()
    text = infotext_of(picture.settings)
    assert text.splitlines()[0] == "1girl, cat ears <lora:one:0.8> <lora:two:-0.5>"
    assert f'Lora hashes: "one: {hashes["one"][:12]}, two: {hashes["two"][:12]}"' in text
    back = settings_of(parse_infotext(text))
    assert back["prompt"] == "1girl, cat ears" and [lora["hash"] for lora in back["loras"]] == [hashes[n][:12] for n in hashes]


def test_names_in_an_infotext_cannot_break_out_of_their_tags():
    text = infotext_of({"prompt": "1girl", "steps": 1, "guidance": 7, "seed": 1, "loras": [
        {"name": "a:b>, Steps: 5", "weight": 1, "hash": "00"}, {"name": "c", "weight": "x"}, "d"]})  # fmt: skip
    assert [lora["name"] for lora in settings_of(parse_infotext(text))["loras"]] == ["a_b__ Steps_ 5"]


def sote(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def draw(place: Path, out: Path, *more) -> np.ndarray:
    small = ("--size", "64x64", "--steps", 1, "--decoder-steps", 1)
    settings = () if "--like" in more else (*small, "--seed", 3, "1girl, pink hair")
    assert sote("generate", *settings, "--model", place / "model", "--out", out, *more) == 0
    with Image.open(out) as image:
        return np.asarray(image)


def test_on_the_command_line_lora_are_named_weighed_repeated_and_left_out(place, tmp_path, monkeypatch, capsys):
    one, two = (str(place / f"{name}.safetensors") for name in ("one", "two"))
    bare = draw(place, tmp_path / "bare.png")
    both = draw(place, tmp_path / "both.png", "--lora", f"{one}:0.8", "--lora", two)
    assert not np.array_equal(bare, both)
    monkeypatch.setenv("SOTE_LORAS", str(place))
    assert np.array_equal(both, draw(place, tmp_path / "names.png", "--lora", "one:0.8", "--lora", "two"))
    again = draw(place, tmp_path / "again.png", "--like", tmp_path / "both.png")
    assert np.array_equal(both, again)
    assert read_settings(tmp_path / "again.png")["loras"] == read_settings(tmp_path / "both.png")["loras"]
    assert np.array_equal(bare, draw(place, tmp_path / "none.png", "--like", tmp_path / "both.png", "--lora", "none"))
    lora_file(tmp_path / "one.safetensors", seed=7)
    lora_file(tmp_path / "two.safetensors", "comfyui", seed=1)
    monkeypatch.setenv("SOTE_LORAS", str(tmp_path))
    capsys.readouterr()
    assert not np.array_equal(both, draw(place, tmp_path / "other.png", "--like", tmp_path / "both.png"))
    assert "one.safetensors is not the LoRA that picture was drawn with" in capsys.readouterr().err
    monkeypatch.delenv("SOTE_LORAS")
    monkeypatch.chdir(tmp_path / "..")
    assert sote("generate", "--like", tmp_path / "both.png", "--model", place / "model") == 2
    assert "one is not here" in capsys.readouterr().err
    assert sote("generate", "1girl", "--lora", f"{one}:much", "--model", place / "model") == 2
    assert "'much' after the colon is no weight" in capsys.readouterr().err


def test_on_the_command_line_lora_are_looked_at_rewritten_and_merged(place, tmp_path, capsys):
    one = place / "one.safetensors"
    assert sote("weights", "lora", one) == 0
    told = capsys.readouterr().out
    assert "one: kohya form" in told and "rank 2, scale 0.5; changes" in told
    assert sote("weights", "lora", one, tmp_path / "comfy.safetensors", "--to", "comfyui", "--trigger", "pink hair") == 0
    written = read(tmp_path / "comfy.safetensors")
    assert written.form == "comfyui" and written.trigger == ["pink hair"] and written.digest
    assert sote("weights", "lora", one, tmp_path / "comfy.safetensors", "--to", "peft") == 2
    assert sote("weights", "merge", place / "model", tmp_path / "merged", "--lora", f"{one}:0.8", "--dtype", "float16") == 0
    capsys.readouterr()
    merged = open_cascade(tmp_path / "merged")
    assert merged.name == "merged" and next(merged.stage_c.parameters()).dtype == torch.float16
    assert sote("weights", "merge", place / "model", tmp_path / "merged", "--lora", one) == 2


def test_a_lora_is_found_by_path_by_name_and_by_its_files_name(place, monkeypatch):
    monkeypatch.chdir(place)
    assert find("one.safetensors", []) == Path("one.safetensors") and find("one", [place]) == place / "one.safetensors"
    with pytest.raises(UserError, match="three is not here nor in"):
        find("three", [place])


def test_the_engine_splits_crowds_by_set_and_draws_what_generate_draws(place):
    requests = [SMALL, with_loras(place, one=0.8), with_loras(place, two=1.0), replace(with_loras(place, one=0.8), seed=5)]
    engine = Engine(Residents({"tiny": place / "model"}), EngineLimits(memory=2**32, preview_steps=0))
    for number, request in enumerate(requests):
        engine.add(str(number), "tiny", request)
    pictures, keys = {}, set()
    while not engine.idle:
        for news in engine.tick():
            assert news.error is None
            if news.picture is not None:
                pictures[news.id] = news.picture
        keys |= {seat.key for seat in engine.scheduler.line}
    assert len({key for key in keys if STAGE_C in key}) == 3 and len({key for key in keys if STAGE_B in key}) == 1
    known = keys_of("tiny", tiny_cascade(), replace(SMALL, compression=42.67))
    assert set(engine.footprints.known) == set(known.values()), "what a step takes is learnt for all sets together"
    for number, request in enumerate(requests):
        (wanted,) = generate(open_cascade(place / "model"), request)
        got = pictures[str(number)]
        assert np.abs(np.asarray(got.image, dtype=int) - np.asarray(wanted.image, dtype=int)).max() <= 1
        assert got.settings.get("loras") == wanted.settings.get("loras")


def test_an_order_takes_lora_as_lists_too(place):
    validate(replace(SMALL, loras=[["x", 1]]), ("ddpm",), ("default",))
