"""The tagging step: what it keeps of a tagger's answers, on which device, and what it says of models that are none."""

import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from tiny_models import colour_tagger, constant_tagger, write_tags

from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.inference.runtime import check_provider, choose_provider, open_session, wants_gpu
from sotediffusion.curate.tag.step import Tagger, TagSettings, TagStep, above_floor
from sotediffusion.curate.tag.taglist import keep_taglist, read_taglist
from sotediffusion.types import UserError

GENERAL = ["1girl", "long_hair", "smile", "^_^"]
SIZE = 32


def views(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def step_of(models, **settings) -> TagStep:
    usual = {"model": "tiny", "size": SIZE, "floor": 0.05, "provider": "cpu", "threads": 1}
    return TagStep(TagSettings(**{**usual, **settings}), models)


@pytest.fixture
def models(tmp_path):
    colour_tagger(tmp_path / "tiny", GENERAL, ["saber_(fate)"], SIZE)
    return tmp_path


def look(step: TagStep, seen: np.ndarray) -> pa.RecordBatch:
    step = pickle.loads(pickle.dumps(step))
    step.setup()
    return step.look(pa.record_batch({"row": np.arange(len(seen))}), {step.views[0].name: seen})


def test_probabilities_above_the_floor_are_kept_in_the_order_of_the_list(models):
    seen = np.broadcast_to(views(7)[:, :1, :1] // 128 * 255, (7, SIZE, SIZE, 3))  # pure colours, which it is surest about
    found = look(step_of(models, floor=0.25, batch=3), seen)
    raw = Tagger(models / "tiny", "cpu", 1).probabilities(seen)
    assert found.schema == TagStep.writes and len(found) == 7
    for row, probabilities in zip(found.to_pylist(), raw, strict=True):
        ids = [place for place in range(4, len(probabilities)) if probabilities[place] >= np.float32(0.25)]
        assert row["tag_ids"] == ids
        assert row["tag_probs"] == [float(np.float16(probabilities[place])) for place in ids]
        assert np.array_equal(np.float32(row["rating_probs"]), probabilities[:4])
    assert 0 < sum(map(len, found["tag_ids"].to_pylist())) < 7 * 5


def test_no_pictures_give_no_rows(models):
    assert look(step_of(models), views(0)).num_rows == 0


def test_a_picture_without_tags_has_empty_lists():
    found = above_floor(np.zeros((2, 9), np.float32), 0.05)
    assert found.to_pylist() == [{"tag_ids": [], "tag_probs": [], "rating_probs": [0, 0, 0, 0]}] * 2


def test_batches_of_any_size_give_the_same(models):
    seen = views(9)
    assert look(step_of(models, batch=1), seen).equals(look(step_of(models, batch=64), seen))


def test_a_model_of_a_fixed_batch_is_filled_up(tmp_path):
    colour_tagger(tmp_path / "tiny", GENERAL, [], SIZE)
    colour_tagger(tmp_path / "fixed", GENERAL, [], SIZE, batch=4)
    fixed = Tagger(tmp_path / "fixed", "cpu", 1)
    assert fixed.batch == 4
    seen = views(10)
    assert np.allclose(fixed.probabilities(seen), Tagger(tmp_path / "tiny", "cpu", 1).probabilities(seen), atol=1e-6)


def test_the_contract_is_bgr_from_0_to_255(models):
    """The tagger sees the mean blue, green and red of what it is given."""
    tagger = Tagger(models / "tiny", "cpu", 1)
    flat = np.full((1, SIZE, SIZE, 3), (200, 10, 30), np.uint8)
    weights = np.random.default_rng(0).normal(0, 0.006, (3, 9)).astype(np.float32)
    assert np.allclose(tagger.probabilities(flat)[0], 1 / (1 + np.exp(-np.float32([200, 10, 30]) @ weights)), atol=1e-5)


def test_identity_follows_what_results_depend_on_and_nothing_else(models):
    identity = step_of(models).identity()
    assert step_of(models, batch=99, threads=3).identity() == identity
    assert step_of(models, floor=0.1).identity() != identity
    colour_tagger(models / "tiny", GENERAL, ["saber_(fate)"], SIZE, seed=1)
    changed = step_of(models).identity()
    assert changed != identity and changed["tags"] == identity["tags"]
    write_tags(models / "tiny", GENERAL[::-1], ["saber_(fate)"])
    assert step_of(models).identity()["tags"] != identity["tags"]


def test_a_catalogue_keeps_the_list_under_its_hash(models, tmp_path):
    step = step_of(models)
    store = Store(tmp_path / "catalogue")
    kept = tmp_path / "catalogue" / keep_taglist(step.taglist, store)
    assert kept == tmp_path / "catalogue" / "taglists" / f"{step.identity()['tags']}.csv"
    assert read_taglist(kept).names == read_taglist(step.taglist).names
    assert tmp_path / "catalogue" / keep_taglist(step.taglist, store) == kept


def test_a_missing_tagger_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as told:
        TagStep(TagSettings(), tmp_path)
    assert "sote curate models download wd-swinv2-tagger-v3" in str(told.value) and "--skip tag" in str(told.value)
    with pytest.raises(UserError, match="--models"):
        TagStep(TagSettings(model="mine"), tmp_path)


def test_half_a_tagger_is_missing_too(models):
    (models / "tiny" / "selected_tags.csv").unlink()
    with pytest.raises(UserError, match="has no selected_tags.csv"):
        step_of(models)


@pytest.mark.parametrize(("provider", "built", "gpus"), [
    ("cpu", "CUDA", 0), ("cuda", "CPU", 1), ("openvino", "CPU", 1), ("migraphx", "CPU", 1), ("rocm", "CPU", 1),
    ("auto", "CPU", 0), ("auto", "CUDA", 1), ("auto", "OpenVINO", 1),
])  # fmt: skip
def test_a_cluster_is_asked_for_a_gpu_where_the_tagger_runs_on_one(models, monkeypatch, provider, built, gpus):
    there = [f"{built}ExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    assert step_of(models, provider=provider).gpus == gpus


def test_devices_as_torch_calls_them_are_gpus_too():
    assert [wants_gpu(device) for device in ("cpu", "cuda", "cuda:1", "xpu", "xpu:0")] == [False, True, True, True, True]


def test_a_device_that_is_not_here_is_an_error_and_never_the_cpu(models):
    with pytest.raises(UserError) as told:
        look(step_of(models, provider="cuda"), views(1))
    assert "onnxruntime-gpu" in str(told.value) and "CPUExecutionProvider" in str(told.value)
    with pytest.raises(UserError, match="nearest first, cpu"):
        look(step_of(models, provider="cpuu"), views(1))


def test_a_device_that_is_listed_and_does_not_load_is_an_error():
    with pytest.raises(UserError, match="onnxruntime-openvino"):
        check_provider("openvino", ["CPUExecutionProvider"])
    check_provider("cuda", ["CUDAExecutionProvider"])


def test_auto_takes_the_best_there_is():
    assert choose_provider("auto", ["AzureExecutionProvider", "CPUExecutionProvider"]) == "cpu"
    assert choose_provider("auto", ["CPUExecutionProvider", "CUDAExecutionProvider"]) == "cuda"


def test_the_provider_that_runs_is_shown(models):
    assert Tagger(models / "tiny").provider == "CPUExecutionProvider"


def test_other_models_are_told_apart(tmp_path):
    colour_tagger(tmp_path / "tiny", GENERAL, [], SIZE)
    with pytest.raises(UserError, match="tag.size: 448 is not what .* set 32"):
        look(step_of(tmp_path, size=448), views(1))
    write_tags(tmp_path / "tiny", GENERAL[:2], [])
    with pytest.raises(UserError, match="its list names 6 tags"):
        look(step_of(tmp_path), views(1))
    (tmp_path / "tiny" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="does not open on cpu"):
        open_session(tmp_path / "tiny" / "model.onnx", "cpu")


def test_the_published_size_is_read_from_the_list_and_never_assumed(tmp_path):
    """10861 outputs, as wd-swinv2-tagger-v3 has; the split into general tags and characters is the list's business."""
    general = {f"tag_{n}": 0.5 if n % 1000 == 0 else 0.001 for n in range(8000)}
    characters = {f"someone_{n}_(series)": 0.9 if n == 2856 else 0.0 for n in range(2857)}
    constant_tagger(tmp_path / "tiny", general, characters, size=SIZE)
    found = look(step_of(tmp_path), views(2)).to_pylist()
    assert found[0]["tag_ids"] == [4 + n for n in range(0, 8000, 1000)] + [10860]
    assert found[0] == found[1]


def test_a_stand_in_of_another_size_opens_by_the_same_code(models):
    shutil.move(models / "tiny", models / "stand-in")
    assert look(step_of(models, model="stand-in"), views(2)).num_rows == 2
