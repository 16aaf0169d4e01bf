"""Measures how well a cascade draws what it is asked for: `python benchmarks/adherence.py --judge RUN/judge --probe RUN/probe`.

A judge that was trained on drawn pictures only (`sote train miniature judge`) reads the tags back: from unseen drawings, from
Stage A's reconstructions, from pictures redrawn by Stage B from EffNet latents, and from pictures drawn from text. Prints the
gates as a markdown table; writes it and a contact sheet under --out. What was drawn is kept there, so a measurement goes on where
it was; without a judge it is all that happens, and another judge draws nothing again.
"""

import argparse
import hashlib
import io
import json
import math
import platform
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from tqdm import tqdm

from sotediffusion.config import plain
from sotediffusion.generate import DONE, Run, draw, encode_picture, finish, prepare, start_decoder, step, to_image
from sotediffusion.miniature.caption import DATED_SOURCES, tags_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.miniature.scene import Scene
from sotediffusion.miniature.vocabulary import WORDS
from sotediffusion.models.cascade import Cascade
from sotediffusion.pictures.files import beside
from sotediffusion.train.data import pixels
from sotediffusion.train.draw import nearest, sizes
from sotediffusion.train.judging import GROUPS, NAMES, effect_size, mean_rate, rates, targets_of
from sotediffusion.train.recipes.judge import Judge, Probe, level, open_reader, told, views
from sotediffusion.types import Picture, Request, UserError
from sotediffusion.weights.store import open_cascade

SEED = 1_000_003  # of scenes; training draws from small seeds
CARD_PROMPT = ("newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, "
               "bare shoulders, looking at viewer, smile, indoors, casual, living room, playing guitar,")
CARD_NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest, loli,"
CARD_SHOWS = {"ears": "cat ears", "hair colour": "pink hair", "hair length": "long hair", "eye colour": "orange eyes",
              "held": "playing guitar"}
CARD_SEEDS = 8
PAIRS = {"quality": ("best quality", "worst quality"), "era": ("newest", "oldest")}
PAIR_GROUPS = {"quality": "quality", "era": "date"}  # group judged -> group of the caption
ORDINAL = tuple(group.name for group in GROUPS if group.ordinal)
APART = ("eye colour", "text")  # the smallest features, reported by themselves
TEXT_SHARE, GREY_SHARE = 0.25, 0.15  # a bubble shrinks the figures and greys hide colours: asked for less often than the rest
CELL = 192  # px of a picture on the contact sheet
COLUMNS = 8

