"""Scores: each scorer to its contract, whatever the batch; missing models, and those of other contracts, said in a sentence."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from onnx import helper
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import CLIP, SHADOW, clip_folder, mlp_weights, shadow_folder, write_onnx
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from sotediffusion.curate.inference.score import SCORERS, ScoreSettings, ScoreStep, column_of, mlp_scores, score_steps, unit_rows
from sotediffusion.types import UserError

SHADOW_V2, AES = "aesthetic-shadow-v2", "aes-B32-v0"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    shadow_folder(folder / SHADOW_V2)
    clip_folder(folder / AES)
    return folder


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = random.integers(65, 140, (count, 2))
    return [np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((20, 20, 1)))[:h, :w].astype(np.uint8) for h, w in sizes]


def score(step: ScoreStep, images: list[np.ndarray]) -> pa.RecordBatch:
    step = pickle.loads(pickle.dumps(step))
    step.setup()
    view = step.views[0]
    seen = np.stack([view.make(image) for image in images])
    return step.look(pa.record_batch({"row": np.arange(len(images))}), {view.name: seen})


def test_aesthetic_shadow_is_the_softmax_of_hq(models):
    """The same through transformers' own preprocessor and model, one picture at a time."""
    processor = ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=2, **SHADOW)
    model = ViTForImageClassification.from_pretrained(models / SHADOW_V2).eval()
    images = pictures(5)
    with torch.inference_mode():
        logits = [model(**processor(image, return_tensors="pt")).logits[0] for image in images]
    found = score(ScoreStep(SHADOW_V2, ScoreSettings(), models), images)
    assert found.schema == pa.schema([("score_aesthetic_shadow_v2", pa.float32())])
    assert np.allclose(found[0].to_numpy(), [torch.sigmoid(row[0] - row[1]).item() for row in logits], atol=1e-6)
    assert np.ptp(found[0].to_numpy()) > 1e-3


def test_hq_is_found_by_its_name_and_not_by_its_place(models, tmp_path):
    """The same weights, labels the other way round: the other probability."""
    shadow_folder(tmp_path / SHADOW_V2, labels=("lq", "hq"))
    images = pictures(3)
    one, other = (score(ScoreStep(SHADOW_V2, ScoreSettings(), folder), images)[0].to_numpy() for folder in (models, tmp_path))
    assert np.allclose(one + other, 1, atol=1e-6)


