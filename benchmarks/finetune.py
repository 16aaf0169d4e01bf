"""What a fine-tune changes in what is drawn: `python benchmarks/finetune.py [--drawings 32] [--pictures 32] [--out DIR]`.

A figure that the model does not know by name is drawn many times over, in other places and moods; captions name her and leave out
how she looks. `sote train run` fine-tunes the embedded model on these by the card's table (preset miniature-base) and as a LoRA
(miniature-lora). Then the same unseen prompts are drawn with the same seeds before and after, and the shipped tagger reads her
looks; prompts that do not name her tell what else has changed. Prints a markdown table; a contact sheet lies under --out.
"""

import argparse
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adherence import CARD_NEGATIVE, Options, Pixels, album_of, contact_sheet, from_text
from PIL import Image
from tqdm import tqdm

import sotediffusion
from sotediffusion.curate.inference.views import square_view
from sotediffusion.curate.tag.step import Tagger
from sotediffusion.miniature.caption import tags_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene
from sotediffusion.miniature.scene import Scene
from sotediffusion.miniature.vocabulary import EXPRESSIONS
from sotediffusion.train.draw import nearest, sizes
from sotediffusion.train.standins_check import named
from sotediffusion.types import Request
from sotediffusion.weights.store import open_cascade

SHIPPED = Path(sotediffusion.__file__).parent / "miniature"
SEED, UNSEEN, OTHERS = 7_000_001, 7_000_002, 7_000_003  # of scenes
NAME = "minstrel"
LOOK = {"green hair", "purple eyes", "long hair", "twintails", "rabbit ears", "glasses", "kimono"}
FIXED: dict[str, Any] = dict(
    kind="girl", hair_color="green", hair_length="long hair", hair_style="twintails", eye_color="purple", ears="rabbit ears",
    headwear=None, glasses=True, outfit="kimono", outfit_color="red", bare_shoulders=False, held=None, character=None,
)  # fmt: skip
SHOWN = 8  # pictures of a row on the sheet


def portrayed(seed: int, index: int) -> Scene:
    """A scene with the figure in it, alone and well drawn."""
    scene, rng = sample_scene(seed, index), random.Random(f"mood {seed} {index}")
    person = replace(scene.people[0], **FIXED, expression=rng.choice([mood for mood in EXPRESSIONS if mood != "closed eyes"]))
    framing = "upper body" if scene.framing == "portrait" else scene.framing  # in which clothes can be seen
    return replace(scene, people=(person,), framing=framing, year=2023, source="image board", aesthetic=0.95, quality=0.99,
                   artist=None, series=None, visual_novel=None, text=None, monochrome=False, realistic=False)  # fmt: skip


def words(scene: Scene, name: str | None) -> str:
    """A caption; with a name it says that instead of the looks."""
    groups = tags_of(scene)
    tags = [tag for group in groups.values() for tag in group]
    if name is None:
        return ", ".join(tags)
    first = len(groups["aesthetic"] + groups["quality"] + groups["date"] + groups["custom"] + groups["rating"])
    return ", ".join(tags[:first] + [name] + [tag for tag in tags[first:] if tag not in LOOK])


def teach(out: Path, drawings: int) -> Path:
    """A kohya folder of the figure."""
    folder = out / "drawings"
    for index in tqdm(range(drawings), desc="drawing her"):
        scene = portrayed(SEED, index)
        path = folder / f"1_{NAME}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(scene, scene.width, scene.height)).save(path, compress_level=1)
        path.with_suffix(".txt").write_text(words(scene, NAME))
    return folder


def trained(preset: str, data: Path, out: Path, assignments: Sequence[str]) -> Path:
    """What `sote train run` makes of these pictures: a model folder or a LoRA file."""
    sets = [argument for assignment in assignments for argument in ("-s", assignment)]
    sote = Path(sys.executable).with_name("sote")
    command = [sote, "train", "run", preset, "--data", data, "--model", "miniature", "--out", out / preset, *sets]
    subprocess.run(command, check=True)
    (made,) = (path for path in (out / preset / "models").iterdir() if path.stem == preset)
    return made


