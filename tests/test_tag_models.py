"""The published models: what is said of them, how they are fetched and checked, and pickles that become safetensors once."""

import hashlib
import pickle
import shlex
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer

import huggingface_hub
import pytest
import test_hub
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from tiny_models import colour_tagger, mlp_weights

from sotediffusion.cli.curate import read_preset
from sotediffusion.cli.curate_models import command
from sotediffusion.curate import pipeline
from sotediffusion.curate.inference import fetch
from sotediffusion.curate.inference import published as models
from sotediffusion.curate.inference.hashes import accept_model, check_models, describe, recorded
from sotediffusion.curate.inference.published import PUBLISHED, Source, find_model, is_here
from sotediffusion.curate.text.llava import model_digest
from sotediffusion.types import UserError

WD, AES, CLIP = "SmilingWolf/wd-swinv2-tagger-v3", "hakurei/waifu-diffusion-v1-4", "openai/clip-vit-base-patch32"
FILES = {WD: "wd-swinv2-tagger-v3", AES: "aes-B32-v0", CLIP: "aes-B32-v0"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with small files under the published names; of each file it says the sha256, as hubs do of large ones."""
    published = tmp_path / "published"
    colour_tagger(published / WD, ["1girl"], size=32)
    (published / AES / "models").mkdir(parents=True)
    torch.save(mlp_weights(), published / AES / "models" / "aes-B32-v0.pth")
    (published / CLIP).mkdir(parents=True)
    torch.save({"visual_projection.weight": torch.ones(2, 3)}, published / CLIP / "pytorch_model.bin")
    for name in ("config.json", "preprocessor_config.json"):
        (published / CLIP / name).write_text("{}")
    monkeypatch.setattr(test_hub, "etag", lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(test_hub.COMMITS, models.CLIP_B32.revision, "c" * 40)
    state = test_hub.Hub({id: published / id for id in FILES})
    server = ThreadingHTTPServer(("127.0.0.1", 0), test_hub.handler(state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def test_a_tagger_is_fetched_once_and_whole(hub, tmp_path):
    model = PUBLISHED["wd-swinv2-tagger-v3"]
    assert not is_here(tmp_path / "models", model)
    folder = fetch.fetch_model(model, tmp_path / "models", hub.address)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "selected_tags.csv"]
    assert find_model(tmp_path / "models", model.name) == folder and is_here(tmp_path / "models", model)
    asked = len(hub.asked)
    fetch.fetch_model(model, tmp_path / "models", hub.address)
    assert len(hub.asked) == asked


def test_a_model_taken_whole_is_not_there_before_all_of_it_came_and_a_break_costs_no_file(hub, tmp_path, monkeypatch):
    model, names = PUBLISHED["llava-1.5-7b-hf"], ["config.json", "model.safetensors"]
    published = hub.folders[model.sources[0].id] = tmp_path / "published" / "llava"
    published.mkdir()
    for name in names:
        (published / name).write_text(name)
    download = huggingface_hub.snapshot_download

    def broken(*args, **more):
        download(*args, **more | {"allow_patterns": names[:1]})
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(UserError, match="run it again"):
        fetch.fetch_model(model, tmp_path / "models", hub.address)
    assert not is_here(tmp_path / "models", model) and not (tmp_path / "models" / model.name).exists()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = fetch.fetch_model(model, tmp_path / "models", hub.address)
    assert is_here(tmp_path / "models", model) and [path.name for path in folder.parent.iterdir()] == [model.name]
    (folder / names[1]).unlink()  # as when it was damaged
    fetch.fetch_model(model, tmp_path / "models", hub.address)
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == names
    assert len([line for line in hub.asked if line.startswith("GET") and line.endswith("/config.json")]) == 1


def test_a_file_that_came_with_another_hash_is_refused(hub, tmp_path):
    """CLIP's files are pinned, and these are not they."""
    with pytest.raises(UserError, match="published is b575ef3c"):
        fetch.fetch_files(models.CLIP_B32, tmp_path / "models", hub.address)
    assert list((tmp_path / "models").glob("*")) == []


def test_pickles_arrive_as_safetensors_by_the_hash_the_hub_tells(hub, tmp_path):
    loose = replace(models.CLIP_B32, sha256={})
    model = replace(PUBLISHED["aes-B32-v0"], sources=(loose, Source(AES, ("models/aes-B32-v0.pth",))))
    said = []
    folder = fetch.fetch_model(model, tmp_path, hub.address, said.append)
    assert sorted(path.name for path in folder.iterdir()) == sorted(model.needs)
    assert {name: tuple(value.shape) for name, value in load_file(folder / "mlp.safetensors").items()} == fetch.MLP_SHAPES
    assert torch.equal(load_file(folder / "mlp.safetensors")["fc2.bias"], mlp_weights()["fc2.bias"])
    assert said[-1] == f"{AES}/models/aes-B32-v0.pth"


def test_kohyas_folder_is_filled_once_and_again_by_force(hub, tmp_path):
    folder = fetch.fetch_tagger(tmp_path / "m", WD, endpoint=hub.address)
    assert folder == tmp_path / "m" / "SmilingWolf_wd-swinv2-tagger-v3" and (folder / "model.onnx").is_file()
    asked = len(hub.asked)
    assert fetch.fetch_tagger(tmp_path / "m", WD, endpoint=hub.address) == folder and len(hub.asked) == asked
    (folder / "stray").touch()
    fetch.fetch_tagger(tmp_path / "m", WD, True, hub.address)
    assert len(hub.asked) > asked and not (folder / "stray").exists()
    (folder / "selected_tags.csv").unlink()
    with pytest.raises(UserError, match="--force_download"):
        fetch.fetch_tagger(tmp_path / "m", WD, endpoint=hub.address)


@pytest.mark.parametrize(("id", "word"), [("Nobody/nothing", "not on the hub"), (f"{WD}/nosuchbranch", "not on the hub"),
                                          (AES, "has no model.onnx"), ("x", "not on the hub")])  # fmt: skip
def test_what_cannot_be_fetched_is_said_and_leaves_nothing(hub, tmp_path, id, word):
    with pytest.raises(UserError, match=word):
        fetch.fetch_tagger(tmp_path / "m", id, endpoint=hub.address)
    assert list((tmp_path / "m").iterdir()) == []


def convert(path, target, sha256=None):
    return fetch.convert_pickle(path, target, sha256 or hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_pickle_is_opened_by_its_hash_only(tmp_path):
    path = tmp_path / "aes-B32-v0.pth"
    torch.save(mlp_weights(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"{digest} and none is published"):
        fetch.convert_published(path, tmp_path / "models")
    with pytest.raises(UserError, match="not the published file"):
        fetch.convert_published(path, tmp_path / "models", "0" * 64)
    made = fetch.convert_published(path, tmp_path / "models", digest.upper())
    assert made == tmp_path / "models" / "aes-B32-v0" / "mlp.safetensors" and len(load_file(made)) == 6
    with pytest.raises(UserError, match="not a published pickle"):
        fetch.convert_published(tmp_path / "other.pth", tmp_path / "models")


class Harm:
    def __reduce__(self):
        return print, ("harm done",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "bad.pth"
    for content in (pickle.dumps(Harm()), pickle.dumps({"fc1.weight": Harm()}), b"rubbish"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="more than weights or is damaged"):
            convert(path, tmp_path / "out.safetensors")
    assert "harm" not in capsys.readouterr().out and not (tmp_path / "out.safetensors").exists()


def test_weights_of_another_contract_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for bad in (mlp_weights(768), {**mlp_weights(), "more": torch.ones(1)}):
        torch.save(bad, path)
        with pytest.raises(UserError, match="aes-B32-v0 has fc1.weight"):
            convert(path, tmp_path / "mlp.safetensors")
    torch.save([torch.ones(1)], path)
    with pytest.raises(UserError, match="not a plain table"):
        convert(path, tmp_path / "mlp.safetensors")


def test_tied_weights_survive_conversion(tmp_path):
    one = torch.arange(6.0)
    torch.save({"a": one, "b": one, "c": one.reshape(2, 3).T}, tmp_path / "x.bin")
    found = load_file(convert(tmp_path / "x.bin", tmp_path / "x.safetensors"))
    assert torch.equal(found["a"], found["b"]) and torch.equal(found["c"], one.reshape(2, 3).T)


def test_the_list_names_licence_source_and_command_of_every_model(tmp_path):
    result = CliRunner().invoke(command, ["--models", str(tmp_path)])
    assert result.exit_code == 0
    assert CliRunner().invoke(command, ["list", "--models", str(tmp_path)]).output == result.output
    for model in PUBLISHED.values():
        assert model.licence in result.output and f"sote curate models download {model.name}" in result.output
        assert all(source.id in result.output for source in model.sources)
    colour_tagger(tmp_path / "wd-swinv2-tagger-v3", ["1girl"], size=32)
    found = CliRunner().invoke(command, ["--models", str(tmp_path)]).output
    assert f"in {tmp_path / 'wd-swinv2-tagger-v3'}" in found


def test_a_published_file_is_pinned_or_held_to_the_hash_of_its_first_use(tmp_path):
    folder = colour_tagger(tmp_path / "wd-swinv2-tagger-v3", ["1girl"], size=32)
    assert "not used yet, then by hash: model.onnx, selected_tags.csv" in describe(tmp_path, PUBLISHED[folder.name])
    check_models(tmp_path, [folder.name, "somebody's own"])
    check_models(tmp_path, [folder.name])
    shown = CliRunner().invoke(command, ["--models", str(tmp_path)]).output
    assert "no published hash is known here; by the hash of their first use: model.onnx, selected_tags.csv" in shown
    before = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "model.onnx").write_bytes(b"another model altogether")
    with pytest.raises(UserError, match=rf"models: .*model.onnx has .* when it was first used here it was {before}; if"):
        check_models(tmp_path, [folder.name])
    shown = CliRunner().invoke(command, ["accept", folder.name, "--models", str(tmp_path)]).output
    assert shown == f"model.onnx is now {hashlib.sha256(b'another model altogether').hexdigest()}\n"
    check_models(tmp_path, [folder.name])
    assert "nothing to accept" in CliRunner().invoke(command, ["accept", folder.name, "--models", str(tmp_path)]).output
    (tmp_path / "hashes.json").write_text("[]")
    with pytest.raises(UserError, match="hashes.json is no record"):
        check_models(tmp_path, [folder.name])
    (tmp_path / "hashes.json").unlink()
    check_models(tmp_path, [folder.name])
    (tmp_path / "aes-B32-v0").mkdir()
    (tmp_path / "aes-B32-v0" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="published it was b575ef3c") as refused:
        check_models(tmp_path, ["aes-B32-v0"])
    assert "delete it" in str(refused.value) and "accept" not in str(refused.value)
    with pytest.raises(UserError, match="no file that goes by its first use"):
        accept_model(tmp_path, PUBLISHED["aes-B32-v0"])


def test_the_next_step_about_a_changed_model_is_a_command_that_helps(hub, tmp_path):
    models_at, name = tmp_path / "my models", "wd-swinv2-tagger-v3"
    folder = fetch.fetch_model(PUBLISHED[name], models_at, hub.address)
    check_models(models_at, [name])
    for change, word in ((b"damaged", "download"), (b"newer", "accept")):
        (folder / "model.onnx").write_bytes(change)
        with pytest.raises(UserError) as refused:
            check_models(models_at, [name])
        said = next(part for part in str(refused.value).split("`") if part.startswith(f"sote curate models {word}"))
        assert shlex.split(said)[3:] == [word, name, "--models", str(models_at)]
        if word == "accept":
            assert CliRunner().invoke(command, shlex.split(said)[3:]).exit_code == 0
        else:
            (folder / "model.onnx").unlink()
            fetch.fetch_model(PUBLISHED[name], models_at, hub.address)
        check_models(models_at, [name])


def test_a_run_holds_its_models_to_their_hashes(tmp_path):
    (tmp_path / "pile").mkdir()
    Image.new("RGB", (60, 60), (9, 90, 200)).save(tmp_path / "pile" / "one.png")
    folder = colour_tagger(tmp_path / "m" / "wd-swinv2-tagger-v3", ["1girl"], size=32)
    settings = read_preset("card", ("tag.size=32", "filter.min_area=0", "text.backend=none"))
    order = pipeline.Order(str(tmp_path / "pile"), str(tmp_path / "cat"), settings, tmp_path / "m", 1, ("score", "dedupe"))
    pipeline.run(order, lambda _: None)
    assert recorded(tmp_path / "m").keys() == {"wd-swinv2-tagger-v3/model.onnx", "wd-swinv2-tagger-v3/selected_tags.csv"}
    with open(folder / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"model\.onnx has the sha256"):
        pipeline.run(order, lambda _: None)


def test_unknown_names_list_the_known(tmp_path):
    result = CliRunner().invoke(command, ["download", "wd-swin", "--models", str(tmp_path)])
    assert isinstance(result.exception, UserError) and "nearest first, wd-swinv2-tagger-v3" in str(result.exception)


def test_what_the_card_used_is_in_the_table():
    used = {source.id for model in PUBLISHED.values() for source in model.sources}
    assert {WD, AES, CLIP, "llava-hf/llava-1.5-7b-hf"} <= used
    assert PUBLISHED["aesthetic-shadow-v2"].licence.startswith("CC-BY-NC-4.0")
    assert all(name == model.name and model.needs and model.sources for name, model in PUBLISHED.items())


def test_the_digest_of_a_model_and_its_record_are_of_the_same_files(tmp_path):
    folder = tmp_path / "llava-1.5-7b-hf"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.model", "README.md", "model.onnx"):
        (folder / name).write_text(name)
    check_models(tmp_path, [folder.name])
    assert {key.rpartition("/")[2] for key in recorded(tmp_path)} == {"config.json", "model.safetensors", "tokenizer.model"}
    before = model_digest(folder)
    (folder / "model.onnx").write_text("another")
    assert model_digest(folder) == before
    (folder / "tokenizer.model").write_text("another one")
    assert model_digest(folder) != before
