"""A claim about the text tower's first training: captions learn to find their pictures."""

import math
from dataclasses import replace

import torch

from sotediffusion.models.cascade import SIZES
from sotediffusion.train.captions import Captioning, Captions
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, train
from sotediffusion.train.optim import Schedule
from sotediffusion.train.recipes.text import TextRecipe

COLORS = ["red", "green", "blue", "grey"]
PLACES = ["beach", "city", "forest", "room"]


class Words:
    """A tokenizer of whole tags."""

    bos, eos, pad = 0, 1, 2

    def encode(self, text):
        return [3 + (COLORS + PLACES).index(tag) for tag in text.split(", ") if tag]


class Pairs:
    """Latents that show a colour in one channel and a place in another, with the two tags that say so."""

    identity = "pairs"

    def batches(self, seed, images, size):
        while True:
            keys = [(seed, 0, images + i) for i in range(size)]
            chosen = [(key[2] % 4, key[2] // 4 % 4) for key in keys]
            latents = torch.zeros(size, SIZES["tiny"].effnet.c_latent, 2, 2)
            for row, (color, place) in enumerate(chosen):
                latents[row, color], latents[row, 4 + place] = 2.0, 2.0
            yield Batch(keys, [{"rest": [COLORS[c], PLACES[p]]} for c, p in chosen], {"effnet": latents})
            images += size


def test_captions_learn_to_find_their_pictures_and_the_head_is_thrown_away(tmp_path):
    torch.manual_seed(0)
    captions = Captions(Words(), 8, Captioning(dropout=0, whole=1))
    config = replace(SIZES["tiny"], text=replace(SIZES["tiny"].text, eos=Words.eos))
    recipe = TextRecipe(config, Pairs(), captions)
    seen = []
    options = Options(images=1600, batch=16, lr=3e-3, schedule=Schedule(warmup=32), save_minutes=math.inf, report_seconds=0)
    train(recipe, options, tmp_path, lambda status: seen.append(status.numbers["found"]))
    assert sum(seen[:3]) / 3 < 0.4 and sum(seen[-10:]) / 10 > 0.9
    assert {name.split(".")[0] for name in recipe.weights(dict(recipe.modules.state_dict()))} == {"text"}
