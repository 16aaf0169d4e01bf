"""Curates a drawn scrape whose truth is known: `python benchmarks/curate.py --folder FOLDER [--scenes 1000] [--models DIR]`.

Prints what of the planted mess is found and how well tags and scores agree with the truth, on scenes that nothing was trained
on; then the speed of the whole chain beside the same work by separate tools (benchmarks/separate_tools.py), each of which
decodes for itself. `--no-models` leaves out tagger and scorers on both sides. CPU seconds are printed beside the wall clock's.
Stopped and started again with the same arguments it goes on: what was timed to its end is in FOLDER/measured.json.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from sotediffusion.cli.curate import read_preset  # noqa: E402
from sotediffusion.cli.curate_models import stand_ins  # noqa: E402
from sotediffusion.curate import catalogue, pipeline  # noqa: E402
from sotediffusion.curate.inference.published import file_hash  # noqa: E402
from sotediffusion.curate.tag.taglist import read_taglist  # noqa: E402
from sotediffusion.miniature import vocabulary as words  # noqa: E402
from sotediffusion.miniature.dataset import draw  # noqa: E402
from sotediffusion.pictures.files import write_whole  # noqa: E402
from sotediffusion.train.recipes.tagger import tags_shown  # noqa: E402

Rows = dict[str, dict[str, Any]]  # by path
Line = tuple[str, str, str]  # what, the figure, and the aim with whether it is reached
AGAIN, CROPPED = ("resized", "recompressed", "undated"), ("cropped",)
FLOORS = {"0": 0.35, "4": 0.50}  # the card's thresholds for general tags and characters
GROUPS = {
    "hair colour": [f"{colour} hair" for colour in words.HAIR_COLORS],
    "hair length and style": [*words.HAIR_LENGTHS, *words.HAIR_STYLES],
    "eyes": [f"{colour} eyes" for colour in words.EYE_COLORS],
    "expression": words.EXPRESSIONS,
    "ears and headwear": [*words.ANIMAL_EARS, *words.HEADWEAR],
    "outfit": [*words.OUTFITS, "bare shoulders"],
    "held": [*words.HELD.values()],
    "place": [*words.BACKGROUNDS, "indoors", "outdoors"],
    "gaze and framing": [*words.GAZES, *words.FRAMINGS],
}
WORST, SEEN = 12, 5  # so many of the worst tags are listed, of those that were there or told so often


class Journal:
    """Times measured to their end, kept beside what they were measured on, so that a stopped benchmark goes on."""

    def __init__(self, path: Path, of: dict[str, Any]):
        self.path, self.of, self.times = path, of, dict[str, list[float]]()
        if path.is_file():
            held = json.loads(path.read_text())
            self.times = held["times"] if held["of"] == of else {}

    def measure(self, name: str, work: Callable[[], Any]) -> list[float]:
        """Seconds and CPU seconds of the work, which is not done again."""
        if name not in self.times:
            self.times[name] = list(measured(work)[1:])
            write_whole(self.path, json.dumps({"of": self.of, "times": self.times}).encode())
        return self.times[name]


def reached(value: float, aim: float) -> str:
    return f">= {aim:g}: {'yes' if value >= aim else 'NO'}"


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the work gives, its seconds, and its CPU seconds with those of processes that ended meanwhile."""
    began, cpu = time.perf_counter(), _cpu()
    result = work()
    return result, time.perf_counter() - began, _cpu() - cpu


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def curate(args: argparse.Namespace, out: Path, assignments: tuple[str, ...] = ()) -> None:
    """The chain into a new catalogue."""
    shutil.rmtree(out, ignore_errors=True)
    skip = ("score", "tag") if args.no_models else ()
    settings = read_preset("miniature", assignments)
    order = pipeline.Order(str(args.folder / "drawn"), str(out), settings, args.models, args.workers, skip)
    pipeline.run(order, lambda progress: None)


