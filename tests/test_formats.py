"""Foreign names and files: what is recognised, what is renamed, what is refused."""

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotediffusion.config import build, to_toml
from sotediffusion.models.cascade import NETWORKS, SIZES
from sotediffusion.types import UserError
from sotediffusion.weights import configs, formats, shapes, tensors
from sotediffusion.weights.tensors import Stored

DATA = Path(__file__).parent / "data"
PUBLISHED = [("stage_a", "full"), ("stage_b", "full"), ("stage_b", "lite"), ("stage_c", "full"), ("stage_c", "lite"),
             ("effnet", "full"), ("previewer", "full")]  # fmt: skip
DIFFUSERS_COUNTS = {("stage_c", "full"): 1550, ("stage_c", "lite"): 782, ("stage_b", "full"): 1726, ("stage_a", "full"): 122}
relaxed = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def published(part: str, size: str) -> dict[str, Stored]:
    """Names and shapes of a published file, without values."""
    name = f"keys_{part}_lite.json" if size == "lite" else f"keys_{part}.json"
    table = json.loads((DATA / name).read_text())
    return {key: Stored(torch.bfloat16, tuple(shape), lambda: torch.empty(0)) for key, shape in table.items()}


def table(stored: dict[str, Stored]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in stored.items()}


def tiny(part: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(len(part))
    network = NETWORKS[part](getattr(SIZES["tiny"], part))
    return {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in network.state_dict().items()}


def stored(values: dict[str, torch.Tensor]) -> dict[str, Stored]:
    return {name: tensors.in_memory(value) for name, value in values.items()}


def assert_same(found: dict[str, Stored], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name].load(), wanted[name]) for name in wanted)


@pytest.mark.parametrize(("part", "size"), PUBLISHED)
def test_a_published_file_is_recognised_and_its_config_read_off_its_shapes(part, size):
    parts = formats.parts_in(published(part, size), "file")
    assert list(parts) == [part]
    config = shapes.infer(part, parts[part], "file")
    assert config == getattr(SIZES[size], part)
    shapes.check(part, parts[part], config, "file")


@pytest.mark.parametrize(("part", "size"), PUBLISHED)
def test_original_to_diffusers_to_comfyui_to_original_is_the_identity_of_names_and_shapes(part, size):
    original = published(part, size)
    theirs = formats.to_diffusers(part, original)
    assert len(theirs) == DIFFUSERS_COUNTS.get((part, size), len(theirs))
    back = formats.parts_in(theirs, "file")[part]
    comfyui = formats.to_comfyui({part: back})
    assert table(formats.parts_in(comfyui, "file")[part]) == table(original)


@pytest.mark.parametrize("part", ["stage_c", "stage_b", "stage_a"])
@pytest.mark.parametrize("size", ["lite", "full", "tiny", "miniature"])
def test_names_and_config_are_those_of_diffusers_own_networks(part, size):
    pytest.importorskip("diffusers")
    from diffusers import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    config = getattr(SIZES[size], part)
    theirs = {k: v for k, v in configs.config_json(part, config).items() if not k.startswith("_")}
    with torch.device("meta"):
        network = (PaellaVQModel if part == "stage_a" else StableCascadeUNet)(**theirs)
    ours = stored(dict(shapes.build(part, config).state_dict()))
    assert table(formats.to_diffusers(part, ours)) == {k: tuple(v.shape) for k, v in network.state_dict().items()}
    text = json.dumps(dict(network.config), default=list).encode()
    assert configs.from_config_json(part, text, "config.json") == config


@pytest.mark.parametrize("size", SIZES)
def test_a_text_config_survives_transformers_json(size):
    config = SIZES[size].text
    assert configs.from_config_json("text", json.dumps(configs.config_json("text", config)).encode(), "config.json") == config


