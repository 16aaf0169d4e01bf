"""Claims about the judge: what it is asked of a picture, how its answers are scored, that it learns, what the report says."""

import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_cascade

from sotediffusion.generate import draw
from sotediffusion.miniature.caption import tags_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.train.data import Batch
from sotediffusion.train.judging import GROUPS, HIDDEN, NAMES, SIZES, balanced_accuracy, effect_size, hits, mean_rate, targets_of
from sotediffusion.train.loop import Options, train
from sotediffusion.train.optim import Schedule
from sotediffusion.train.recipes import judge as reading
from sotediffusion.train.recipes.base import SETTLED_FROM
from sotediffusion.train.recipes.cells import Reader
from sotediffusion.train.recipes.judge import Judge, JudgeRecipe, Probe, ProbeRecipe
from sotediffusion.types import UserError

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import adherence  # noqa: E402

SCENES = [sample_scene(5, i) for i in range(1500)]
SHAPE = {"widths": (8, 8, 16, 16, 16), "layers": (1, 1, 1, 2, 1)}


def shown(tags: list[str], **groups: list[str]) -> dict[str, str | None]:
    """What a picture with these tags shows, by group."""
    targets = targets_of({"rest": tags} | groups)
    return {group.name: None if i == HIDDEN else group.choices[i] for group, i in zip(GROUPS, targets, strict=True)}


def small_judge() -> Judge:
    torch.manual_seed(0)
    return Judge(**SHAPE)


def test_a_picture_shows_the_tags_of_its_caption():
    found = shown(["1girl", "solo", "cat ears", "pink hair", "orange eyes", "long hair", "wavy hair", "looking at viewer",
                   "smile", "casual", "playing guitar", "indoors", "living room", "upper body"],
                  quality=["best quality"], date=["newest"], custom=['The text says "wow"', "anime wallpaper"])  # fmt: skip
    assert found | {"aesthetic": None} == {
        "girls": "1girl", "boys": "none", "hair colour": "pink hair", "hair length": "long hair", "hair style": "wavy hair",
        "eye colour": "orange eyes", "expression": "smile", "gaze": "looking at viewer", "ears": "cat ears", "headwear": "none",
        "glasses": "none", "blush": "none", "bare shoulders": "none", "outfit": "casual", "held": "playing guitar",
        "background": "living room", "framing": "upper body", "source": "anime wallpaper", "text": 'The text says "wow"',
        "monochrome": "none", "realistic": "none", "era": "newest", "aesthetic": None, "quality": "best quality",
    }  # fmt: skip


def test_what_a_scene_does_not_show_is_not_asked():
    for scene in SCENES:
        found = dict(zip(NAMES, targets_of(tags_of(scene)), strict=True))
        hidden = {name for name, target in found.items() if target == HIDDEN}
        expected = {"era"} if scene.source in ("pixiv", "visual novel cg") or scene.year is None else set()
        if len(scene.people) == 2:
            expected |= {group.name for group in GROUPS if group.personal}
        else:
            shut = scene.people[0].expression == "closed eyes"
            expected |= {"hair colour", "eye colour"} if scene.monochrome else set()
            expected |= {"eye colour", "gaze"} if shut else set()
            expected |= {"outfit"} if scene.framing == "portrait" else set()
        assert hidden == expected


def test_every_choice_occurs_and_none_is_in_two_groups():
    targets = np.array([targets_of(tags_of(scene)) for scene in SCENES])
    assert [set(column.tolist()) - {HIDDEN} for column in targets.T] == [set(range(size)) for size in SIZES]
    tags = [tag for group in GROUPS for tag in group.choices if tag != "none"]
    assert len(tags) == len(set(tags))


def test_balanced_accuracy_counts_every_choice_alike_however_rare():
    glasses = GROUPS[NAMES.index("glasses")]
    truth, told = np.array([0] * 9 + [1, HIDDEN]), np.zeros(11, int)
    assert balanced_accuracy(glasses, truth, told) == 0.5
    assert balanced_accuracy(glasses, truth, np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])) == pytest.approx((3 / 9 + 1) / 2)
    assert math.isnan(balanced_accuracy(glasses, np.array([HIDDEN]), np.array([1])))


def test_a_neighbouring_level_is_right_and_a_neighbouring_colour_is_not():
    truth, told = np.array([2, 2, 2, 2]), np.array([1, 2, 3, 4])
    assert hits(GROUPS[NAMES.index("quality")], truth, told).tolist() == [True, True, True, False]
    assert hits(GROUPS[NAMES.index("hair colour")], truth, told).tolist() == [False, True, False, False]


def test_groups_not_measured_or_left_out_do_not_count_in_a_mean():
    assert mean_rate({"a": 1.0, "b": math.nan, "c": 0.5, "d": 0.0}, without=("d",)) == 0.75
    assert math.isnan(mean_rate({"a": math.nan}))