def exactness(truth: Rows, rows: Rows) -> Iterator[Line]:
    """Quarantine and filter: how many were planted, of them left out for that, and others that were."""
    for kind, phrases in (("corrupt", ("truncated", "unreadable")), ("undersized", ("too small",))):
        planted = {path for path, about in truth.items() if about["kind"] == kind}
        if kind == "undersized":  # some crops come out as small
            least = read_preset("miniature", ())["filter"].min_area
            planted |= {path for path, row in rows.items() if 0 < (row["width"] or 0) * (row["height"] or 0) < least}
        out = {path for path, row in rows.items() if row["dropped"] and row["reason"].partition(":")[0] in phrases}
        yield (f"{kind}: planted, of them left out, others left out so", f"{len(planted)}, {len(planted & out)}, "
               f"{len(out - planted)}", f"exact: {'yes' if planted == out else 'NO'}")  # fmt: skip


def duplicates(truth: Rows, rows: Rows) -> Iterator[Line]:
    """Recall of planted copies that were compared at all, and groups that hold pictures of different scenes."""
    for name, kinds, aim in (("recompressed, resized or without a date", AGAIN, 0.99), ("slightly cropped", CROPPED, 0.95)):
        copies = [(path, about["of"]) for path, about in truth.items() if about["kind"] in kinds and compared(rows[path])]
        seen = sum(together(rows[copy], rows[original]) for copy, original in copies)
        share = seen / max(len(copies), 1)
        before = sum(about["kind"] in kinds for about in truth.values()) - len(copies)
        figure = f"{seen} of {len(copies)} = {share:.4f}; {before} more were left out before, by a filter"
        yield f"duplicates found, {name}", figure, reached(share, aim)
    groups: dict[int, set[int]] = {}
    for path, row in rows.items():
        if row["group"] is not None:
            groups.setdefault(row["group"], set()).add(truth[path]["index"])
    joined = sum(len(scenes) > 1 for scenes in groups.values())
    yield "groups that join distinct scenes", f"{joined} of {len(groups)}", f"0: {'NO' if joined else 'yes'}"


def compared(row: dict[str, Any]) -> bool:
    """Whether a picture came as far as the comparison: no filter had left it out."""
    return not row["dropped"] or row["group"] is not None