def test_the_published_image_towers_config_is_read_off_its_shapes_and_survives_transformers_json():
    config = SIZES["full"].image
    network = shapes.build("image", config)
    assert sum(p.numel() for p in network.parameters()) == 303_966_208
    assert shapes.infer("image", stored(dict(network.state_dict())), "file") == config
    for config in (SIZES["full"].image, SIZES["tiny"].image):
        text = json.dumps(configs.config_json("image", config)).encode()
        assert configs.from_config_json("image", text, "config.json") == config


def test_clips_legacy_end_of_text_id_means_the_last_token():
    text = json.dumps({**configs.config_json("text", SIZES["full"].text), "eos_token_id": 2}).encode()
    assert configs.from_config_json("text", text, "config.json") == SIZES["full"].text


@pytest.mark.parametrize("part", NETWORKS)
def test_values_survive_every_renaming_bit_by_bit(part):
    values = tiny(part)
    theirs = formats.to_diffusers(part, stored(values))
    assert_same(formats.parts_in(theirs, "file")[part], values)
    for prefixed in (True, False):
        assert_same(formats.parts_in(formats.to_comfyui({part: stored(values)}, prefixed), "file")[part], values)


def test_a_comfyui_checkpoint_may_hold_a_transposed_projection_an_image_tower_and_a_logit_scale():
    text, prior, image = tiny("text"), tiny("stage_c"), tiny("image")
    file = formats.to_comfyui({"text": stored(text), "stage_c": stored(prior), "image": stored(image)})
    whole = file.pop("text_encoder.clip_g.transformer.text_projection.weight").load()
    file |= stored({
        "text_encoder.clip_g.text_projection": whole.T.contiguous(),
        "text_encoder.clip_g.logit_scale": torch.ones(()),
        "clip_l_vision.vision_model.embeddings.position_ids": torch.arange(17),
    })  # fmt: skip
    parts = formats.parts_in(file, "file")
    assert_same(parts["text"], text)
    assert_same(parts["stage_c"], prior)
    assert_same(parts["image"], image)
    assert "clip_l_vision.visual_projection.weight" in file


def test_what_comfyuis_encoder_keeps_as_buffers_is_written_and_taken_off_again():
    file = formats.to_comfyui({"effnet": stored(tiny("effnet"))})
    assert torch.allclose(file["vae.encoder.mean"].load(), torch.tensor([0.485, 0.456, 0.406]))
    assert "mean" not in formats.parts_in(file, "file")["effnet"]


def test_a_file_of_another_model_is_refused_by_name():
    other = stored({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4)})
    with pytest.raises(UserError, match="is not a part of a Stable Cascade: .*input_blocks"):
        formats.parts_in(other, "sd15.safetensors")


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("fault", ["lacks", "unknown", "shape"])
def test_a_tensor_missing_extra_or_bent_is_an_error_that_names_it(part, fault):
    values = stored(tiny(part))
    victim = list(values)[3]
    if fault == "lacks":
        del values[victim]
    elif fault == "unknown":
        values[victim := "something.else"] = tensors.in_memory(torch.ones(2))
    else:
        values[victim] = tensors.in_memory(torch.ones(7, 7, 7))
    with pytest.raises(UserError, match=rf"{fault}.*{victim}|{victim}.*{fault}"):
        shapes.check(part, values, getattr(SIZES["tiny"], part), "file")


def test_a_width_whose_heads_nobody_published_is_not_guessed():
    odd = {**vars(SIZES["tiny"].stage_c), "widths": (48, 48), "heads": (3, 3)}
    values = stored(dict(shapes.build("stage_c", configs.CONFIGS["stage_c"](**odd)).state_dict()))
    with pytest.raises(UserError, match="attention heads of width 48"):
        shapes.infer("stage_c", values, "file")


# tensors


