"""A claim about the text tower's training: every tag of a caption can be told, by attention and from the pooled vector."""

import math
from dataclasses import replace

import torch

from sotediffusion.models.cascade import SIZES
from sotediffusion.train.captions import Captioning, Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, train
from sotediffusion.train.optim import Schedule
from sotediffusion.train.recipes.text import TextRecipe

WORDS = ["red", "green", "blue", "grey", "hair", "dress"]
TAGS = [f"{color} {thing}" for color in WORDS[:4] for thing in WORDS[4:]]


class Words:
    """A tokenizer of words, so that a tag is two tokens."""

    bos, eos, pad = 0, 1, 2

    def encode(self, text):
        return [3 + WORDS.index(word) for word in text.replace(",", "").split()]


class Outfits:
    """Captions that say what colour the hair has and the dress; no picture."""

    identity = "outfits"

    def batches(self, seed, images, size):
        while True:
            keys = [(seed, 0, images + i) for i in range(size)]
            tags = [{"rest": [f"{WORDS[key[2] % 4]} hair", f"{WORDS[key[2] // 4 % 4]} dress"]} for key in keys]
            yield Batch(keys, tags, {})
            images += size


def test_colours_are_told_of_what_they_belong_to_and_the_reader_is_thrown_away(tmp_path):
    torch.manual_seed(0)
    captions = Captions(Words(), 8, Captioning(dropout=0, whole=0.5))
    config = replace(SIZES["tiny"], text=replace(SIZES["tiny"].text, eos=Words.eos))
    recipe = TextRecipe(config, Outfits(), captions, TAGS)
    seen = []
    options = Options(images=3200, batch=16, lr=3e-3, schedule=Schedule(warmup=32), save_minutes=math.inf, report_seconds=0)
    train(recipe, options, tmp_path, lambda status: seen.append(status.numbers))
    for way in ("wrong by tokens", "wrong by pooled"):
        assert seen[0][way] > 1 and sum(numbers[way] for numbers in seen[-10:]) < 0.5, way
    assert {name.split(".")[0] for name in recipe.weights(dict(recipe.modules.state_dict()))} == {"text"}
