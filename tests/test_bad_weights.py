"""Weights that are missing, cut short, of another model, or in the way: one sentence each, and nothing half-written."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import tiny_cascade

from sotediffusion.models.cascade import PARTS, Cascade
from sotediffusion.types import UserError
from sotediffusion.weights import store

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets Linux limits")


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return tiny_cascade()


@pytest.fixture(scope="module")
def folder(cascade, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    store.save_cascade(cascade, path)
    return path


def assert_same(found: Cascade, wanted: Cascade) -> None:
    for part in PARTS:
        ours, theirs = found.parts()[part].state_dict(), wanted.parts()[part].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part


def parts_in(path: Path) -> dict[str, str]:
    return {part.name: part.hash for part in store.inspect(path).parts}


def test_a_missing_path_is_one_sentence():
    with pytest.raises(UserError, match="model: /nowhere/m is not here; give a file, a folder"):
        store.open_cascade("/nowhere/m")


def test_what_the_disk_does_not_let_us_read_is_one_sentence(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    table = tmp_path / "m/model.toml"
    table.write_text(table.read_text().replace("stage_b.safetensors", "b" * 300))
    with pytest.raises(UserError, match=r"model: .* cannot be read \(File name too long\); allow reading it, or give another"):
        store.open_cascade(tmp_path / "m")


@pytest.mark.parametrize("part", ["stage_c", "stage_b", "stage_a", "text"])
def test_a_missing_part_is_named_with_where_to_get_it(folder, tmp_path, part):
    store.convert(folder, tmp_path / "m", "stability")
    for path in (tmp_path / "m").rglob("*.safetensors"):
        if part in path.name or (part == "text" and path.parent.name == "text_encoder"):
            path.unlink()
    with pytest.raises(UserError, match=rf"{part}: is missing.*add it with --.*stabilityai/stable-cascade"):
        store.open_cascade(tmp_path / "m")


def test_a_truncated_file_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/stage_b.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"stage_b\.safetensors: is cut short"):
        store.open_cascade(tmp_path / "m")


def test_a_part_given_for_another_is_refused(folder):
    with pytest.raises(UserError, match="stage_b: .*stage_a.safetensors holds stage_a instead"):
        store.open_cascade({"base": folder, "stage_b": folder / "stage_a.safetensors"})


def test_two_files_for_one_part_are_not_chosen_between(folder, tmp_path):
    store.convert(folder, tmp_path / "m", "stability")
    shutil.copy(tmp_path / "m/stage_c.safetensors", tmp_path / "m/stage_c_old.safetensors")
    with pytest.raises(UserError, match="stage_c: is in .*name one with --stage-c"):
        store.open_cascade(tmp_path / "m")


def test_another_models_files_beside_ours_are_left_alone_and_listed(cascade, folder, tmp_path):
    store.convert(folder, tmp_path / "m", "stability")
    safetensors.torch.save_file({"lora_unet.up.weight": torch.ones(2)}, tmp_path / "m/lora.safetensors")
    assert store.inspect(tmp_path / "m").skipped == ["lora.safetensors"]
    assert_same(store.open_cascade(tmp_path / "m"), cascade)


def test_a_folder_of_another_model_is_refused(tmp_path):
    safetensors.torch.save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, tmp_path / "sd.safetensors")
    with pytest.raises(UserError, match="holds no safetensors file of a Stable Cascade"):
        store.open_cascade(tmp_path)
    with pytest.raises(UserError, match="is not a part of a Stable Cascade"):
        store.open_cascade(tmp_path / "sd.safetensors")


def test_a_config_of_other_shapes_is_an_error_that_names_the_tensor(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    text = (tmp_path / "m/model.toml").read_text()
    (tmp_path / "m/model.toml").write_text(text.replace("codebook = 32", "codebook = 64"))
    with pytest.raises(UserError, match=r"vquantizer\.codebook\.weight of shape \(32, 4\) where its config asks for \(64, 4\)"):
        store.open_cascade(tmp_path / "m")
    (tmp_path / "m/model.toml").write_text(text.replace("codebook = 32", "codebok = 32"))
    with pytest.raises(UserError, match=r"stage_a\.config\.codebok: 'codebok' is not known; known are, nearest first, codebook"):
        store.open_cascade(tmp_path / "m")


@pytest.mark.parametrize(("call", "message"), [
    ({"format": "checkpoint"}, "format: 'checkpoint' is not known; .*comfyui"),
    ({"format": "folder", "dtype": "float8"}, "dtype: 'float8' is not known; .*bfloat16"),
])  # fmt: skip
def test_unknown_names_list_the_known_ones(folder, tmp_path, call, message):
    with pytest.raises(UserError, match=message):
        store.convert(folder, tmp_path / "m", **call)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here_is_one_sentence(folder, device):
    with pytest.raises(UserError, match=f"device: .*{device}"):
        store.open_cascade(folder, device=device)


def test_a_target_that_is_there_is_not_overwritten(folder, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/precious").write_text("mine")
    with pytest.raises(UserError, match="out: .*is there already"):
        store.convert(folder, tmp_path / "m", "folder")
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["precious"]


@LINUX
def test_a_full_disk_is_one_sentence_and_nothing_is_half_written(folder, tmp_path):
    code = (
        "import resource, sys; from sotediffusion.weights import store; from sotediffusion.types import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "for format in store.FORMATS:\n"
        "    try: store.convert(sys.argv[1], sys.argv[2], format)\n"
        "    except UserError as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(tmp_path / "m")]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(store.FORMATS)
    assert all(line.startswith(f"out: {tmp_path} took no more (File too large); nothing was kept") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_is_read_by_convert_alone_and_only_when_told(cascade, folder, tmp_path):
    torch.save({"state_dict": cascade.stage_c.state_dict()}, tmp_path / "stage_c.ckpt")
    for refused in (lambda: store.open_cascade(tmp_path / "stage_c.ckpt"), lambda: store.inspect(tmp_path / "stage_c.ckpt"),
                    lambda: store.convert(tmp_path / "stage_c.ckpt", tmp_path / "m", "loose")):  # fmt: skip
        with pytest.raises(UserError, match="may be a pickle.*--unsafe-pickle"):
            refused()
    assert store.convert(tmp_path / "stage_c.ckpt", tmp_path / "m", "loose", unsafe_pickle=True) == []
    assert parts_in(tmp_path / "m") == {"stage_c": parts_in(folder)["stage_c"]}


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/the-pickle-ran-code"),))


def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    with pytest.raises(UserError, match="is not a pickle of tensors alone"):
        store.convert(tmp_path / "evil.pt", tmp_path / "m", "loose", unsafe_pickle=True)
    assert not Path("/tmp/the-pickle-ran-code").exists()


@pytest.mark.parametrize(("old", "new", "message"), [
    ("codebook = 32", 'codebook = "many"', "stage_a.config.codebook: 'many' is not a whole number; give a whole number"),
    ("widths = [32, 32]", "widths = []", "config of stage_c describes no network"),
    ("heads = [2, 2]", "heads = [0, 0]", "stage_c has 0 attention heads for a width of 32"),
    ("widths = [32, 32]", "widths = [32, 32, 32]", "config of stage_c describes no network"),
    ("[stage_a]", "[stage_a", "is not readable TOML"),
])  # fmt: skip
def test_a_spoilt_model_toml_is_one_sentence(folder, tmp_path, old, new, message):
    shutil.copytree(folder, tmp_path / "m")
    text = (folder / "model.toml").read_text()
    part = text.index("[stage_c]") if "s = [" in old else 0
    (tmp_path / "m/model.toml").write_text(text[:part] + text[part:].replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        store.open_cascade(tmp_path / "m")


@pytest.mark.parametrize("mark", [
    "[]", "1", "{broken", '{"stage_a": 3}', '{"stage_a": {"config": 3}}', '{"stage_a": {"config": {"x": 1}}}',
])  # fmt: skip
def test_marks_of_ours_that_are_not_ours_never_crash(folder, tmp_path, mark):
    values = safetensors.torch.load_file(folder / "stage_a.safetensors")
    safetensors.torch.save_file(values, tmp_path / "a.safetensors", {"sotediffusion.parts": mark, "sotediffusion.model": mark})
    try:
        assert parts_in(tmp_path / "a.safetensors").keys() == {"stage_a"}
    except UserError as error:
        assert "a.safetensors" in str(error)


def test_what_holds_no_network_is_no_model(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.toml").touch()
    for path in (tmp_path / "empty.safetensors", tmp_path / "m"):
        with pytest.raises(UserError, match="holds no network"):
            store.inspect(path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="is no weights file"):
        store.inspect(tmp_path / "x.json")