def test_effect_size_is_the_difference_of_means_in_pooled_standard_deviations():
    high, low = np.array([4.0, 5.0, 6.0]), np.array([1.0, 3.0, 5.0])  # variances 1 and 4
    assert effect_size(high, low) == pytest.approx(2 / math.sqrt(2.5))
    assert effect_size(low, high) == -effect_size(high, low)
    assert effect_size(np.ones(2), np.zeros(2)) == math.inf and effect_size(np.ones(2), np.ones(2)) == 0


def test_a_hidden_group_teaches_nothing():
    logits = torch.zeros(2, sum(SIZES), requires_grad=True)
    targets = torch.full((2, len(GROUPS)), HIDDEN)
    targets[0, 2] = 1
    reading.reading_loss(logits, targets).backward()
    per_group = [gradient.abs().sum(1).gt(0).tolist() for gradient in logits.grad.split(SIZES, 1)]
    assert per_group == [[i == 2, False] for i in range(len(GROUPS))]
    assert reading.reading_loss(logits, torch.full_like(targets, HIDDEN)).item() == 0


def test_levels_lie_between_choices():
    logits = torch.full((1, sum(SIZES)), -100.0)
    start = sum(SIZES[: NAMES.index("era")])
    logits[0, start + 3 : start + 5] = 0
    assert reading.level(logits, "era").item() == pytest.approx(3.5)
    assert reading.told(logits)[0, NAMES.index("era")] == 3


class Fixed:
    """Eight pictures for ever."""

    def __init__(self):
        scenes = SCENES[:8]
        pictures = torch.from_numpy(np.stack([render(scene, 64, 64) for scene in scenes]))
        latents = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0)).half()
        self.identity = "eight"
        self.batch = Batch([(0, 0, i) for i in range(8)], [tags_of(s) for s in scenes], {"pictures": pictures, "effnet": latents})

    def batches(self, seed, images, size):
        while True:
            yield self.batch


@pytest.mark.parametrize("kind, network", [(JudgeRecipe, lambda: Judge(**SHAPE)), (ProbeRecipe, lambda: Probe(width=24))])
def test_readers_learn_eight_pictures_and_are_opened_again(tmp_path, kind, network):
    torch.manual_seed(0)
    recipe, losses = kind(Fixed(), network()), []
    options = Options(images=8 * 50, batch=8, lr=1e-2, ema=40, report_seconds=0, schedule=Schedule(warmup=0))
    name = kind.__name__.removesuffix("Recipe").lower()
    train(recipe, options, tmp_path / name, lambda status: losses.append(status.loss))
    assert losses[-1] < 0.5 * losses[0]
    reader, batch = reading.open_reader(tmp_path / name, network()), recipe.source.batch
    truth = reading.truth(batch)
    right = reading.told(reader(recipe.inputs(batch))) == truth
    assert right[truth != HIDDEN].float().mean() > 0.7


def test_at_last_a_picture_is_read_alike_alone_and_in_its_batch_and_so_it_is_kept():
    recipe = JudgeRecipe(Fixed(), small_judge())
    pictures = recipe.inputs(recipe.source.batch)
    torch.manual_seed(1)
    alone = lambda network: torch.cat([network(picture) for picture in pictures.split(1)])  # noqa: E731
    with torch.no_grad():
        recipe.settle()
        assert not torch.allclose(recipe.network(pictures), alone(recipe.network), atol=1e-3)
        recipe.progress = SETTLED_FROM
        recipe.settle()
        assert torch.allclose(recipe.network(pictures), alone(recipe.network), atol=1e-4)
        halved = {key: value / 2 for key, value in recipe.modules.state_dict().items()}
        kept = recipe.weights(halved)
    own = recipe.modules.state_dict()
    norms = {key for key in own if key.endswith(("running_mean", "running_var"))}
    assert norms and all(torch.equal(kept[key], own[key] if key in norms else halved[key]) for key in own if "num_" not in key)
    again = JudgeRecipe(Fixed(), small_judge())
    again.load_state_dict(recipe.state_dict())
    assert again.settled


def test_roughened_pictures_lose_their_quality_and_only_they():
    recipe, quality = JudgeRecipe(Fixed(), small_judge()), NAMES.index("quality")
    torch.manual_seed(1)
    pictures, targets = recipe.examples(recipe.source.batch)
    truth = reading.truth(recipe.source.batch)
    rough = targets[:, quality] == HIDDEN
    assert 0 < rough.sum() < 8 and torch.equal(targets[~rough], truth[~rough])
    others = [i for i in range(len(GROUPS)) if i != quality]
    assert torch.equal(targets[:, others], truth[:, others])
    torch.manual_seed(1)
    plain = reading.shift(recipe.inputs(recipe.source.batch))
    assert pictures.shape == (8, 3, 56, 56)
    assert [torch.equal(a, b) for a, b in zip(pictures, plain, strict=True)] == (~rough).tolist()