@relaxed
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 4))
def test_stacked_cut_transposed_and_converted_tensors_are_those_of_the_whole(heights, width):
    pieces = [torch.randn(height, width) for height in heights]
    whole = torch.cat(pieces)
    joined = tensors.stacked([tensors.in_memory(piece) for piece in pieces])
    half = whole.shape[0] // 2
    views = {
        joined: whole,
        tensors.rows(joined, half, whole.shape[0]): whole[half:],
        tensors.transposed(joined): whole.T.contiguous(),
        tensors.converted(joined, torch.bfloat16, "x"): whole.bfloat16(),
    }
    for view, wanted in views.items():
        found = view.load()
        assert torch.equal(found, wanted) and found.is_contiguous()
        assert (view.dtype, view.shape, view.bytes) == (wanted.dtype, tuple(wanted.shape), wanted.nbytes)


def test_what_we_write_the_safetensors_library_reads_and_the_other_way_round(tmp_path):
    values = {f"t.{code}": torch.arange(6).reshape(2, 3).to(kind) for code, kind in tensors.DTYPES.items()}
    values["scalar"] = torch.tensor(3)
    tensors.write_file(tmp_path / "ours", stored(values), {"modelspec.title": "caf\u00e9"})
    safetensors.torch.save_file(values, tmp_path / "theirs", {"modelspec.title": "caf\u00e9"})
    assert_same(stored(safetensors.torch.load_file(tmp_path / "ours")), values)
    for name in ("ours", "theirs"):
        opened = tensors.open_file(tmp_path / name)
        assert_same(opened.tensors, values)
        assert opened.metadata["modelspec.title"] == "caf\u00e9"


@relaxed
@given(st.integers(0, 10_000))
def test_a_file_cut_short_anywhere_is_refused(tmp_path, cut):
    whole = tmp_path / "whole"
    if not whole.exists():
        tensors.write_file(whole, stored({"a": torch.randn(30, 30), "b": torch.randn(5)}), {"k": "v"})
    content = whole.read_bytes()
    short = tmp_path / "short.safetensors"
    short.write_bytes(content[: cut % len(content)])
    with pytest.raises(UserError, match=r"cut short|is an empty file"):
        tensors.open_file(short)


@relaxed
@given(st.binary(max_size=200))
def test_noise_is_never_opened_and_never_crashes(tmp_path, noise):
    path = tmp_path / "noise.safetensors"
    path.write_bytes(struct.pack("<Q", len(noise)) + noise)
    with pytest.raises(UserError):
        opened = tensors.open_file(path)
        formats.parts_in(opened.tensors, str(path))
        raise UserError("empty", "no tensors")


@pytest.mark.parametrize("entry", [
    {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
    {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1]},
    [],
])  # fmt: skip
def test_a_broken_header_entry_is_one_sentence_that_names_the_file(tmp_path, entry):
    header = json.dumps({"layer.weight": entry}).encode()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match=r"/f: (is unfinished or foreign \(.+\); only|tensor layer\.weight is stored as C64)"):
        tensors.open_file(tmp_path / "f")


def test_a_file_that_shrinks_while_it_is_read_is_one_sentence(tmp_path):
    tensors.write_file(tmp_path / "f", stored({"a": torch.randn(3000, 100)}), {})
    opened = tensors.open_file(tmp_path / "f")
    with (tmp_path / "f").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="became shorter while it was read"):
        opened.tensors["a"].load()


def test_a_value_that_float16_cannot_hold_is_an_error_that_names_the_tensor():
    big = tensors.converted(tensors.in_memory(torch.tensor([1.0, -1e5])), torch.float16, "up_blocks.1.0.weight")
    with pytest.raises(UserError, match=r"up_blocks\.1\.0\.weight reaches 1e\+05 and overflows float16"):
        big.load()


def test_toml_of_a_config_reads_back_as_the_same_config():
    import tomllib

    for size in SIZES.values():
        for part, kind in configs.CONFIGS.items():
            if (config := getattr(size, part)) is None:
                continue
            table = tomllib.loads(to_toml({part: {"config": config}}))
            assert build(kind, table[part]["config"], "t") == config


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20)))
def test_any_text_survives_our_toml(table):
    import tomllib

    assert tomllib.loads(to_toml(table)) == table
