"""From drawings to a picture by the commands alone: curated, trained by the card's two tables, and drawn with the result."""

import re

import pytest
from click.testing import CliRunner
from PIL import Image
from training_run import SMALL, losses, model_folder

from sotediffusion.cli.main import sote as program
from sotediffusion.curate import catalogue
from sotediffusion.pictures.files import read_settings

COUNT, SEED = 6, 6001
SET = [argument for assignment in SMALL for argument in ("-s", assignment)]


def sote(*arguments):
    """The output of a command that must succeed."""
    done = CliRunner().invoke(program, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `drawn`, its `catalogue`, the tiny `model`, and `base` and `final` trained one on the other."""
    place = tmp_path_factory.mktemp("chain")
    model_folder(place / "model")
    sote("miniature", "draw", place / "drawn", "--count", COUNT, "--seed", SEED, "--processes", 1)
    sote("curate", "run", place / "drawn", "--out", place / "catalogue", "--preset", "miniature", "--workers", 1)
    train(place, "card-base", "model", "base", "train.steps=4", "train.batch=3", "train.micro=3")
    cut = median(row["score_miniature_aesthetic"] for row in kept(place))
    train(place, "card-final", "base/models/card-base", "final", "train.steps=0", "train.epochs=2", "train.text_lr=0",
          f"data.where='score_miniature_aesthetic > {cut}'", "train.batch=3", "train.micro=3")  # fmt: skip
    return place


def train(place, preset, model, out, *assignments):
    more = [argument for assignment in assignments for argument in ("-s", assignment)]
    sote("train", "run", preset, "--data", place / "catalogue", "--model", place / model, "--out", place / out, *SET, *more)


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2 - 1]


def kept(place):
    return [row for row in catalogue.read(place / "catalogue").to_table().to_pylist() if not row["dropped"]]


def draw(place, model):
    said = sote("generate", "1girl, solo", "--model", place / model, "--size", "128x128", "--steps", 2, "--decoder-steps", 1,
                "--seed", 1, "--out", place / "out" / model / "{seed}.png")  # fmt: skip
    return re.match(r"(\S+\.png)  seed 1 ", said)[1]


def test_base_sees_every_curated_picture_and_final_the_best_half_of_them(place):
    assert len(kept(place)) == COUNT
    assert list(losses(place / "base")) == [3, 6, 9, 12]
    assert list(losses(place / "final")) == [3, 6]


def test_what_the_two_runs_made_draws_and_each_draws_another_picture(place):
    models = ("model", "base/models/card-base", "final/models/card-final")
    pictures = [draw(place, model) for model in models]
    pixels = [Image.open(path).tobytes() for path in pictures]
    assert len(set(pixels)) == 3
    settings = read_settings(pictures[-1])
    assert (settings["model"], settings["prompt"]) == ("card-final", "1girl, solo")