def test_a_picture_is_read_in_cuts_that_training_makes_of_it_too(monkeypatch):
    picture = torch.rand(3, 40, 56)
    cuts = reading.views(picture)
    places = iter([(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)])
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(next(places)))
    assert torch.equal(cuts, torch.cat([reading.shift(picture[None]) for _ in cuts]))


def test_the_judges_answer_is_the_mean_of_what_it_reads_in_five_cuts():
    judge, picture = small_judge().eval(), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1) / 255
    alone = [judge(pixels[:, top : top + 56, left : left + 88][None]) for top, left in ((4, 4), (0, 0), (0, 8), (8, 0), (8, 8))]
    assert torch.allclose(adherence.judged(judge, [picture, picture])[1], torch.cat(alone).mean(0), atol=1e-5)


def test_a_missing_judge_says_how_to_train_one(tmp_path):
    with pytest.raises(UserError, match="sote train miniature judge"):
        reading.open_reader(tmp_path / "judge", small_judge())


def test_the_judge_reads_pictures_of_any_size():
    network = small_judge().eval()
    assert network(torch.rand(1, 3, 128, 192)).shape == network(torch.rand(1, 3, 90, 61)).shape == (1, sum(SIZES))
    assert sum(p.numel() for p in Judge().parameters()) < 2.5e6


def test_a_reader_knows_where_a_cell_lies():
    torch.manual_seed(0)
    reader, features = Reader(4, 8, reading.OWNERS).eval(), torch.randn(1, 4, 3, 2)
    assert not torch.allclose(reader(features), reader(features.flip(2)), atol=1e-4)
    assert not torch.allclose(reader(features), reader(features.flip(3)), atol=1e-4)


def test_pairs_differ_in_the_asked_tag_only_and_prompts_are_escaped():
    source = adherence.cases(96 * 96, only_dated=True)
    for _ in range(5):
        case = next(source)
        newest, oldest = (case.request(adherence.Options(), date=tag) for tag in ("newest", "oldest"))
        assert newest.prompt.replace("newest", "oldest") == oldest.prompt and "newest" in newest.prompt
        assert replace(newest, prompt="") == replace(oldest, prompt="")
    novel = replace(case, tags={"custom": ["Ember and Ivy (eai)"]})
    assert novel.request(adherence.Options()).prompt == r"Ember and Ivy \(eai\)"


def test_tags_that_are_rare_in_training_are_asked_for_often():
    scenes = [adherence.asked_scene(i) for i in random.Random(0).sample(range(10_000), 300)]
    people = [p for scene in scenes for p in scene.people if not p.character]
    assert 0.4 < np.mean([p.glasses for p in people]) < 0.6 and 0.4 < np.mean([p.blush for p in people]) < 0.6
    assert np.mean([bool(scene.text) for scene in scenes]) > 0.15
    assert min(np.mean([scene.monochrome for scene in scenes]), np.mean([scene.realistic for scene in scenes])) > 0.1


def test_the_report_measures_a_tiny_cascade_and_names_what_it_could_not(tmp_path):
    options = adherence.Options(pictures=2, steps=1, decoder_steps=1, batch=4)
    text = adherence.report(tiny_cascade(), small_judge().eval(), None, options, tmp_path)
    assert (tmp_path / "adherence.md").read_text() == text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "not measured" in rows["tags read from EffNet latents, categorical"]
    assert ">= 90.0%" in rows["text -> picture, mean of the groups without eyes and text"]
    assert {"best quality against worst quality, effect size", "text -> picture, eye colour", *NAMES} <= rows.keys()
    assert (tmp_path / "adherence.png").stat().st_size > 10_000


def test_a_measurement_goes_on_with_the_pictures_that_were_drawn(tmp_path, monkeypatch):
    options, cascade = adherence.Options(pictures=2, steps=1, decoder_steps=1, batch=4), tiny_cascade()
    album = adherence.album_of(tmp_path, cascade, options)
    first = adherence.drawn(cascade, options, album)
    album.path("text", 1).unlink()
    asked = []
    monkeypatch.setattr(adherence, "draw", lambda cascade, requests, batch: asked.extend(requests) or draw(cascade, requests))
    again = adherence.drawn(cascade, options, album)
    assert [request.seed for request in asked] == [1]
    assert all(np.array_equal(a, b) for row in first.sheet for a, b in zip(first.sheet[row], again.sheet[row], strict=True))
    softer = replace(cascade, conventions=replace(cascade.conventions, guidance_unit=0.5))
    others = [adherence.album_of(tmp_path, cascade, replace(options, steps=2)), adherence.album_of(tmp_path, softer, options)]
    assert album.folder not in [other.folder for other in others]


def test_the_probe_reads_the_latents_of_the_cascade():
    cascade = tiny_cascade()
    logits = adherence.probed(cascade, Probe(width=8).eval(), [np.zeros((64, 96, 3), np.uint8)])
    assert logits.shape == (1, sum(SIZES))