def test_aes_is_the_mlp_on_clips_own_embedding_on_the_unit_sphere(models):
    """The same through transformers' whole CLIP and torch's layers, one picture at a time."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, **CLIP)
    clip = CLIPModel.from_pretrained(models / AES).eval()
    weights = load_file(models / AES / "mlp.safetensors")
    images, wanted = pictures(5), []
    with torch.inference_mode():
        for image in images:
            embeds = clip.get_image_features(**processor(image, return_tensors="pt"))
            x = embeds if isinstance(embeds, torch.Tensor) else embeds.pooler_output
            x = x / x.norm()
            for name in ("fc1", "fc2", "fc3"):
                x = torch.nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
                x = x.relu() if name != "fc3" else x.sigmoid()
            wanted.append(x.item())
    found = score(ScoreStep(AES, ScoreSettings(), models), images)
    assert found.schema.names == ["score_aes_b32_v0"]
    assert np.allclose(found[0].to_numpy(), wanted, atol=1e-6)
    assert np.ptp(wanted) > 1e-3


@pytest.mark.parametrize("name", [SHADOW_V2, AES])
def test_one_picture_at_a_time_equals_sixty_four(models, name):
    images = pictures(64)
    alone = score(ScoreStep(name, ScoreSettings(batch=1), models), images)[0].to_numpy()
    together = score(ScoreStep(name, ScoreSettings(batch=64), models), images)[0].to_numpy()
    assert np.abs(alone - together).max() < 1e-6


def test_dividing_by_the_batchs_norm_would_not_be_the_same():
    """What the per-row norm guards against: the inputs would shrink with the square root of the batch."""
    embeds = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    weights = {name: tensor.numpy() for name, tensor in mlp_weights().items()}
    right = mlp_scores(weights, unit_rows(embeds))
    wrong = mlp_scores(weights, embeds / np.linalg.norm(embeds))
    assert np.abs(right - wrong).max() > 0.01
    assert np.allclose(np.linalg.norm(unit_rows(embeds), axis=1), 1, atol=1e-6)


def test_scores_far_from_the_middle_neither_overflow_nor_leave_0_to_1():
    weights = {name: tensor.numpy() * 50 for name, tensor in mlp_weights(4).items()}
    with np.errstate(all="raise", under="ignore"):
        found = mlp_scores(weights, np.float32([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0]]))
    assert found.dtype == np.float32 and ((found >= 0) & (found <= 1)).all()


def test_aes_stays_in_32_bits_where_the_other_may_not(models):
    settings = ScoreSettings(precision="bfloat16")
    exact, rough = (score(ScoreStep(name, settings, models), pictures(4))[0].to_numpy() for name in (AES, SHADOW_V2))
    assert np.array_equal(exact, score(ScoreStep(AES, ScoreSettings(), models), pictures(4))[0].to_numpy())
    assert np.allclose(rough, score(ScoreStep(SHADOW_V2, ScoreSettings(), models), pictures(4))[0].to_numpy(), atol=0.05)
    assert ScoreStep(SHADOW_V2, settings, models).identity() != ScoreStep(SHADOW_V2, ScoreSettings(), models).identity()
    assert ScoreStep(AES, settings, models).identity() == ScoreStep(AES, ScoreSettings(batch=3), models).identity()


def test_ranks_become_their_expectation(tmp_path):
    """The third kind, in ONNX: labels in any order, RGB from -1 to 1."""
    folder = tmp_path / "anime-aesthetic"
    folder.mkdir()
    labels = ["masterpiece", "worst", "low", "normal", "good", "great", "best"]
    (folder / "meta.json").write_text(json.dumps({"labels": labels}))
    weights = np.random.default_rng(0).normal(0, 1, (3, 7)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input_1"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["predictions"], axis=1),
    ]
    write_onnx(folder / "model.onnx", nodes, {"weights": weights}, ("N", 3, 448, 448), 7)
    images = pictures(3)
    found = score(ScoreStep("anime-aesthetic", ScoreSettings(threads=1), tmp_path), images)["score_anime_aesthetic"].to_numpy()
    for image, value in zip(images, found, strict=True):
        small = np.asarray(Image.fromarray(image).resize((448, 448), Image.Resampling.BILINEAR), np.float32)
        logits = ((small / 255 - 0.5) / 0.5).mean(axis=(0, 1)) @ weights
        shares = np.exp(logits) / np.exp(logits).sum()
        assert abs(value - shares @ np.array([6, 0, 1, 2, 3, 4, 5]) / 6) < 1e-4
    (folder / "meta.json").write_text(json.dumps({"labels": ["cat", "dog"]}))
    with pytest.raises(UserError, match="not worst, low"):
        ScoreStep("anime-aesthetic", ScoreSettings(), tmp_path).setup()


def test_each_scorer_is_a_step_of_its_own(models):
    steps = score_steps(ScoreSettings(), models)
    assert [step.name for step in steps] == ["score_aesthetic_shadow_v2", "score_aes_b32_v0"]
    assert [step.writes.names for step in steps] == [[step.name] for step in steps]
    assert len({step.views[0].name for step in steps}) == 2
    assert steps[0].identity() != steps[1].identity()


def test_identity_follows_the_weights(models, tmp_path):
    clip_folder(tmp_path / AES)
    before = ScoreStep(AES, ScoreSettings(), tmp_path).identity()
    save_file(mlp_weights(16, seed=1), tmp_path / AES / "mlp.safetensors")
    assert ScoreStep(AES, ScoreSettings(), tmp_path).identity() != before


def test_columns_are_named_after_scorers_and_no_two_alike():
    columns = [column_of(name) for name in SCORERS]
    assert len(set(columns)) == len(columns)
    assert all(column.replace("_", "").isalnum() and column.islower() for column in columns)


def test_missing_and_unknown_scorers_are_told(tmp_path):
    with pytest.raises(UserError) as told:
        score_steps(ScoreSettings(), tmp_path)
    assert "sote curate models download aesthetic-shadow-v2" in str(told.value) and "--skip score" in str(told.value)
    assert "CC-BY-NC-4.0" in str(told.value)
    with pytest.raises(UserError, match="nearest first, aesthetic-shadow-v2"):
        score_steps(ScoreSettings(("aesthetic-shadow",)), tmp_path)


def test_models_of_another_contract_are_told(tmp_path):
    shadow_folder(tmp_path / SHADOW_V2, labels=("cat", "dog"))
    with pytest.raises(UserError, match="none is 'hq'"):
        ScoreStep(SHADOW_V2, ScoreSettings(), tmp_path).setup()
    about = json.loads((tmp_path / SHADOW_V2 / "preprocessor_config.json").read_text())
    (tmp_path / SHADOW_V2 / "preprocessor_config.json").write_text(json.dumps(about | {"resample": 9}))
    with pytest.raises(UserError, match="resample"):
        ScoreStep(SHADOW_V2, ScoreSettings(), tmp_path)
    (tmp_path / SHADOW_V2 / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match="preprocessor_config.json"):
        ScoreStep(SHADOW_V2, ScoreSettings(), tmp_path)


def test_weights_that_lack_some_are_never_filled_in_at_random(models, tmp_path):
    clip_folder(tmp_path / AES)
    whole = load_file(tmp_path / AES / "model.safetensors")
    save_file({name: value for name, value in whole.items() if name != "visual_projection.weight"},
              tmp_path / AES / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match="lacks 1 weights, visual_projection.weight"):
        ScoreStep(AES, ScoreSettings(), tmp_path).setup()


def test_an_mlp_of_other_sizes_is_told(tmp_path):
    clip_folder(tmp_path / AES)
    save_file(mlp_weights(24), tmp_path / AES / "mlp.safetensors")
    with pytest.raises(UserError, match="24 numbers and the CLIP beside it gives 16"):
        ScoreStep(AES, ScoreSettings(), tmp_path).setup()


def test_the_published_sizes_fit_their_contracts():
    """Built without memory: aesthetic-shadow-v2's 1.09 billion weights, and CLIP ViT-B/32 with 512 numbers for the MLP."""
    with torch.device("meta"):
        shadow = ViTForImageClassification(ViTConfig(
            hidden_size=1536, intermediate_size=4192, num_hidden_layers=48, num_attention_heads=16, patch_size=64,
            image_size=1024, id2label={0: "hq", 1: "lq"}, label2id={"hq": 0, "lq": 1}))  # fmt: skip
        clip = CLIPVisionModelWithProjection(CLIPConfig().vision_config)
    bytes_of = sum(value.numel() for value in shadow.parameters()) * 4
    assert abs(bytes_of / 4.37e9 - 1) < 0.01
    assert shadow.vit.embeddings.position_embeddings.shape == (1, 257, 1536)
    assert clip.visual_projection.weight.shape[0] == mlp_weights()["fc1.weight"].shape[1] == 512
    assert ScoreSettings().scorers == (SHADOW_V2, AES)
