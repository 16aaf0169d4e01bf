"""The whole training of a miniature with one command, and the model folder that it leaves, again and again."""

from pathlib import Path

import pytest

from sotediffusion.cli.main import main
from sotediffusion.cli.train import SHARES
from sotediffusion.generate import generate
from sotediffusion.types import Request
from sotediffusion.weights.store import open_cascade


def sote(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_one_command_trains_everything_and_run_again_replaces_its_own_model_but_nothing_else(tmp_path, capsys):
    model = tmp_path / "model"
    command = ("train", "miniature", "all", "--data", tmp_path / "data", "--out", tmp_path / "run", "--model", model,
               "--count", 16, "--size", "tiny", "--minutes", 0.0001, "--threads", 1)  # fmt: skip
    assert sote(*command) == 0
    assert all((tmp_path / "run" / part / "weights.safetensors").is_file() for part in SHARES)
    written = (model / "stage_c.safetensors").stat().st_ino
    assert sote(*command) == 0
    assert (model / "stage_c.safetensors").stat().st_ino != written
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    cascade = open_cascade(model)
    (picture,) = generate(cascade, Request("1girl", width=128, height=128, steps=1, decoder_steps=1, seed=0))
    assert picture.image.size == (128, 128) and cascade.name == "tiny"

    again = ("train", "miniature", "assemble", tmp_path / "run", model, "--size", "tiny")
    (model / "notes.txt").write_text("mine")
    assert_refused(again, model, capsys)
    (model / "notes.txt").unlink()
    text = (model / "model.toml").read_text()
    (model / "model.toml").write_text(text.replace('name = "tiny"', 'name = "my own"'))
    assert_refused(again, model, capsys)
    (tmp_path / "file").write_text("mine")
    assert_refused((*again[:4], tmp_path / "file", *again[5:]), tmp_path / "file", capsys)


def assert_refused(command, path: Path, capsys) -> None:
    before = sorted(path.iterdir()) if path.is_dir() else path.read_text()
    capsys.readouterr()
    assert sote(*command) == 2
    told = f"sote: out: {path} is there and is not an earlier tiny alone; remove it or choose another folder\n"
    assert capsys.readouterr().err == told
    assert (sorted(path.iterdir()) if path.is_dir() else path.read_text()) == before
