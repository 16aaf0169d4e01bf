"""Claims about the stand-ins: they learn what scenes are, see what the contracts show, and are exported number by number."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sotediffusion.cli.train_standins import standins
from sotediffusion.curate.inference.score import ClipScorer, ScoreSettings, ViTScorer
from sotediffusion.curate.inference.views import centre_view, square_view, squashed_view
from sotediffusion.curate.tag.step import Tagger
from sotediffusion.curate.tag.taglist import character_and_series
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.train.data import Folder, pixels
from sotediffusion.train.draw import Drawing, draw
from sotediffusion.train.loop import train
from sotediffusion.train.recipes import scorers, tagger
from sotediffusion.train.recipes.base import planes, read_part
from sotediffusion.train.standins import FOLDERS, export, open_world, recipe_of
from sotediffusion.train.standins_check import agreement, check
from sotediffusion.types import UserError

AREA = 147456
SHAPES = {
    "tagger": {"widths": (4, 4, 8, 8, 8), "layers": (1, 1, 1, 1, 1)},
    "aesthetic": {"hidden": 32, "layers": 1},
    "quality": {"hidden": 32, "layers": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    list(draw(path, 24, Drawing(seed=8, area=AREA)))
    return path


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """All three, tiny, trained for two or three steps."""
    path = tmp_path_factory.mktemp("runs")
    for name, shape in SHAPES.items():
        recipe, options = recipe_of(name, data, path / name, **shape)
        options = replace(options, images=24, batch=8, save_minutes=math.inf, bf16=False)
        assert train(recipe, options, path / name, lambda status: None).outcome == "finished"
    return path


@pytest.fixture(scope="module")
def models(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    export(runs, path)
    return path


@pytest.fixture(scope="module")
def pictures(data):
    """Four of one size, as drawn."""
    folder = Folder(data, {"pictures": "pictures"})
    return folder.read(folder.buckets[max(folder.buckets, key=lambda name: len(folder.buckets[name]))].tolist()[:4], 0, 0)


def test_the_exported_tagger_gives_the_torch_modules_numbers_for_any_batch(runs, models, pictures):
    opened = Tagger(models / FOLDERS["tagger"])
    about = json.loads((runs / "tagger" / "about.json").read_text())
    network = tagger.Tagger(len(about["tags"]), **SHAPES["tagger"])
    contract = tagger.Contract(read_part(runs / "tagger", "tagger", network)).eval()
    squares = np.stack([square_view().make(picture.numpy()) for picture in pictures.fields["pictures"]])
    with torch.no_grad():
        wanted = contract(torch.from_numpy(squares).float()).numpy()
    assert opened.batch is None and opened.size == 448
    np.testing.assert_allclose(opened.probabilities(squares), wanted, atol=2e-3)
    np.testing.assert_allclose(opened.probabilities(squares[:1]), opened.probabilities(squares)[:1], atol=1e-5)


def test_its_list_has_four_ratings_then_tags_by_falling_count_then_characters(models, data):
    tags = Tagger(models / FOLDERS["tagger"]).tags
    assert tags.of("9") == ["general", "sensitive", "questionable", "explicit"]
    assert [kind for i, kind in enumerate(tags.categories) if i == 0 or tags.categories[i - 1] != kind] == ["9", "0", "4"]
    for category in "04":
        counts = [count for count, kind in zip(tags.counts, tags.categories, strict=True) if kind == category]
        assert counts == sorted(counts, reverse=True) and counts[-1] >= 1
    assert all(character_and_series(name)[1] for name in tags.of("4"))
    assert {"1girl", "looking_at_viewer"} <= set(tags.of("0"))
    assert tags.counts[0] == 24


def test_a_pictures_tags_are_those_of_its_caption_as_boards_write_them():
    groups = {"custom": ['The text says "go"'], "rating": ["general"], "character": ["sorune"], "rest": ["1girl", "long hair"]}
    assert tagger.tags_shown(groups) == [
        ("general", 9), ("1girl", 0), ("long_hair", 0), ("english_text", 0), ("speech_bubble", 0), ("sorune_(moonlit_ledger)", 4),
    ]  # fmt: skip


def test_the_exported_aesthetic_network_sees_1024_px_as_the_trained_one_sees_256(runs, models, pictures):
    scorer = ViTScorer(models / FOLDERS["aesthetic"], ScoreSettings())
    scorer.open()
    network = scorers.ViTForImageClassification(scorers.vit_config(**SHAPES["aesthetic"]))
    read_part(runs / "aesthetic", "aesthetic", network)
    views = np.stack([scorer.view.make(picture.numpy()) for picture in pictures.fields["pictures"]])
    assert views.shape[1:] == (1024, 1024, 3)
    small = torch.nn.functional.avg_pool2d(planes(torch.from_numpy(views)).float(), 4)
    with torch.no_grad():
        logits = network(pixel_values=scorers.normalised(small, scorers.SHADOW_MEAN, scorers.SHADOW_STD)).logits
    np.testing.assert_allclose(scorer.score(views), (logits[:, 0] - logits[:, 1]).sigmoid().numpy(), atol=3e-3)


def test_the_exported_quality_network_and_mlp_give_the_recipes_scores_alone_and_in_a_batch(runs, models, pictures, data):
    scorer = ClipScorer(models / FOLDERS["quality"], ScoreSettings())
    scorer.open()
    world = open_world(data)
    recipe = scorers.QualityRecipe(world.folder, world.seed, **SHAPES["quality"])
    for part, module in recipe.modules.items():
        read_part(runs / "quality", part, module)
    views = np.stack([scorer.view.make(picture.numpy()) for picture in pictures.fields["pictures"]])
    seen = scorers.normalised(planes(torch.from_numpy(views)), scorers.CLIP_MEAN, scorers.CLIP_STD)
    with torch.no_grad():
        wanted = recipe.modules["mlp"](recipe.modules["quality"](pixel_values=seen).image_embeds).sigmoid().numpy()
    together = scorer.score(views)
    np.testing.assert_allclose(together, wanted, atol=5e-3)
    np.testing.assert_allclose(np.concatenate([scorer.score(views[i : i + 1]) for i in range(4)]), together, atol=1e-5)


def test_training_sees_what_the_contracts_show(pictures):
    batch = planes(pictures.fields["pictures"])
    raw = [picture.numpy() for picture in pictures.fields["pictures"]]

    def small(view, factor):
        found = pixels(torch.from_numpy(np.stack([view.make(picture) for picture in raw]).copy()))
        return torch.nn.functional.avg_pool2d(found, factor) if factor > 1 else found

    pairs = [
        (tagger.squared(batch), small(square_view(), 2).flip(1)),
        (scorers.resized(batch, 256, 256) / 255, small(squashed_view(1024), 4)),
        (scorers.centred(batch) / 255, small(centre_view(224), 1)),
    ]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 0.01
    assert (pairs[2][0] - pairs[2][1]).abs().max() < 2.5 / 255  # the same filter, in bytes too


@pytest.mark.parametrize("number", [0, 5, 31])
def test_damage_in_training_pictures_is_that_of_published_ones(number):
    """A view of the picture as published and one of the picture as drawn for training show the same grain and blur."""
    from sotediffusion.miniature.render import render

    scene = replace(sample_scene(3, number), quality=0.3)
    short = min(scene.width, scene.height)
    drawn = render(scene, round(scene.width * 320 / short), round(scene.height * 320 / short))
    views = [centre_view(224).make(picture).astype(np.float32) for picture in (render(scene, scene.width, scene.height), drawn)]
    grain = [np.abs(cv2.Laplacian(view.mean(2), cv2.CV_32F)).mean() for view in views]
    assert grain[1] == pytest.approx(grain[0], rel=0.2)


def test_varied_pictures_stay_whole_and_in_the_square(pictures):
    torch.manual_seed(0)
    batch = planes(pictures.fields["pictures"]) // 2  # nothing white, so that the frame can be told
    for _ in range(5):
        varied = tagger.squared(batch, varied=True)
        assert varied.shape[2:] == (224, 224)
        content = (varied < 0.99).any(1)
        height, width = content.any(2).sum(1), content.any(1).sum(1)
        assert (torch.maximum(height, width) >= 0.86 * 224).all()
        assert scorers.cut(batch).shape[2] >= 0.9 * batch.shape[2]


def test_the_truth_of_a_sample_is_that_of_its_scene(data):
    world = open_world(data)
    recipe = scorers.AestheticRecipe(world.folder, world.seed, **SHAPES["aesthetic"])
    quality = scorers.QualityRecipe(world.folder, world.seed, **SHAPES["quality"])
    for batch in (next(world.folder.batches(0, 0, 8)), next(world.folder.batches(1, 0, 8))):
        scenes = [sample_scene(8, key[2]) for key in batch.keys]
        assert recipe.truth(batch).tolist() == pytest.approx([scene.aesthetic for scene in scenes])
        assert quality.truth(batch).tolist() == pytest.approx([scene.quality for scene in scenes])
        from sotediffusion.miniature.caption import tags_of

        assert [tags_of(scene) for scene in scenes] == batch.tags


def test_pictures_too_small_for_damage_are_refused(tmp_path):
    list(draw(tmp_path / "small", 2, Drawing(1, 64 * 64)))
    with pytest.raises(UserError, match="--area 147456"):
        recipe_of("quality", tmp_path / "small", tmp_path / "run")


def test_a_run_of_another_shape_is_not_gone_on_with(data, tmp_path):
    recipe_of("aesthetic", data, tmp_path, **SHAPES["aesthetic"])
    with pytest.raises(UserError, match="choose another folder"):
        recipe_of("aesthetic", data, tmp_path, hidden=64, layers=1)


def test_patches_begin_as_waves_that_differ():
    weight = torch.zeros(128, 3, 16, 16)
    scorers.cosine_patches(weight, rise=2)
    rows = torch.nn.functional.normalize(weight.flatten(1), dim=1)
    assert (rows @ rows.T - torch.eye(128)).abs().max() < 0.05


def test_a_patch_of_half_the_contrast_stays_fainter_behind_the_first_norm(data):
    """CLIP's first norm alone would make them equal, and with them all amounts of blur and grain."""
    world = open_world(data)
    tower = scorers.QualityRecipe(world.folder, world.seed, **SHAPES["quality"]).modules["quality"].vision_model
    grain = torch.randn(2, 3, 224, 224) * 0.3
    with torch.no_grad():
        loud, faint = (tower.pre_layrnorm(tower.embeddings(grain * share))[:, 1:, :-2] for share in (1.0, 0.5))
    assert faint.std() / loud.std() < 0.85


