"""The command: what it draws, what it prints, and how it says no."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_cascade

from sotediffusion.cli.main import AREAS, main
from sotediffusion.pictures.files import read_settings, save_picture
from sotediffusion.types import Picture
from sotediffusion.weights.store import inspect, save_cascade

SOTE = [sys.executable, "-m", "sotediffusion.cli.main"]
ROOT = Path(__file__).parent.parent
FAST = ("--steps", "2", "--decoder-steps", "1", "--size", "128x192")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_cascade(tiny_cascade(), path)
    return str(path)


@pytest.fixture
def sote(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return run


@pytest.mark.parametrize("name", AREAS)
def test_every_area_that_help_lists_is_there(name):
    module, command, about = AREAS[name]
    assert getattr(import_module(module), command).name
    assert about.endswith(".")


def test_help_names_every_area(sote):
    code, out, _ = sote("--help")
    assert code == 0
    assert all(name in out for name in AREAS)


def test_a_prompt_becomes_a_picture_with_its_settings(sote, model, tmp_path):
    options = ("-n", "worst quality", "--model", model, *FAST, "--seed", 5, "--out", "a.png")
    code, out, err = sote("generate", "1girl, solo", *options)
    assert (code, err) == (0, "")
    assert out.startswith("a.png  seed 5")
    assert Image.open("a.png").size == (128, 192)
    settings = read_settings("a.png")
    assert (settings["prompt"], settings["negative"]) == ("1girl, solo", "worst quality")
    assert (settings["steps"], settings["seed"]) == (2, 5)
    assert settings["ai_generated"] is True


def test_a_size_far_from_the_models_own_is_drawn_with_a_note(sote, model):
    code, _, err = sote("generate", "a cat", "--model", model, *FAST, "--size", "64x64", "--out", "a.png")
    assert code == 0
    assert err.startswith("note: 64x64 is far from what this model was trained on, around 128x192")
    assert Image.open("a.png").size == (64, 64)


def test_like_draws_the_same_pixels_again(sote, model):
    options = ("--seed", 9, "--guidance", 3, "--sampler", "euler_ancestral", "--shift", 2)
    sote("generate", "1girl, {red|blue} hair", "--model", model, *FAST, *options, "--out", "a.png")
    code, _, err = sote("generate", "--like", "a.png", "--model", model, "--out", "b.png")
    assert (code, err) == (0, "")
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))
    assert read_settings("a.png") == read_settings("b.png")


def test_options_win_over_like_and_like_over_the_preset(sote, model):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 1, "--out", "a.png")
    sote("generate", "--like", "a.png", "--preset", "v2", "--guidance", 3, "--model", model, "--out", "b.png")
    settings = read_settings("b.png")
    assert (settings["guidance"], settings["steps"], settings["sampler"], settings["shift"]) == (3.0, 2, "ddpm", 1.0)


def test_a_preset_sets_what_is_not_asked_for(sote, model):
    code, _, _ = sote("generate", "a cat", "--preset", "civitai", "--compression", 32, *FAST, "--model", model, "--out", "a.png")
    assert code == 0
    settings = read_settings("a.png")
    assert (settings["sampler"], settings["schedule"]) == ("dpmpp_2m", "sgm_uniform")
    assert settings["decoder_sampler"] == "euler_ancestral"
    assert (settings["shift"], settings["compression"], settings["steps"]) == (2.0, 32.0, 2)


def test_each_line_of_a_file_is_drawn_and_printed_as_json(sote, model, tmp_path):
    Path("prompts.txt").write_text("a cat\n\n  a dog  \n", encoding="utf-8")
    code, out, _ = sote("generate", "--file", "prompts.txt", "--model", model, *FAST, "--seed", 3, "--count", 2, "--json",
                        "--out", "{index}-{seed}-{prompt}.webp")  # fmt: skip
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["path"] for line in lines] == ["1-3-a-cat.webp", "2-4-a-cat.webp", "3-3-a-dog.webp", "4-4-a-dog.webp"]
    assert all(Path(line["path"]).exists() and line["settings"]["seed"] == line["seed"] for line in lines)


def test_prompts_come_from_the_standard_input(sote, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a cat\na dog\n"))
    code, out, _ = sote("generate", "-", "--model", model, *FAST, "--out", "{prompt}.jpg")
    assert code == 0
    assert Path("a-cat.jpg").exists()
    assert Path("a-dog.jpg").exists()


def test_a_picture_to_start_from_needs_to_be_given_again(sote, model):
    Image.new("RGB", (64, 64), "red").save("red.png")
    options = ("--init", "red.png", "--strength", 0.5, "--model", model)
    code, _, err = sote("generate", "a cat", *options, *FAST, "--seed", 1, "--out", "a.png")
    assert (code, err) == (0, "")
    assert read_settings("a.png")["strength"] == 0.5
    code, _, err = sote("generate", "--like", "a.png", "--model", model)
    assert code == 2
    assert "give that picture with --init" in err
    assert sote("generate", "--like", "a.png", *options, "--out", "b.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_parts_may_be_named_one_by_one(sote, model, tmp_path):
    part = ("--stage-a", f"{model}/stage_a.safetensors")
    code, _, err = sote("generate", "a cat", "--model", model, *part, *FAST, "--out", "a.png")
    assert (code, err) == (0, "")


@pytest.fixture
def another(tmp_path):
    """The tiny model with another Stage A."""
    cascade = tiny_cascade()
    stage_a = deepcopy(cascade.stage_a)
    stage_a.out_block[0].weight.data.mul_(1.1)
    save_cascade(replace(cascade, stage_a=stage_a), tmp_path / "another")
    return tmp_path / "another"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty download cache, and how a model gets into it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(id, model):
        snapshots = tmp_path / "hub" / f"models--{id.replace('/', '--')}" / "snapshots"
        snapshots.mkdir(parents=True)
        (snapshots / "abc").symlink_to(model)

    return put


def test_like_says_which_weights_differ_and_draws_all_the_same(sote, model, another):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 9, "--out", "a.png")
    old, new = (read_settings("a.png")["hashes"]["stage_a"], inspect(another).parts[3].hash)
    code, _, err = sote("generate", "--like", "a.png", "--model", another, "--out", "b.png")
    told = f"note: that picture was drawn with another stage_a than another has ({old[:10]}, not {new[:10]}); it will differ\n"
    assert (code, err.replace("than tiny", "than another")) == (0, told)
    assert not np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_like_says_that_pictures_which_were_followed_are_not_in_the_file(sote, model):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 9, "--out", "a.png")
    save_picture(Picture(Image.open("a.png"), 9, read_settings("a.png") | {"image_prompts": 2}), "followed.png")
    code, _, err = sote("generate", "--like", "followed.png", "--model", model, "--out", "b.png")
    assert code == 0 and "followed other pictures too (images=), which it does not carry" in err


@pytest.mark.parametrize("change", [{}, {"model": ""}, {"model": "someone/renamed"}, {"hashes": {}, "model": "someone/tiny"}])
def test_like_finds_the_model_that_drew_the_picture_by_its_hashes_or_else_its_name(sote, model, another, hub, change):
    hub("someone/another", another)
    hub("someone/tiny", model)
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 9, "--out", "a.png")
    picture = Picture(Image.open("a.png"), 9, {k: v for k, v in (read_settings("a.png") | change).items() if v})
    save_picture(picture, "changed.png")
    code, _, err = sote("generate", "--like", "changed.png", "--out", "b.png")
    assert (code, err) == (0, "")
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_like_of_a_model_that_is_not_here_says_what_is_taken_instead(sote, model, hub):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 9, "--out", "a.png")
    _, _, err = sote("generate", "--like", "a.png", "--out", "b.png")
    assert err.startswith("note: tiny that drew that picture is not among the models here; miniature is taken, name another with")


@pytest.mark.parametrize("name", ["look.png", "look.webp", "look.jpg"])
def test_a_preview_shows_the_picture_while_it_is_drawn(sote, model, tmp_path, name):
    (tmp_path / "before").mkdir()
    os.link(model + "/model.toml", tmp_path / name)  # what is there is replaced, never written into
    code, _, err = sote("generate", "a cat", "--model", model, *FAST, "--seed", 5, "--preview", name, "--out", "a.png")
    assert (code, err) == (0, "")
    with Image.open(name) as look:
        assert look.size == (24, 40)
    assert read_settings(name)["ai_generated"] is True and read_settings(name)["prompt"] == "a cat"
    assert Path(model, "model.toml").read_text().startswith("name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "before", name]


def test_a_preview_that_cannot_be_is_one_sentence(sote, model, tmp_path):
    save_cascade(replace(tiny_cascade(), previewer=None), tmp_path / "blind")
    blind = ("generate", "a cat", "--model", "blind", *FAST, "--preview", "look.png", "--out", "a.png")
    code, _, err = sote(*blind)
    assert (code, err) == (2, "sote: preview: these weights have no previewer; add previewer.safetensors by --previewer\n")
    assert sote(*blind, "--previewer", f"{model}/previewer.safetensors")[0] == 0 and Path("look.png").exists()
    Path("file").touch()
    code, _, err = sote("generate", "a cat", "--model", model, *FAST, "--preview", "file/look.png")
    assert code == 2 and "preview: " in err and "is not a folder that can be written" in err


def test_info_prints_what_a_file_carries(sote, model):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 7, "--out", "a.png")
    code, out, _ = sote("info", "a.png")
    assert code == 0
    assert "prompt: a cat" in out
    assert "seed: 7" in out
    assert json.loads(sote("info", "a.png", "--json")[1]) == read_settings("a.png")


def test_text_from_a_file_cannot_steer_the_terminal(sote):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a\x1b[31mcat\nSteps: 2, Seed: 1, CFG scale: 7")
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=info)
    assert "\x1b" not in sote("info", "a.png")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["genrate"], "there is no command 'genrate'; did you mean generate"),
        (["generate", "x", "--stpes", "3"], "--steps"),
        (["generate", "x", "--steps", "many"], "'many' is not a valid integer"),
        (["generate", "x", "--steps", "0"], "steps: 0 is out of range; take one from 1 to 1000"),
        (["generate", "x", "--guidance", "nan"], "guidance: nan is not a finite number; take one from 0 to 100"),
        (["generate", "x", "--size", "1001x512"], "width: 1001 is not a multiple of 8; nearest are 1000 and 1008"),
        (["generate", "x", "--size", "big"], "size: 'big' is not WIDTHxHEIGHT"),
        (["generate", "x", "--sampler", "dpm"], "sampler: 'dpm' is not known; known are, nearest first, ddpm"),
        (["generate", "x", "--preset", "crad"], "preset: 'crad' is not known; known are, nearest first, card"),
        (["generate", "x", "--format", "gif"], "format: 'gif' is not known"),
        (["generate", "x", "--out", "{sead}.png"], "{seed}"),
        (["generate", " "], "prompt: it is empty"),
        (["generate", "x" * 9000], "prompt: 9000 characters are too many"),
        (["generate", "x", "--file", "none.txt"], "given twice"),
        (["generate", "--file", "none.txt"], "none.txt cannot be read"),
        (["generate", "x", "--init", "none.png"], "init: none.png does not exist"),
        (["generate", "x", "--like", "none.png"], "like: none.png does not exist"),
        (["generate", "x", "--strength", "0.5"], "strength: it says how much of a given picture is redrawn; give one"),
        (["generate", "x", "--dtype", "int8"], "int8"),
        (["generate", "x", "--device", "quantum"], "device: 'quantum' cannot be used here"),
        (["generate", "x", "--model", "/nowhere/model"], "/nowhere/model"),
        (["generate", "x", "--model", "m" * 300], "is not here; give a file, a folder or a downloaded hub id"),
        (["generate", "x", "--model", "m/" + "m" * 300], "is not here; give a file, a folder or a downloaded hub id"),
        (["generate", "x", "--stage-c", "c" * 300], "stage_c: ccc"),
        (["generate", "x", "--lora", "l" * 300], "is not here"),
        (["generate", "x", "--out", "o" * 300 + "/x.png"], "out: a name in it may come to 300 bytes"),
        (["generate", "x", "--out", "{seed}" + "o" * 300 + ".png"], "out: a name in it may come to 329 bytes"),
        (["generate", "loli"], "never drawn"),
        (["generate", "x", "--guidance", "-1"], "guidance: -1 is out of range"),
        (["info", "none.png"], "none.png does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_two(sote, arguments, words, tmp_path):
    code, out, err = sote(*arguments)
    assert code == 2
    assert words in err
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_unreadable_picture_to_start_from_is_named_before_a_model_is_opened(sote):
    Path("red.png").write_bytes(b"no picture")
    code, _, err = sote("generate", "x", "--init", "red.png", "--model", "/nowhere/model")
    assert code == 2
    assert err == "sote: init: red.png is not a PNG, JPEG or WebP picture; convert it to one of them\n"


def test_text_that_is_no_utf8_is_one_sentence(sote, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00"), encoding="utf-8"))
    code, _, err = sote("generate", "-")
    assert (code, err.count("\n")) == (2, 1)
    assert "the standard input cannot be read (it is not UTF-8 text)" in err


def test_a_byte_order_mark_is_no_part_of_a_prompt(sote, model):
    Path("prompts.txt").write_text("a cat\n", encoding="utf-8-sig")
    assert sote("generate", "--file", "prompts.txt", "--model", model, *FAST, "--out", "a.png")[0] == 0
    assert read_settings("a.png")["prompt"] == "a cat"


def test_like_computes_in_the_kind_that_the_picture_was_drawn_in(sote, model):
    sote("generate", "a cat", "--model", model, *FAST, "--seed", 9, "--dtype", "bfloat16", "--out", "a.png")
    assert read_settings("a.png")["dtype"] == "bfloat16"
    assert sote("generate", "--like", "a.png", "--model", model, "--out", "b.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_settings_that_a_stranger_made_up_are_no_traceback(sote, model):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("sotediffusion", '{"prompt": "a cat", "hashes": [1], "other": [1, 2], "dtype": {}, "pipeline": {}}')
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=info)
    assert sote("generate", "--like", "a.png", "--model", model, *FAST, "--out", "b.png")[::2] == (0, "")
    info.add_itxt("sotediffusion", '{"prompt": "a cat", "hashes": {"text": "\\u001b[31m", "x": 1}}')
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=info)
    code, _, err = sote("generate", "--like", "a.png", "--model", model, *FAST, "--out", "b.png")
    assert code == 0
    assert err.startswith("note: that picture was drawn with another text than tiny has ( [31m, not ")


@pytest.mark.parametrize("fault", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_a_picture_too_large_for_the_machine_is_one_sentence(sote, model, monkeypatch, fault):
    def full(*arguments):
        raise fault
        yield

    monkeypatch.setattr("sotediffusion.generate.draw", full)
    code, _, err = sote("generate", "a cat", "--model", model, *FAST)
    assert (code, err) == (2, "sote: size: the memory is not enough for it; take a smaller --size, or --dtype bfloat16\n")


def test_a_forbidden_line_stops_a_file_before_anything_is_drawn(sote, model, tmp_path):
    Path("prompts.txt").write_text("a cat\nloli\n")
    code, out, _ = sote("generate", "--file", "prompts.txt", "--model", model, *FAST)
    assert (code, out) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_a_line_too_long_for_the_tokenizer_stops_a_file_before_anything_is_drawn_and_is_named(sote, model, tmp_path):
    Path("prompts.txt").write_text(f"a cat\n\n{'x, ' * 2600}\n")
    code, out, err = sote("generate", "--file", "prompts.txt", "--model", model, *FAST)
    assert (code, out) == (2, "")
    assert err.startswith("sote: prompt, line 3 of prompts.txt: ") and "chunks of 77 tokens are too many" in err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_what_other_programs_call_lora_and_embeddings_by_is_said_to_be_words(sote, model):
    prompt = "a cat <lora:foo:0.7>, <lora:bar>, embedding:baz, <lora:foo:0.7>"
    code, _, err = sote("generate", prompt, "--model", model, *FAST, "--out", "a.png")
    assert code == 0
    assert err.splitlines() == [
        "note: <lora:foo:0.7> is read as words; a LoRA is asked for by --lora foo:0.7",
        "note: <lora:bar> is read as words; a LoRA is asked for by --lora bar",
        "note: embedding:baz is read as words; an embedding is asked for by --embedding baz",
    ]


def test_a_picture_that_nobody_named_is_not_written_over(sote, model):
    Path("a-2.png").write_bytes(b"mine")
    code, out, _ = sote("generate", "a cat", "--model", model, *FAST, "--count", 2, "--out", "a.png")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["a.png", "a-3.png"]
    assert Path("a-2.png").read_bytes() == b"mine"


@pytest.mark.parametrize("out", ["", "p/", ".", ".png"])
def test_an_out_that_names_no_file_is_refused_and_nothing_is_written(sote, model, tmp_path, out):
    code, _, err = sote("generate", "a cat", "--model", model, *FAST, "--out", out)
    assert code == 2 and "names no file" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["meta", "hpu", "nothing"])
def test_a_device_that_cannot_draw_is_one_sentence(sote, model, device):
    code, _, err = sote("generate", "a cat", "--model", model, *FAST, "--device", device)
    assert code == 2 and err.startswith(f"sote: device: '{device}' cannot be used here") and err.count("\n") == 1


def test_a_byte_order_mark_of_a_pipe_is_no_part_of_a_prompt_and_a_closed_input_is_none(sote, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffa cat\n"))
    assert sote("generate", "--model", model, *FAST, "--out", "a.png")[0] == 0
    assert read_settings("a.png")["prompt"] == "a cat"
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = sote("generate", "--model", model, *FAST)
    assert code == 2 and err.startswith("sote: prompt: ")


def test_an_output_that_cannot_show_a_name_or_is_full_costs_no_picture_and_no_traceback(model, tmp_path):
    out = f"{tmp_path}/{{prompt}}-{{index}}.png"
    command = [*SOTE, "generate", "日本", "--model", model, *FAST, "--count", "2", "--out", out]
    surroundings = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run(command, capture_output=True, cwd=ROOT, env=surroundings)
    assert run.returncode == 0 and run.stdout.count(rb"\u65e5\u672c-") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"日本-1.png", "日本-2.png"}
    with open("/dev/full", "wb") as full:
        run = subprocess.run([*SOTE, "info", f"{tmp_path}/日本-1.png"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    command = [*SOTE, "info", f"{tmp_path}/日本-1.png"]
    closed = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=lambda: os.close(1))
    assert (closed.returncode, closed.stderr) == (0, "")
    wanted = "sote: output: it cannot be written (No space left on device); free space, or write it elsewhere\n"
    assert (run.returncode, run.stderr) == (2, wanted)


def test_the_command_itself_ends_with_its_code_and_without_a_traceback(tmp_path):
    run = subprocess.run([*SOTE, "info", "none.png"], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "sote: file: none.png does not exist; give the path of a picture\n"


def test_interrupted_it_keeps_the_finished_pictures_whole(model, tmp_path):
    (tmp_path / "prompts").write_text("a cat\n" * 200)  # more than it can finish before it is stopped
    (tmp_path / "out").mkdir()
    source = ["--file", f"{tmp_path}/prompts", "--count", "64", "--out", f"{tmp_path}/out/{{index}}.png"]
    command = [*SOTE, "generate", "--model", model, *FAST, *source]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not (tmp_path / "out" / "2.png").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "pictures are finished and kept" in err
    assert "Traceback" not in err
    files = {*(tmp_path / "out").iterdir()}
    told = [Path(line.partition("  seed ")[0]) for line in out.splitlines()]
    assert len({*told}) == len(told) and files.issuperset(told)
    assert 0 <= len(files) - len(told) <= 1 and len(files) >= 2  # the last may have got its name and not yet its line
    assert all(read_settings(path)["prompt"] == "a cat" and Image.open(path).load() for path in files)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("uvicorn", ["serve"], "serve"),
        ("sqlalchemy", ["serve", "keys", "list"], "serve"),
        ("pyarrow", ["curate", "run", "here", "--out", "there"], "curate"),
        ("pyarrow", ["train", "plan", "card-base", "--data", "here", "--model", "miniature"], "train"),
        ("skia", ["miniature", "draw", "out", "--count", "1"], "train"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_with_how_to_get_it(missing, arguments, extra, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from sotediffusion.cli.main import main; main({arguments!r})"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    (tmp_path / "here").mkdir()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    told = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 2 and f"sote: {arguments[0]}: {missing} is not installed" in told
    assert f"pip install 'sotediffusion[{extra}]'" in told and f"-e '.[{extra}]'" in told


def test_a_library_of_the_system_that_is_not_here_is_named_with_how_to_get_it(tmp_path):
    (tmp_path / "skia.py").write_text("raise ImportError('libEGL.so.1: cannot open shared object file: No such file')")
    command = [sys.executable, "-m", "sotediffusion.cli.main", "miniature", "draw", "out", "--count", "1"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 2 and "libEGL.so.1 is not here" in run.stderr and "apt-get install libegl1" in run.stderr
    assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()