def together(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["group"] is not None and one["group"] == other["group"]


class Told:
    """How often each tag was told, was there, and both."""

    def __init__(self) -> None:
        self.right, self.said, self.there = Counter[str](), Counter[str](), Counter[str]()

    def count(self, told: set[str], shown: set[str]) -> None:
        self.right.update(told & shown)
        self.said.update(told)
        self.there.update(shown)

    def of(self, names: Iterable[str]) -> tuple[float, float, int]:
        """Precision, recall and number there of these tags together."""
        right, said, there = (sum(counts[name] for name in names) for counts in (self.right, self.said, self.there))
        return right / max(said, 1), right / max(there, 1), there

    def worst(self) -> list[str]:
        """The tags whose precision and recall together (F1) are lowest."""
        often = {name for name in self.said | self.there if max(self.said[name], self.there[name]) >= SEEN}
        return sorted(often, key=lambda name: (2 * self.right[name] / (self.said[name] + self.there[name]), name))[:WORST]


def tags_told(kept: list[tuple[dict[str, Any], dict[str, Any]]], place: Path) -> Iterator[Line]:
    """Precision and recall of all tags, of each group of them, and of the worst."""
    tags = read_taglist(next((place / "taglists").iterdir()))
    counts = Told()
    for row, about in kept:
        chances = zip(row["tag_ids"], row["tag_probs"], strict=True)
        told = {tags.names[i] for i, chance in chances if chance >= FLOORS[tags.categories[i]]}
        counts.count(told, {name for name, category in tags_shown(about["tags"]) if category != 9})
    groups = {group: {name.replace(" ", "_") for name in names} for group, names in GROUPS.items()}
    groups["characters"] = set(tags.of("4"))
    groups["other"] = set(counts.said | counts.there).difference(*groups.values())
    precision, recall, there = counts.of(counts.said | counts.there)
    yield "tag precision", f"{precision:.4f}", reached(precision, 0.95)
    yield "tag recall", f"{recall:.4f} of {there}", reached(recall, 0.95)
    for what, names in [*groups.items(), *((f"worst: {name}", {name}) for name in counts.worst())]:
        precision, recall, there = counts.of(names)
        yield f"tags, {what}", f"precision {precision:.3f}, recall {recall:.3f} of {there}", ""


def agreement(truth: Rows, rows: Rows, place: Path) -> Iterator[Line]:
    """Tags and scores of the drawn pictures that stayed against their scenes."""
    import numpy as np
    from scipy.stats import spearmanr

    kept = [(row, truth[path]) for path, row in rows.items() if not row["dropped"] and truth[path]["kind"] == "drawn"]
    yield from tags_told(kept, place)
    for name in ("aesthetic", "quality"):
        pairs = np.array([(row[f"score_miniature_{name}"], about["scene"][name]) for row, about in kept])
        value = float(spearmanr(*pairs.T).statistic)
        yield f"{name}, rank correlation with the drawn truth", f"{value:.4f} of {len(kept)}", reached(value, 0.9)


def speed(args: argparse.Namespace, journal: Journal, rows: Rows) -> Iterator[Line]:
    """Pictures a second of the chain and of separate tools one after another, each at its best number of workers."""
    from separate_tools import Pile, tools

    paths = [args.folder / "drawn" / path for path in rows]
    stayed = [args.folder / "drawn" / path for path, row in rows.items() if not row["dropped"]]
    pile = Pile(args.folder / "drawn", paths, stayed, args.models)
    seconds = journal.times["the chain"]
    yield "the chain", f"{len(paths) / seconds[0]:.2f} pictures/s; {seconds[0]:.1f} s, {seconds[1]:.1f} CPU s", ""
    wall = cpu = 0.0
    for name, tool in tools(not args.no_models).items():
        counts = sorted({1, args.workers})
        tries = {count: journal.measure(f"{name}, {count}", partial(tool, pile, count)) for count in counts}
        best = min(tries, key=lambda workers: tries[workers][0])
        wall, cpu = wall + tries[best][0], cpu + tries[best][1]
        yield name, f"{tries[best][0]:.1f} s, {tries[best][1]:.1f} CPU s, best with {best} workers", ""
    yield "separate tools", f"{len(paths) / wall:.2f} pictures/s; {wall:.1f} s, {cpu:.1f} CPU s", ""
    ratio = wall / seconds[0]
    yield "chain / separate tools", f"{ratio:.2f} by the wall clock, {cpu / seconds[1]:.2f} by CPU", reached(ratio, 3)


def show(lines: Iterable[Line]) -> None:
    for cells in lines:
        print(f"| {' | '.join(cells)} |", flush=True)


def read_models(folder: Path) -> str:
    """What tells these models from others, so that times of others are not taken for theirs."""
    return " ".join(file_hash(path)[:16] for path in sorted(folder.rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="Where is drawn and curated; a drawing in it is used again.")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7001, help="Series of scenes; not the one trained on.")
    parser.add_argument("--models", type=Path, default=stand_ins(), help="Folder of the stand-ins.")
    parser.add_argument("--no-models", action="store_true", help="Without tagger and scorers.")
    parser.add_argument("--no-tools", action="store_true", help="Without the separate tools.")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    table = draw(args.folder / "drawn", args.scenes, args.seed, raw=True, processes=args.workers)
    truth: Rows = {about["file"]: about for about in map(json.loads, table.read_text().splitlines())}
    place = args.folder / "catalogue"
    of = {"scenes": args.scenes, "seed": args.seed, "workers": args.workers, "no models": args.no_models}
    journal = Journal(args.folder / "measured.json", of | {"models": read_models(args.models)})
    journal.measure("the chain", lambda: curate(args, place))
    rows: Rows = {row["path"]: row for row in catalogue.read(place).to_table().to_pylist()}
    print(f"{args.scenes} scenes of series {args.seed}, {len(truth)} files, {args.workers} workers\n")
    print("| what | figure | aim |\n|---|---|---|")
    show(exactness(truth, rows))
    show(duplicates(truth, rows))
    if not args.no_models:
        show(agreement(truth, rows, place))
    if not args.no_tools:
        show(speed(args, journal, rows))


if __name__ == "__main__":
    main()