def test_first_embeddings_differ_between_pictures_as_much_as_they_agree(data):
    world = open_world(data)
    recipe = scorers.QualityRecipe(world.folder, world.seed, **SHAPES["quality"])
    batch = next(world.folder.batches(0, 0, 16))
    with torch.no_grad():
        embeds = recipe.modules["quality"](pixel_values=recipe.seen(batch, varied=False)).image_embeds
    unit = torch.nn.functional.normalize(embeds, dim=1)
    assert unit.var(0).sum() > 0.2


def test_precision_and_recall_count_tags_over_all_pictures():
    found = agreement([{"a", "b"}, {"a"}], [{"a"}, {"a", "c"}])
    assert found == (2 / 3, 2 / 3, [("b", 1, 0), ("c", 0, 1)])
    assert scorers.rank_correlation(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.9, 0.8])) == pytest.approx(0.8)


def test_the_check_draws_unseen_scenes_and_compares(models):
    done = []
    found = check(models, 3, 77, done.append)
    assert done == [3] and 0 <= found.precision <= 1 and -1 <= found.aesthetic <= 1 and -1 <= found.quality <= 1


def test_the_commands_train_export_and_say_what_is_missing(data, runs, tmp_path):
    run = CliRunner().invoke
    assert "To resume" in run(standins, ["tagger", "--help"]).output
    done = run(standins, ["export", str(runs), str(tmp_path / "models")])
    assert done.exit_code == 0 and "MiB in all" in done.output
    assert isinstance(run(standins, ["export", str(tmp_path), str(tmp_path / "x")]).exception, UserError)
    trained = run(standins, ["aesthetic", "--data", str(data), "--out", str(tmp_path), "--images", "8", "--batch", "4", "--fp32"])
    assert trained.exit_code == 0 and "aesthetic finished at 8 images" in trained.output
