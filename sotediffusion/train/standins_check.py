"""How well the stand-ins know the drawn world: on unseen scenes, drawn as published, opened as curation opens them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sotediffusion.curate.inference.score import ClipScorer, ScoreSettings, ViTScorer
from sotediffusion.curate.inference.views import square_view
from sotediffusion.curate.tag.step import Tagger
from sotediffusion.miniature.caption import tags_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.train.recipes.scorers import rank_correlation
from sotediffusion.train.recipes.tagger import tags_shown
from sotediffusion.train.standins import FOLDERS

GENERAL, CHARACTER = 0.35, 0.50  # the card's thresholds
BATCH = 16


@dataclass(frozen=True)
class Findings:
    """Of all general and character tags together; `wrong` says how often which tag was missed or made up, the worst first."""

    precision: float
    recall: float
    wrong: list[tuple[str, int, int]]  # tag, times missed, times made up
    aesthetic: float  # rank correlation with the truth
    quality: float


def check(models: Path, count: int, seed: int, report: Callable[[int], None]) -> Findings:
    """Draw `count` scenes of series `seed` in full and compare. Raises UserError for models that are missing."""
    tagger = Tagger(models / FOLDERS["tagger"], threads=torch.get_num_threads())
    kinds = {"aesthetic": ViTScorer, "quality": ClipScorer}
    scorers = [kind(models / FOLDERS[name], ScoreSettings()) for name, kind in kinds.items()]
    for scorer in scorers:
        scorer.open()
    shown, told, truths, scores = [], [], [], []
    for start in range(0, count, BATCH):
        scenes = [sample_scene(seed, index) for index in range(start, min(start + BATCH, count))]
        pictures = [render(scene, scene.width, scene.height) for scene in scenes]
        shown += [{name for name, category in tags_shown(tags_of(scene)) if category != 9} for scene in scenes]
        squares = np.stack([square_view().make(picture) for picture in pictures])
        told += [named(row, tagger) for row in tagger.probabilities(squares)]
        truths += [(scene.aesthetic, scene.quality) for scene in scenes]
        views = [np.stack([scorer.view.make(picture) for picture in pictures]) for scorer in scorers]
        scores.append(np.stack([scorer.score(view) for scorer, view in zip(scorers, views, strict=True)], 1))
        report(len(shown))
    pairs = zip(torch.tensor(truths).T, torch.from_numpy(np.concatenate(scores)).T, strict=True)
    return Findings(*agreement(shown, told), *(rank_correlation(*pair) for pair in pairs))


def named(row: "np.ndarray", tagger: Tagger) -> set[str]:  # type: ignore[type-arg]
    """The general and character tags that a tagger is sure enough of."""
    floors = np.array([{"0": GENERAL, "4": CHARACTER}.get(kind, np.inf) for kind in tagger.tags.categories])
    return {tagger.tags.names[i] for i in np.flatnonzero(row >= floors)}


def agreement(shown: list[set[str]], told: list[set[str]]) -> tuple[float, float, list[tuple[str, int, int]]]:
    """Precision and recall over all tags of all pictures, and the errors by tag."""
    missed = Counter(tag for truth, answer in zip(shown, told, strict=True) for tag in truth - answer)
    made_up = Counter(tag for truth, answer in zip(shown, told, strict=True) for tag in answer - truth)
    right = sum(len(truth & answer) for truth, answer in zip(shown, told, strict=True))
    said, there = sum(map(len, told)), sum(map(len, shown))
    wrong = [(tag, missed[tag], made_up[tag]) for tag, _ in (missed + made_up).most_common()]
    return right / max(said, 1), right / max(there, 1), wrong
