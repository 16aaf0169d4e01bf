"""Whole sets of weights: every layout opens, every conversion is exact, every fault is one sentence and leaves nothing behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import tiny_cascade

from sotediffusion.cli.weights import FORMATS as CLI_FORMATS
from sotediffusion.models.cascade import PARTS, SIZES, Cascade, Conventions
from sotediffusion.text.tokenizer import FolderTokenizer, train_bpe
from sotediffusion.types import UserError
from sotediffusion.weights import plans, store
from sotediffusion.weights.bundle import Parts

WHOLE = [name for name in store.FORMATS if name not in ("kohya", "onetrainer")]  # formats that a cascade opens from
EXPECTS = Conventions(text_mask="unmasked", time_condition="clamped", compression=32.0, width=256, height=256, area=65536,
                      guidance_unit=0.5, decoder_guidance_unit=0.75)
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, sets Linux limits")


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return replace(tiny_cascade(), conventions=EXPECTS, license="apache-2.0")


@pytest.fixture(scope="module")
def folder(cascade, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    store.save_cascade(cascade, path)
    return path


def with_own_tokenizer(cascade: Cascade, folder: Path) -> Cascade:
    (folder / "bpe").mkdir()
    train_bpe(["1girl, solo, long hair, guitar"] * 3, 600, folder / "bpe" / "tokenizer.json")
    tokenizer = FolderTokenizer(folder / "bpe")
    text = replace(cascade.config.text, vocabulary=600, eos=tokenizer.eos)
    return replace(cascade, tokenizer=tokenizer, text=PARTS["text"](text), config=replace(cascade.config, text=text))


def target(path: Path, format: str) -> Path:
    """What a user gives to open what was written to `path`."""
    return path.with_name(path.name + ".safetensors") if format in ("kohya", "onetrainer") else path


def assert_same(found: Cascade, wanted: Cascade, parts=tuple(PARTS)) -> None:
    for part in parts:
        ours, theirs = found.parts()[part].state_dict(), wanted.parts()[part].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part


def parts_in(path: Path) -> dict[str, str]:
    return {part.name: part.hash for part in store.inspect(path).parts}


def leftovers(path: Path) -> list[str]:
    return [p.name for p in path.iterdir() if p.name.startswith(".")]


# Opening and writing


def test_a_model_folder_brings_back_everything(cascade, folder):
    opened = store.open_cascade(folder)
    assert_same(opened, cascade)
    assert (opened.config, opened.conventions, opened.name, opened.license) == (cascade.config, EXPECTS, "tiny", "apache-2.0")
    assert all(not network.training for network in opened.parts().values())
    assert not any(value.is_meta for network in opened.parts().values() for value in network.state_dict().values())


@pytest.mark.parametrize("format", WHOLE)
def test_every_format_opens_as_the_cascade_that_was_written(cascade, folder, tmp_path, format):
    store.convert(folder, tmp_path / "m", format)
    opened = store.open_cascade(tmp_path / "m")
    assert_same(opened, cascade, opened.parts())
    assert (opened.config.stage_b, opened.conventions, opened.license) == (cascade.config.stage_b, EXPECTS, "apache-2.0")
    assert store.inspect(tmp_path / "m").format == format


def test_original_to_ours_to_diffusers_to_comfyui_to_original_is_the_identity(folder, tmp_path):
    chain = ["stability", "folder", "diffusers", "comfyui", "diffusers-connected", "comfyui-split", "stability"]
    source = folder
    for i, format in enumerate(chain):
        assert store.convert(source, tmp_path / f"{i}-{format}", format) == []
        source = tmp_path / f"{i}-{format}"
    first, last = (tmp_path / f"{i}-stability" for i in (0, len(chain) - 1))
    for path in first.glob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as a, safetensors.safe_open(last / path.name, "pt") as b:
            assert a.keys() == b.keys()
            assert all(torch.equal(a.get_tensor(name), b.get_tensor(name)) for name in a.keys())  # noqa: SIM118
    assert parts_in(last) == parts_in(folder)


@pytest.mark.parametrize(("format", "sibling"), [("kohya", "m_text_model"), ("onetrainer", "m_text_encoder")])
def test_a_trainers_pair_opens_with_the_other_parts_named_beside_it(cascade, folder, tmp_path, format, sibling):
    left = store.convert(folder, tmp_path / "m.safetensors", format)
    assert left == ["stage_b", "stage_a", "effnet", "previewer"]
    assert (tmp_path / f"{sibling}.safetensors").is_file()
    with pytest.raises(UserError, match="stage_b: is missing.*--stage-b"):
        store.open_cascade(tmp_path / "m.safetensors")
    decoder = {part: folder / f"{part}.safetensors" for part in ("stage_b", "stage_a")}
    opened = store.open_cascade(Parts(stage_c=tmp_path / "m.safetensors", **decoder))
    assert_same(opened, cascade, ("stage_c", "text", "stage_b", "stage_a"))
    assert opened.effnet is None


def test_parts_may_be_named_in_a_toml_over_a_base(cascade, folder, tmp_path):
    other = replace(cascade, stage_c=PARTS["stage_c"](cascade.config.stage_c))
    store.save_cascade(other, tmp_path / "other", "loose")
    (tmp_path / "mix.toml").write_text(f'base = "{folder}"\nstage_c = "other/unet.safetensors"\n')
    opened = store.open_cascade(tmp_path / "mix.toml")
    assert_same(opened, other, ("stage_c",))
    assert_same(opened, cascade, ("text", "stage_b", "stage_a", "effnet", "previewer"))


def test_a_checkpoint_brings_the_parts_inside_it_along(cascade, folder, tmp_path):
    store.convert(folder, tmp_path / "c", "comfyui")
    opened = store.open_cascade({"stage_c": tmp_path / "c/stage_c.safetensors", "stage_b": tmp_path / "c/stage_b.safetensors"})
    assert_same(opened, cascade)


@pytest.mark.parametrize("named", [True, False])
def test_a_stage_b_checkpoint_with_a_text_encoder_of_its_own_leaves_the_priors_in_place(cascade, folder, tmp_path, named):
    store.convert(folder, tmp_path / "c", "comfyui")
    prefix, text = "text_encoder.clip_g.transformer.", cascade.text.state_dict()
    spare = {prefix + name: torch.zeros_like(value) for name, value in text.items()}
    path = tmp_path / "c/stage_b.safetensors"
    marks = safetensors.safe_open(path, "pt").metadata()
    safetensors.torch.save_file(safetensors.torch.load_file(path) | spare, path, marks)
    parts = {part: tmp_path / f"c/{part}.safetensors" for part in ("stage_b", "stage_c")}
    assert_same(store.open_cascade(parts if named else tmp_path / "c"), cascade)


def test_diffusers_folders_in_shards_open_like_whole_ones(cascade, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "SHARD_BYTES", 200_000)
    store.convert(folder, tmp_path / "m", "diffusers")
    assert (tmp_path / "m/prior_prior/diffusion_pytorch_model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "m/prior_prior").glob("*-of-*.safetensors"))) > 2
    assert_same(store.open_cascade(tmp_path / "m"), cascade)
    next((tmp_path / "m/prior_prior").glob("*-00002-of-*")).unlink()
    with pytest.raises(UserError, match="00002-of-.*there is no such file"):
        store.open_cascade(tmp_path / "m")


@pytest.mark.parametrize("library", ["wuerstchen", "diffusers"])
def test_both_published_names_of_the_vqgan_library_open(cascade, folder, tmp_path, library):
    store.convert(folder, tmp_path / "m", "diffusers")
    index = json.loads((tmp_path / "m/model_index.json").read_text())
    assert index["vqgan"] == ["wuerstchen", "PaellaVQModel"]
    (tmp_path / "m/model_index.json").write_text(json.dumps({**index, "vqgan": [library, "PaellaVQModel"]}))
    assert_same(store.open_cascade(tmp_path / "m"), cascade)


def test_what_diffusers_itself_writes_opens_and_what_we_write_diffusers_reads(cascade, folder, tmp_path):
    pytest.importorskip("diffusers")
    from diffusers import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
    from transformers import CLIPTextModelWithProjection

    store.convert(folder, tmp_path / "ours", "diffusers")
    kinds = {"prior_prior": StableCascadeUNet, "decoder": StableCascadeUNet, "vqgan": PaellaVQModel,
             "prior_text_encoder": CLIPTextModelWithProjection}  # fmt: skip
    for name, kind in kinds.items():
        theirs, report = kind.from_pretrained(tmp_path / "ours" / name, output_loading_info=True)
        assert not any(report.values()), report
        theirs.save_pretrained(tmp_path / "theirs" / name)
    (tmp_path / "theirs/model_index.json").write_text('{"vqgan": ["wuerstchen", "PaellaVQModel"]}')
    opened = store.open_cascade(tmp_path / "theirs")
    assert_same(opened, cascade, ("stage_c", "stage_b", "stage_a", "text"))
    assert opened.conventions == Conventions(time_condition="raw")  # a foreign folder: the reference's ways


def test_diffusers_own_pipeline_draws_from_what_we_write(cascade, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    import diffusers.pipelines
    from diffusers.pipelines.deprecated import wuerstchen

    monkeypatch.setattr(diffusers.pipelines, "wuerstchen", wuerstchen, raising=False)  # where published folders say it is
    store.save_cascade(with_own_tokenizer(cascade, tmp_path), tmp_path / "m", "diffusers")
    pipeline = diffusers.StableCascadeCombinedPipeline.from_pretrained(tmp_path / "m")
    sizes = {"width": 128, "height": 128, "prior_num_inference_steps": 1, "num_inference_steps": 1}
    assert pipeline("1girl", output_type="np", **sizes).images.shape == (1, 128, 128, 3)


def test_connected_repositories_are_found_beside_each_other_and_in_the_download_cache(cascade, folder, tmp_path):
    store.convert(folder, tmp_path / "m", "diffusers-connected")
    assert_same(store.open_cascade(tmp_path / "m-prior"), cascade)
    for old, new in (("m", "models--Someone--sote-m"), ("m-prior", "models--m-prior")):
        (tmp_path / "cache" / new / "snapshots").mkdir(parents=True)
        shutil.move(tmp_path / old, tmp_path / "cache" / new / "snapshots" / "abc123")
    repository = tmp_path / "cache/models--Someone--sote-m/snapshots/abc123"
    assert_same(store.open_cascade(repository), cascade)
    shutil.rmtree(tmp_path / "cache/models--m-prior")
    with pytest.raises(UserError, match="m-prior, which is not here; run `sote weights download m-prior`"):
        store.open_cascade(repository)


def strip_our_marks(path: Path) -> None:
    """A file as another program would have written it: no header of ours."""
    values = {}
    with safetensors.safe_open(path, "pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(values, path, {"format": "pt"})


@pytest.mark.parametrize(("format", "name", "mask", "time"), [
    ("diffusers", "plain", "masked", "raw"),
    ("diffusers", "sotediffusion-x", "sote", "raw"),
    ("comfyui", "plain", "masked", "clamped"),
    ("stability", "plain", "masked", "clamped"),
    ("loose", "sotediffusion-v2", "sote", "clamped"),
    ("kohya", "plain", "unmasked", "clamped"),
    ("onetrainer", "plain", "masked", "raw"),
])  # fmt: skip
def test_a_foreign_layout_says_what_its_weights_expect(folder, tmp_path, format, name, mask, time):
    path = tmp_path / name
    store.convert(folder, path, format)
    for file in tmp_path.rglob("*.safetensors"):
        strip_our_marks(file)
    found = store.inspect(target(path, format))
    assert (found.conventions.text_mask, found.conventions.time_condition) == (mask, time)
    assert {part.size for part in found.parts} == {"tiny"}


def test_a_tokenizer_travels_with_the_weights(cascade, tmp_path):
    own = with_own_tokenizer(cascade, tmp_path)
    store.save_cascade(own, tmp_path / "own")
    for format in WHOLE:
        store.convert(tmp_path / "own", tmp_path / format, format)
        opened = store.open_cascade(tmp_path / format)
        assert opened.tokenizer.encode("1girl, guitar") == own.tokenizer.encode("1girl, guitar")
    (tmp_path / "own/tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer: is missing.*--tokenizer"):
        store.open_cascade(tmp_path / "own")
    other = replace(own.config.text, eos=3)
    own = replace(own, text=PARTS["text"](other), config=replace(own.config, text=other))
    with pytest.raises(UserError, match="tokenizer: ends texts with token"):
        store.save_cascade(own, tmp_path / "wrong")
        store.open_cascade(tmp_path / "wrong")


# Kinds of numbers


def test_a_dtype_changes_floating_point_values_only_and_the_hash_with_them(cascade, folder, tmp_path):
    store.convert(folder, tmp_path / "m", "folder", "bfloat16")
    opened = store.open_cascade(tmp_path / "m")
    for part, network in opened.parts().items():
        wanted = cascade.parts()[part].state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(value, wanted[name].bfloat16() if wanted[name].is_floating_point() else wanted[name])
    found = store.inspect(tmp_path / "m")
    assert all(part.hash == part.recorded and part.hash not in parts_in(folder).values() for part in found.parts)
    assert_same(store.open_cascade(folder, torch.bfloat16), opened)


def test_float16_is_for_all_but_stage_c_and_the_cascade_says_so(folder):
    opened = store.open_cascade(folder, "float16")
    kinds = {part: next(network.parameters()).dtype for part, network in opened.parts().items()}
    assert kinds.pop("stage_c") == torch.bfloat16
    assert set(kinds.values()) == {torch.float16}
    assert len(opened.notes) == 1 and "stage_c computes in bfloat16" in opened.notes[0]


def test_a_stage_c_that_overflows_float16_is_not_written(cascade, tmp_path):
    big = PARTS["stage_c"](cascade.config.stage_c)
    with torch.no_grad():
        big.clf[1].weight[0] = 1e5
    with pytest.raises(UserError, match=r"clf\.1\.weight reaches 1e\+05 and overflows float16"):
        store.save_cascade(replace(cascade, stage_c=big), tmp_path / "m", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_files_carry_the_models_spec_and_licence(folder):
    with safetensors.safe_open(folder / "stage_c.safetensors", "pt") as file:
        about = file.metadata()
    assert about["modelspec.architecture"] == "stable-cascade"
    assert about["modelspec.title"] == "tiny"
    assert about["modelspec.license"].startswith("Apache License 2.0")
    assert about["format"] == "pt"


def test_a_model_of_sotediffusion_inherits_its_licence_by_name(folder, tmp_path):
    store.convert(folder, tmp_path / "sotediffusion-v2", "loose")
    for file in (tmp_path / "sotediffusion-v2").glob("*.safetensors"):
        strip_our_marks(file)
    store.convert(tmp_path / "sotediffusion-v2", tmp_path / "out", "folder")
    with safetensors.safe_open(tmp_path / "out/stage_c.safetensors", "pt") as file:
        terms = file.metadata()["modelspec.license"]
    assert terms.startswith("Fair AI Public License 1.0-SD (non-commercial, no hosted service; inherits the Stability AI")


def test_terms_travel_with_every_copy(cascade, tmp_path):
    store.save_cascade(replace(cascade, license="faipl-1.0-sd"), tmp_path / "m", "diffusers")
    (tmp_path / "m/LICENSE_INHERIT").write_text("terms")
    store.convert(tmp_path / "m", tmp_path / "copy", "comfyui")
    assert (tmp_path / "copy/LICENSE_INHERIT").read_text() == "terms"
    assert "Copyright (c) Stability AI Ltd. All Rights Reserved." in (tmp_path / "copy/NOTICE").read_text()
    store.save_cascade(cascade, tmp_path / "free")
    assert not (tmp_path / "free/NOTICE").exists()


def test_a_stage_c_that_says_no_terms_comes_under_those_of_the_base_it_is_put_into(cascade, tmp_path):
    store.save_cascade(replace(cascade, license="faipl-1.0-sd"), tmp_path / "base", "diffusers")
    (tmp_path / "base/LICENSE_INHERIT").write_text("terms")
    store.save_cascade(cascade, tmp_path / "other")
    own = tmp_path / "mine.safetensors"
    shutil.copy(tmp_path / "other/stage_c.safetensors", own)
    strip_our_marks(own)
    parts = Parts(base=tmp_path / "base", stage_c=own)
    assert store.open_cascade(parts).license == "faipl-1.0-sd"
    store.convert(parts, tmp_path / "copy", "comfyui")
    assert (tmp_path / "copy/LICENSE_INHERIT").read_text() == "terms"
    assert "Copyright (c) Stability AI Ltd." in (tmp_path / "copy/NOTICE").read_text()
    marked = Parts(base=tmp_path / "base", stage_c=tmp_path / "other/stage_c.safetensors")
    assert store.open_cascade(marked).license == "apache-2.0"  # a file that says its own keeps it


def test_a_file_changed_after_it_was_written_is_seen(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/stage_a.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert [part.name for part in store.inspect(tmp_path / "m").parts if part.hash != part.recorded] == ["stage_a"]


# Memory


@LINUX
def test_opening_takes_no_more_memory_than_the_weights_and_a_tenth(cascade, tmp_path):
    config = replace(SIZES["tiny"].stage_c, widths=(1536, 1536), heads=(12, 12), c_cond=1536)  # a MiB of others' is little then
    with torch.device("meta"):
        big = PARTS["stage_c"](config)
    big = big.to_empty(device="cpu").bfloat16()
    for value in big.parameters():
        value.data.zero_()
    large = replace(cascade, stage_c=big, config=replace(cascade.config, stage_c=config))
    for format in ("folder", "diffusers"):
        store.save_cascade(cascade, tmp_path / f"small-{format}", format)
        store.save_cascade(large, tmp_path / f"large-{format}", format)
    code = (
        "import sys; from sotediffusion.weights import store\n"
        "read = lambda key: int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) * 1024\n"
        "for format in ('folder', 'diffusers'):\n"
        "    store.open_cascade(f'{sys.argv[1]}/small-{format}')\n"  # so that what is imported on the way is counted out
        "    open('/proc/self/clear_refs', 'w').write('5')\n"  # forgets the peak so far
        "    before = read('VmHWM')\n"
        "    cascade = store.open_cascade(f'{sys.argv[1]}/large-{format}')\n"
        "    size = sum(v.nbytes for n in cascade.parts().values() for v in n.state_dict().values())\n"
        "    print(size, read('VmHWM') - before)\n"
        "    del cascade\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    measured = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(measured) == 2
    assert all(size > 300e6 and peak <= 1.1 * size for size, peak in measured), measured


@LINUX
@pytest.mark.parametrize("marks", [{"format": "pt"}, None])
def test_opening_reads_every_tensor_once_whether_its_hash_is_on_record_or_not(folder, tmp_path, marks):
    store.convert(folder, tmp_path / "m", "stability")
    files = list((tmp_path / "m").rglob("*.safetensors"))
    for file in files if marks else ():
        strip_our_marks(file)
    read = lambda: int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])  # noqa: E731
    recorded = {part.name: part.hash for part in store.inspect(tmp_path / "m").parts}
    before = read()
    opened = store.open_cascade(tmp_path / "m")
    assert read() - before <= 1.2 * sum(file.stat().st_size for file in files)
    assert opened.hashes == recorded


@pytest.fixture
def moves(monkeypatch):
    """What is done before and after every move of a file or folder."""
    replace, done = os.replace, {"before": lambda source, target: None, "after": lambda: None}

    def moved(source, target):
        done["before"](source, target)
        replace(source, target)
        done["after"]()

    monkeypatch.setattr(os, "replace", moved)
    return done


def test_while_a_model_folder_takes_anothers_place_one_of_them_can_be_found(cascade, folder, tmp_path, moves):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "earlier").touch()
    found = []
    moves["after"] = lambda: found.append((tmp_path / "m").is_dir() or any(tmp_path.glob("m.old-*/earlier")))
    store.save_cascade(cascade, tmp_path / "m", over=True)
    assert found and all(found)
    assert [path.name for path in tmp_path.iterdir()] == ["m"] and not (tmp_path / "m" / "earlier").exists()
    assert_same(store.open_cascade(tmp_path / "m"), cascade)


def test_while_a_model_file_takes_anothers_place_there_is_always_one(cascade, tmp_path, moves):
    path = tmp_path / "m.safetensors"
    path.touch()
    found = []
    moves["after"] = lambda: found.append(path.is_file())
    store.save_cascade(cascade, tmp_path / "m", "kohya", over=True)
    assert found and all(found) and path.stat().st_size and leftovers(tmp_path) == []


def test_a_model_that_cannot_be_put_in_its_place_leaves_the_earlier_one_there(cascade, folder, tmp_path, moves):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "earlier").touch()

    def refuse(source, target):
        if Path(target) == tmp_path / "m" and not (Path(source) / "earlier").exists():
            raise OSError(errno.EIO, "Input/output error")

    moves["before"] = refuse
    with pytest.raises(UserError, match="took no more"):
        store.save_cascade(cascade, tmp_path / "m", over=True)
    assert (tmp_path / "m" / "earlier").exists() and [path.name for path in tmp_path.iterdir()] == ["m"]
    assert_same(store.open_cascade(tmp_path / "m"), cascade)


def test_the_command_offers_the_formats_there_are():
    assert CLI_FORMATS == tuple(store.FORMATS)


def test_a_model_that_says_v_is_not_written_for_programs_that_would_take_it_for_noise(cascade, tmp_path):
    said = replace(cascade, conventions=replace(EXPECTS, prediction_c="v"))
    store.save_cascade(said, tmp_path / "own")
    assert store.open_cascade(tmp_path / "own").conventions.prediction_c == "v"
    for format in set(store.FORMATS) - {"folder"}:
        with pytest.raises(UserError, match="it says v; write it as 'folder'"):
            store.convert(tmp_path / "own", tmp_path / "other", format)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    laid = replace(cascade, conventions=replace(EXPECTS, prior_layout="cells"))
    with pytest.raises(UserError, match="programs that stretch Stage C's cells"):
        store.save_cascade(laid, tmp_path / "other", "comfyui")
    settings = (tmp_path / "own" / "model.toml").read_text()
    (tmp_path / "own" / "model.toml").write_text(settings.replace('prediction_c = "v"', 'prediction_c = "x0"'))
    with pytest.raises(UserError, match="prediction_c: 'x0' is not known"):
        store.open_cascade(tmp_path / "own")