Pixels = np.ndarray[Any, Any]  # uint8 (H, W, 3)
Answers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Options:
    """How much is measured; the defaults are the gates'."""

    pictures: int = 500
    steps: int = 30
    decoder_steps: int = 10
    batch: int = 8

    @property
    def pairs(self) -> int:
        """Same-seed pairs for an effect size."""
        return max(2, self.pictures // 5)


@dataclass(frozen=True)
class Case:
    """One scene asked for, and how it looks when it is drawn as a scene."""

    seed: int
    tags: Mapping[str, Sequence[str]]
    width: int
    height: int
    drawing: Pixels

    def request(self, options: Options, **tags: str) -> Request:
        """The order for this picture, with other tags in the named groups of its caption."""
        groups = dict(self.tags) | {group: [tag] for group, tag in tags.items()}
        words = ", ".join(tag for group in groups.values() for tag in group)
        prompt = words.replace("(", r"\(").replace(")", r"\)")
        return Request(prompt, width=self.width, height=self.height, seed=self.seed,
                       steps=options.steps, decoder_steps=options.decoder_steps)


def asked_scene(index: int) -> Scene:
    """A scene as training knows them, but tags that are rare there are asked for often."""
    scene, rng = sample_scene(SEED, index), random.Random(f"asked {SEED} {index}")
    people = tuple(
        replace(p, blush=rng.random() < 0.5, glasses=p.glasses if p.character else rng.random() < 0.5) for p in scene.people
    )
    text = rng.choice(WORDS) if rng.random() < TEXT_SHARE and scene.source != "visual novel cg" else None
    grey, real = rng.random() < GREY_SHARE, rng.random() < GREY_SHARE
    return replace(scene, people=people, text=text, monochrome=grey, realistic=real)


def cases(area: int, only_dated: bool = False) -> Iterator[Case]:
    """Endless cases at sizes of about `area` px."""
    choices, index = sizes(area), 0
    while True:
        scene = asked_scene(index)
        width, height = nearest(scene.width / scene.height, choices)
        if not only_dated or scene.source in DATED_SOURCES:
            yield Case(index, tags_of(scene), width, height, render(scene, width, height))
        index += 1


class Album:
    """Pictures on the disk, by row and seed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, row: str, seed: int | None) -> Path:
        """Where a picture is, or goes."""
        return self.folder / row / f"{seed}.png"

    def lacks(self, row: str, requests: Sequence[Request]) -> list[Request]:
        """Those that are still to be drawn."""
        return [request for request in requests if not self.path(row, request.seed).exists()]

    def add(self, row: str, pictures: Iterable[Picture]) -> None:
        """Keep them."""
        for picture in pictures:
            path = self.path(row, picture.seed)
            with beside(path) as part:
                picture.image.save(part, "PNG")

    def pictures(self, row: str, requests: Sequence[Request]) -> list[Pixels]:
        """Those of these orders, in their order."""
        return [np.asarray(Image.open(self.path(row, request.seed))) for request in requests]


def album_of(out: Path, cascade: Cascade, options: Options) -> Album:
    """Where the pictures of these weights, their conventions and these steps are kept."""
    named = json.dumps([cascade.hashes, plain(cascade.conventions), options.steps, options.decoder_steps])
    return Album(out / "pictures" / hashlib.sha256(named.encode()).hexdigest()[:12])


def chunks(requests: Sequence[Request], size: int) -> list[list[int]]:
    """Numbers of requests, so sorted that those of one picture size are drawn together."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i].width or 0, requests[i].height or 0))
    return [order[i : i + size] for i in range(0, len(order), size)]


def from_text(cascade: Cascade, requests: Sequence[Request], batch: int, row: str, album: Album) -> list[Pixels]:
    """The pictures of orders whose seeds differ, in their order."""
    missing = album.lacks(row, requests)
    for chunk in tqdm(chunks(missing, batch), desc=row):
        album.add(row, draw(cascade, [missing[i] for i in chunk], batch=batch))
    return album.pictures(row, requests)


def from_latents(cascade: Cascade, chosen: Sequence[Case], options: Options, row: str, album: Album) -> list[Pixels]:
    """What Stages B and A make of each drawing's EffNet latents and caption."""
    requests = [case.request(options) for case in chosen]
    missing = [replace(request, init=_png(chosen[requests.index(request)].drawing)) for request in album.lacks(row, requests)]
    for chunk in tqdm(chunks(missing, options.batch), desc=row):
        runs = [_encoded(cascade, missing[i]) for i in chunk]
        while waiting := [run for run in runs if run.phase != DONE]:
            step(cascade, [run for run in waiting if run.key == waiting[0].key])
        album.add(row, finish(cascade, runs))
    return album.pictures(row, requests)


@torch.inference_mode()
def _encoded(cascade: Cascade, request: Request) -> Run:
    (run,) = prepare(cascade, request)
    run.x = encode_picture(cascade, run.request).float()
    start_decoder(cascade, run)
    return run


def _png(picture: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _tensor(picture: Pixels) -> Tensor:
    return pixels(torch.from_numpy(picture.copy())[None])


@torch.inference_mode()
def reconstructed(cascade: Cascade, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Pictures through Stage A and back, quantized."""
    stage_a = cascade.stage_a
    weight = next(stage_a.parameters())
    return [np.asarray(to_image(stage_a.decode(stage_a.encode(_tensor(p).to(weight)))[0])) for p in pictures]


@torch.inference_mode()
def judged(judge: nn.Module, pictures: Sequence[Pixels]) -> Tensor:
    """Logits (N, all choices) of pictures of any sizes."""
    return torch.cat([judge(views(_tensor(picture)[0])).mean(0, keepdim=True) for picture in pictures])


@torch.inference_mode()
def probed(cascade: Cascade, probe: nn.Module, pictures: Sequence[Pixels]) -> Tensor:
    """Logits (N, all choices) read from the pictures' EffNet latents."""
    assert cascade.effnet is not None
    weight = next(cascade.effnet.parameters())
    return torch.cat([probe(cascade.effnet(_tensor(picture).to(weight)).float()) for picture in pictures])


def pairs(cascade: Cascade, name: str, options: Options, album: Album) -> dict[str, list[Pixels]]:
    """Pictures with the best and with the worst tag of a group, all else and the seed the same."""
    source = cases(_area(cascade), only_dated=name == "era")
    chosen = [next(source) for _ in range(options.pairs)]
    group = PAIR_GROUPS[name]
    asked = {tag: [case.request(options, **{group: tag}) for case in chosen] for tag in PAIRS[name]}
    return {tag: from_text(cascade, requests, options.batch, tag, album) for tag, requests in asked.items()}


def pair_effect(judge: nn.Module, name: str, pictures: Mapping[str, list[Pixels]]) -> float:
    """Cohen's d of the judged level between the best and the worst tag of a group."""
    choices = GROUPS[NAMES.index(name)].choices
    levels = {choices.index(tag): level(judged(judge, drawn), name).numpy() for tag, drawn in pictures.items()}
    return effect_size(levels[max(levels)], levels[min(levels)])


def card_shown(logits: Tensor) -> dict[str, list[bool]]:
    """For each thing that the card's prompt must show, in which pictures the judge sees it."""
    answers = told(logits)
    return {
        tag: (answers[:, (i := NAMES.index(name))] == GROUPS[i].choices.index(tag)).tolist() for name, tag in CARD_SHOWS.items()
    }


def _area(cascade: Cascade) -> int:
    return cascade.conventions.width * cascade.conventions.height


@dataclass
class Findings:
    """All that was measured."""

    groups: dict[str, dict[str, float]]  # where it was read -> group -> balanced accuracy
    effects: dict[str, float]
    card: dict[str, list[bool]]


@dataclass
class Drawn:
    """What the judge gets to see."""

    truth: Answers  # int64 (N, groups)
    told: dict[str, list[Pixels]]  # pictures of these scenes, by where they come from
    pairs: dict[str, dict[str, list[Pixels]]]  # group -> its best and its worst tag -> pictures
    card: list[Pixels]

    @property
    def sheet(self) -> dict[str, list[Pixels]]:
        """Rows of a contact sheet."""
        return self.told | {tag: row for rows in self.pairs.values() for tag, row in rows.items()} | {"card": self.card}


def drawn(cascade: Cascade, options: Options, album: Album) -> Drawn:
    """Draw everything that the album does not hold yet."""
    source = cases(_area(cascade))
    chosen = [next(source) for _ in tqdm(range(options.pictures), desc="drawing scenes")]
    rows = {"drawn": [case.drawing for case in chosen]}
    rows["Stage A"] = reconstructed(cascade, rows["drawn"])
    rows["EffNet, B, A"] = from_latents(cascade, chosen, options, "EffNet, B, A", album)
    rows["text"] = from_text(cascade, [case.request(options) for case in chosen], options.batch, "text", album)
    pictures = {name: pairs(cascade, name, options, album) for name in PAIRS}
    own = Request(CARD_PROMPT, CARD_NEGATIVE, steps=options.steps, decoder_steps=options.decoder_steps)
    card = from_text(cascade, [replace(own, seed=seed) for seed in range(CARD_SEEDS)], options.batch, "the card's prompt", album)
    return Drawn(np.array([targets_of(case.tags) for case in chosen]), rows, pictures, card)


def measure(cascade: Cascade, judge: nn.Module, probe: nn.Module | None, pictures: Drawn) -> Findings:
    """Judge everything."""
    groups = {name: rates(pictures.truth, told(judged(judge, row)).numpy()) for name, row in pictures.told.items()}
    if probe is not None:
        groups["latents"] = rates(pictures.truth, told(probed(cascade, probe, pictures.told["drawn"])).numpy())
    effects = {name: pair_effect(judge, name, rows) for name, rows in pictures.pairs.items()}
    return Findings(groups, effects, card_shown(judged(judge, pictures.card)))


@dataclass(frozen=True)
class Gate:
    """One line of the table; NaN is not measured, and without an aim it is only reported."""

    what: str
    value: float
    aim: float | None = None
    form: str = ".1%"
    note: str = ""

    def row(self) -> str:
        """As markdown."""
        measured = not math.isnan(self.value)
        verdict = "not measured" if not measured else "" if self.aim is None else "yes" if self.value >= self.aim else "no"
        cells = (self.what, format(self.value, self.form) if measured else "",
                 "" if self.aim is None else f">= {self.aim:{self.form}}", verdict, self.note)
        return f"| {' | '.join(cells)} |"


def gates(found: Findings) -> list[Gate]:
    """What a miniature is held to."""
    own, rebuilt, redrawn = (mean_rate(found.groups[name], ORDINAL) for name in ("drawn", "Stage A", "EffNet, B, A"))
    latents = mean_rate(found.groups["latents"], ORDINAL) if "latents" in found.groups else math.nan
    text = {name: rate for name, rate in found.groups["text"].items() if name not in APART and not math.isnan(rate)}
    worst = min(text, key=text.__getitem__)
    card = [all(shown) for shown in zip(*found.card.values(), strict=True)]
    seen = ", ".join(f"{tag} {sum(shown)}" for tag, shown in found.card.items())
    return [
        Gate("judge on unseen drawings, categorical tags", own, 0.99),
        Gate("judge on Stage A's reconstructions, share of its own rate", rebuilt / own if own else math.nan, 0.99),
        Gate("tags read from EffNet latents, categorical", latents, 0.98),
        Gate("EffNet -> B -> A, categorical", redrawn, 0.97),
        Gate("text -> picture, mean of the groups without eyes and text", mean_rate(text), 0.90),
        Gate("text -> picture, worst of these groups", text[worst], 0.75, note=worst),
        *(Gate(f"text -> picture, {name}", found.groups["text"][name]) for name in APART),
        *(Gate(f"{' against '.join(tags)}, effect size", found.effects[name], 1.0, ".2f") for name, tags in PAIRS.items()),
        Gate(f"the card's prompt shows all, of {CARD_SEEDS} seeds", sum(card), 6, ".0f", seen),
    ]


def markdown(found: Findings, cascade: Cascade, options: Options) -> str:
    """The report as text."""
    hashes = ", ".join(f"{part} {digest[:12]}" for part, digest in cascade.hashes.items())
    lines = [
        f"# Adherence of {cascade.name}", "",
        f"`{' '.join(sys.argv)}`", "",
        f"{options.pictures} unseen scenes, {options.pairs} same-seed pairs, {options.steps} + {options.decoder_steps} steps; "
        f"{platform.machine()}, torch {torch.__version__}. {f'Weights: {hashes}.' if hashes else ''}", "",
        "Rates are balanced accuracy: the mean over a group's tags (none of them being one more) of the share of pictures "
        "asked for it in which it is read; era, aesthetic and quality within one level. Effect sizes are Cohen's d.", "",
        "| gate | measured | aim | reached | |", "|---|---|---|---|---|",
        *(gate.row() for gate in gates(found)), "",
        f"| group | choices | {' | '.join(found.groups)} |", f"|---|---|{'---|' * len(found.groups)}",
    ]  # fmt: skip
    for group in GROUPS:
        cells = " | ".join("" if math.isnan(rate[group.name]) else f"{rate[group.name]:.1%}" for rate in found.groups.values())
        lines.append(f"| {group.name} | {len(group.choices)} | {cells} |")
    return "\n".join(lines) + "\n"


def contact_sheet(rows: Mapping[str, Sequence[Pixels]]) -> Image.Image:
    """The first pictures of every row, under its name."""
    band = CELL + 16
    sheet = Image.new("RGB", (COLUMNS * CELL, len(rows) * band), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (label, pictures) in enumerate(rows.items()):
        pen.text((4, y * band + 2), label, "black")
        for x, picture in enumerate(pictures[:COLUMNS]):
            image = Image.fromarray(picture)
            image.thumbnail((CELL, CELL))
            sheet.paste(image, (x * CELL + (CELL - image.width) // 2, y * band + 16 + (CELL - image.height) // 2))
    return sheet


def report(cascade: Cascade, judge: nn.Module, probe: nn.Module | None, options: Options, out: Path) -> str:
    """Draw and measure, write `adherence.md` and `adherence.png` into `out`, and return the text."""
    pictures = drawn(cascade, options, album_of(out, cascade, options))
    text = markdown(measure(cascade, judge, probe, pictures), cascade, options)
    out.mkdir(parents=True, exist_ok=True)
    (out / "adherence.md").write_text(text)
    contact_sheet(pictures.sheet).save(out / "adherence.png")
    return text


def main() -> None:
    """Read the command line."""
    own, default = str(files("sotediffusion") / "miniature" / "weights"), Options()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=own, help="a model folder; the embedded miniature by default")
    parser.add_argument("--judge", type=Path, help="run folder of the judge; without one the pictures are drawn and kept")
    parser.add_argument("--probe", type=Path, help="run folder of the probe of these EffNet latents")
    parser.add_argument("--out", type=Path, default=Path("outputs/adherence"))
    for name in ("pictures", "steps", "decoder_steps", "batch"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    args = parser.parse_args()
    options = Options(args.pictures, args.steps, args.decoder_steps, args.batch)
    try:
        cascade = open_cascade(args.model, dtype=torch.float32)
        if args.judge is None:
            drawn(cascade, options, album_of(args.out, cascade, options))
            return
        judge = open_reader(args.judge, Judge())
        probe = open_reader(args.probe, Probe()) if args.probe else None
        print(report(cascade, judge, probe, options, args.out))
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
