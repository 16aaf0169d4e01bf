"""Claims about what a run is told: presets as the card has them, layers in their order, mixes that cannot hold refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_run import PRESETS, settings

from sotediffusion.config import build, plain, to_toml
from sotediffusion.train.contradictions import check, check_pattern, notes, schedule_of
from sotediffusion.train.loop import due
from sotediffusion.train.settings import Settings, images_of, length, presets, resolve
from sotediffusion.types import UserError

CARD = {  # the published model card's two tables
    "card-base": {"lr": 1e-5, "text_lr": 4e-6, "batch": 128, "epochs": 3},
    "card-final": {"lr": 4e-6, "text_lr": 0, "batch": 128, "epochs": 16},
}


@pytest.mark.parametrize("name", CARD)
@pytest.mark.parametrize("recipe", ["default", "kohya"])
def test_the_cards_presets_are_its_tables_under_either_recipe(name, recipe):
    own = resolve(name, [f"recipe={recipe}"], PRESETS)
    assert {key: getattr(own.train, key) for key in CARD[name]} == CARD[name]
    assert (own.optimizer.kind, own.precision.compute, own.precision.weights) == ("adafactor", "bfloat16", "float32")
    assert own.save.dtype == "float16" and own.data.buckets.resolution == 1024
    assert (own.objective.weight, own.objective.distance, own.objective.shift) == ("p2", "mse", 1.0)


def test_the_recipes_differ_in_what_the_card_leaves_open():
    ours, kohya = (resolve("card-base", [f"recipe={name}"], PRESETS) for name in ("default", "kohya"))
    assert (ours.text_mask, ours.data.buckets.scale, ours.data.captions.dropout) == ("model", 0.75, 0.05) and ours.train.ema > 0
    assert (kohya.text_mask, kohya.data.buckets.scale, kohya.data.captions.dropout, kohya.train.ema) == ("unmasked", 1.0, 0.0, 0)
    assert kohya.data.captions.form == "kohya" and kohya.data.captions.kohya.shuffle_caption and kohya.data.buckets.step == 64


def test_other_presets_change_what_they_are_for():
    v2, economy, b = (resolve(name, [], PRESETS) for name in ("card-v2", "economy", "stage-b"))
    assert (v2.objective.distance, v2.precision.compute, v2.data.captions.order) == ("mae", "float32", "fixed")
    assert economy.memory.fused and economy.train.batch == economy.train.micro
    assert b.train.part == "stage_b" and b.objective.pyramid == 0.75
    kohya = resolve("card-v2", ["recipe=kohya"], PRESETS).data.captions
    assert (kohya.form, kohya.kohya.shuffle_caption) == ("kohya", False)


@pytest.mark.parametrize("name", presets(PRESETS))
@pytest.mark.parametrize("recipe", ["default", "kohya"])
def test_every_preset_holds_together_and_comes_back_from_what_is_written_beside_a_run(name, recipe, tmp_path):
    own = resolve(name, [f"recipe={recipe}"], PRESETS)
    check(own, 1)
    (tmp_path / "settings.toml").write_text(to_toml(own))
    again = resolve(str(tmp_path / "settings.toml"), [], PRESETS)
    assert plain(again) == plain(own)


def test_the_command_line_goes_before_the_preset_that_before_its_like_and_that_before_the_recipe(tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text('like = "card-base"\n[train]\nlr = 2e-5\n[data.captions]\ndropout = 0.2\n')
    own = resolve(str(preset), ["train.lr=3e-5"], PRESETS)
    assert (own.train.lr, own.train.text_lr, own.data.captions.dropout, own.text_mask) == (3e-5, 4e-6, 0.2, "model")


@pytest.mark.parametrize("preset, assignments, message", [
    ("card-bas", [], "preset: 'card-bas' is not known; known are, nearest first, card-base"),
    ("card-base", ["recipe=koya"], "recipe: 'koya' is not known; known are, nearest first, kohya"),
    ("card-base", ["train.learning_rate=1"], "train.learning_rate: 'learning_rate' is not known"),
    ("card-base", ["train.batch=many"], "train.batch: 'many' is not a whole number"),
    ("card-base", ["precision.compute=float16"], "precision.compute: 'float16' is not known; known are, nearest first, bfloat16"),
])  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(preset, assignments, message):
    with pytest.raises(UserError, match=message):
        resolve(preset, assignments, PRESETS)


CONTRADICTIONS = {
    "optimizer.arguments.relative_step: true lets adafactor choose": ["optimizer.arguments.relative_step=true"],
    "train: steps and epochs|epochs and steps": ["train.epochs=2"],
    "train: nothing says when the run ends": ["train.steps=0"],
    "train.lr: nothing is trained": ["train.lr=0", "train.text_lr=0"],
    "captions.order: it means nothing with captions.form=kohya": ["recipe=kohya", "data.captions.order=fixed"],
    "train.micro: -1 is below 0": ["train.micro=-1"],
    "train.text_lr: Stage B is trained alone": ["train.part=stage_b"],
    "train.text_lr: a step of 4e-06 reaches 4": ["precision.weights=bfloat16", "train.lr=1e-3", "train.text_lr=4e-6"],
    "cannot add those of 2 micro-batches": ["memory.fused=true"],
    "optimizer.kind: prodigy looks at all tensors": [
        "memory.gather=host", "optimizer.kind=prodigy", "train.lr=1", "train.text_lr=1"],
    "lr: 0.0004 is a factor on the rate that prodigy finds": ["optimizer.kind=prodigy"],
    "schedule-free averages weights by itself": ["optimizer.kind=schedule-free"],
    "schedule.restarts: 2 restarts mean nothing to constant": ["schedule.restarts=2"],
    "schedule.warmup: 'ten steps' is no amount": ["schedule.warmup='ten steps'"],
    "objective.weight: 'p3' is unknown": ["objective.weight=p3"],
    "memory.compile: 'inductr' is not known; known are, nearest first, inductor": ["memory.compile=inductr"],
    "memory.recompute_share: 0 is no share": ["memory.recompute_share=0"],
    "save.format: 'kohia' is not known; known are, nearest first, kohya": ["save.format=kohia"],
    "save.dtype: 'half' is not known": ["save.dtype=half"],
    "save.pattern: 'epochs' is not known; known are, nearest first, epoch": ["save.pattern='{name}-{epochs}'"],
    "would give every model the same name": ["save.every=100", "save.pattern='{name}'"],
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_contradictions_are_one_sentence_before_anything_is_opened(message):
    own = settings(*CONTRADICTIONS[message])
    with pytest.raises(UserError, match=message) as told:
        check(own, 1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("assignments, message", [
    (["train.batch=2", "train.micro=0"], "train.batch: 2 samples a step are not enough for 3 processes"),
    (["memory.gather=host"], "with 3 take distributed.sharding=fsdp"),
    (["precision.weights=bfloat16"], "precision.weights: bfloat16 weights are for one process"),
    (["distributed.sharding=fsdp", "optimizer.kind=lion"], "lion does not know weights that are spread"),
    (["distributed.sharding=fsdp", "memory.average=host"], "memory.average: averages of weights that are spread"),
])  # fmt: skip
def test_what_several_processes_cannot_do_is_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        check(settings(*assignments), 3)


@pytest.mark.parametrize("pattern", ["{name}/{steps}", "..", "{name", "{name:q}", "{0}"])
def test_names_of_models_are_plain(pattern):
    with pytest.raises(UserError, match=r"save.pattern: "):
        check_pattern("save.pattern", pattern)


def test_amounts_are_in_images_steps_or_epochs():
    amounts = (7, "7", "7 images", "2 steps", "1 step", "0.5 epochs", "1 epoch")
    found = [images_of("x", amount, 128, 1000) for amount in amounts if amount != "7"]
    assert found == [7, 7, 256, 128, 500, 1000]
    assert images_of("x", "11 steps", 8, 30) == 2 * 30 + 3 * 8  # the fourth step of each epoch has 6
    with pytest.raises(UserError, match="x: '7' is no amount; write for example"):
        images_of("x", "7", 128, 1000)


def test_a_schedule_counts_the_optimizers_steps_whatever_the_number_of_processes_and_micro_batches():
    own = [settings("schedule.warmup='5 steps'", "schedule.shape=cosine", f"train.micro={micro}") for micro in (0, 1, 4)]
    assert len({schedule_of(one, 1000) for one in own}) == 1 and schedule_of(own[0], 1000).warmup == 5 * 8
    assert length(own[0].train, 1000) == 6 * 8
    assert length(build(Settings, {"train": {"epochs": 1.5}}).train, 1000) == 1500


def test_a_warm_up_that_takes_most_of_a_run_is_told():
    (told,) = notes(resolve("miniature-base", ["train.epochs=1"], PRESETS), 40)
    assert "first 4000 images and the run has 40" in told  # 200 steps, of which an epoch has 2
    assert notes(resolve("card-base", [], PRESETS), 6_200_000) == notes(settings("schedule.warmup=0"), 40) == []


@given(st.integers(1, 50), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_what_is_due_every_so_often_is_due_once_for_each_multiple_that_was_passed(every, steps):
    images, found = 0, 0
    for step in steps:
        images += step
        found += due(every, images, step)
    assert found <= images // every and (max(steps) > every or found == images // every)