def requests(scenes: Sequence[Scene], name: str | None, lora: str | None) -> list[Request]:
    """Orders for these scenes at sizes that the model knows."""
    choices = sizes(256 * 256)
    found = []
    for seed, scene in enumerate(scenes):
        width, height = nearest(scene.width / scene.height, choices)
        prompt = words(scene, name).replace("(", r"\(").replace(")", r"\)")
        found.append(Request(prompt, CARD_NEGATIVE, width=width, height=height, seed=seed, loras=((lora, 1.0),) if lora else ()))
    return found


def read(tagger: Tagger, drawn: Sequence[Pixels]) -> list[set[str]]:
    """The tags that the tagger is sure enough of, of each picture, written as in captions."""
    rows = tagger.probabilities(np.stack([square_view().make(picture) for picture in drawn]))
    return [{tag.replace("_", " ") for tag in named(row, tagger)} for row in rows]


def looks(told: Sequence[set[str]], scenes: Sequence[Scene]) -> dict[str, float]:
    """Of each of her tags that a scene shows, the share of pictures in which it is read."""
    due = Counter(tag for scene in scenes for tag in LOOK & set(tags_of(scene)["rest"]))
    seen = Counter(tag for tags, scene in zip(told, scenes, strict=True) for tag in tags & LOOK & set(tags_of(scene)["rest"]))
    return {tag: seen[tag] / due[tag] for tag in sorted(due)}


def share(told: Sequence[set[str]], asked: Sequence[set[str]]) -> float:
    """Of all tags asked for, how many are read."""
    return sum(len(a & b) for a, b in zip(told, asked, strict=True)) / max(sum(map(len, asked)), 1)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a column a model, a row a question."""
    models = list(rows)
    lines = [f"| read in pictures | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for what in rows[models[0]]:
        lines.append(f"| {what} | {' | '.join(f'{rows[model][what]:.0%}' for model in models)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=32, help="to train on")
    parser.add_argument("--pictures", type=int, default=32, help="to read, of each kind of prompt and model")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=3e-4, help="of Stage C in miniature-base; .4 of it is the text encoder's")
    parser.add_argument("--out", type=Path, default=Path("outputs/finetune"))
    args = parser.parse_args()
    data = teach(args.out, args.drawings)
    steps = ("train.batch=8", f"train.epochs={args.epochs}", "data.held_out=0")
    base = trained("miniature-base", data, args.out,
                   (*steps, f"train.lr={args.lr}", f"train.text_lr={args.lr * 0.4}", "train.ema=0"))  # fmt: skip
    lora = trained("miniature-lora", data, args.out, steps)
    hers = [portrayed(UNSEEN, index) for index in range(args.pictures)]
    others = [sample_scene(OTHERS, index) for index in range(args.pictures)]
    tagger = Tagger(SHIPPED / "stand_ins" / "miniature-tagger", threads=torch.get_num_threads())
    known = {tag.replace("_", " ") for tag in tagger.tags.names}
    asked = [{tag for tag in tags_of(scene)["rest"] + tags_of(scene)["character"] if tag in known} for scene in others]
    rows, sheet = {}, {"drawn": [render(scene, 320, 320 * scene.height // scene.width) for scene in hers[:SHOWN]]}
    own = SHIPPED / "weights"
    for label, model, file in (("before", own, None), ("miniature-base", base, None), ("miniature-lora", own, str(lora))):
        cascade = open_cascade(model, dtype=torch.float32)
        album = album_of(args.out, cascade, Options())
        drawn = from_text(cascade, requests(hers, NAME, file), 8, f"{label}: named", album)
        kept = from_text(cascade, requests(others, None, file), 8, f"{label}: others", album)
        found = looks(read(tagger, drawn), hers)
        rows[label] = {**found, "**all of her looks**": sum(found.values()) / len(found),
                       "prompts that do not name her: tags asked for": share(read(tagger, kept), asked)}  # fmt: skip
        sheet |= {f"{label}: named": drawn, f"{label}: others": kept}
    contact_sheet(sheet).save(args.out / "finetune.png")
    print(table(rows))


if __name__ == "__main__":
    main()
