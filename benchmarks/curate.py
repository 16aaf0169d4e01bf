"""Curates a drawn scrape whose truth is known: `python benchmarks/curate.py --folder FOLDER [--scenes 1000] [--models DIR]`.

Prints what of the planted mess is found and how well tags and scores agree with the truth, on scenes that nothing was trained
on; then the speed of the whole chain beside the same work by separate tools (benchmarks/separate_tools.py), each of which
decodes for itself. `--no-models` leaves out tagger and scorers on both sides. CPU seconds are printed beside the wall clock's.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from sotediffusion.cli.curate import read_preset  # noqa: E402
from sotediffusion.cli.curate_models import stand_ins  # noqa: E402
from sotediffusion.curate import catalogue, pipeline  # noqa: E402
from sotediffusion.curate.tag.taglist import read_taglist  # noqa: E402
from sotediffusion.miniature.dataset import draw  # noqa: E402
from sotediffusion.train.recipes.tagger import tags_shown  # noqa: E402

Rows = dict[str, dict[str, Any]]  # by path
AGAIN, CROPPED = ("resized", "recompressed", "undated"), ("cropped",)
FLOORS = {"0": 0.35, "4": 0.50}  # the card's thresholds for general tags and characters


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


def exactness(truth: Rows, rows: Rows) -> list[tuple[str, str]]:
    """Quarantine and filter: how many were planted, of them left out for that, and others that were."""
    found = []
    for kind, phrases in (("corrupt", ("truncated", "unreadable")), ("undersized", ("too small",))):
        planted = {path for path, about in truth.items() if about["kind"] == kind}
        out = {path for path, row in rows.items() if row["dropped"] and row["reason"].partition(":")[0] in phrases}
        found.append((f"{kind}: planted, of them left out, others left out so", f"{len(planted)}, {len(planted & out)}, "
                      f"{len(out - planted)}"))  # fmt: skip
    return found


def duplicates(truth: Rows, rows: Rows) -> list[tuple[str, str]]:
    """Recall of planted copies, and groups that hold pictures of different scenes."""
    found = []
    for name, kinds in (("recompressed, resized or without a date", AGAIN), ("slightly cropped", CROPPED)):
        copies = [(path, about["of"]) for path, about in truth.items() if about["kind"] in kinds]
        seen = sum(together(rows[copy], rows[original]) for copy, original in copies)
        found.append((f"duplicates found, {name}", f"{seen} of {len(copies)} = {seen / max(len(copies), 1):.4f}"))
    groups: dict[int, set[int]] = {}
    for path, row in rows.items():
        if row["group"] is not None:
            groups.setdefault(row["group"], set()).add(truth[path]["index"])
    found.append(("groups that join distinct scenes", str(sum(len(scenes) > 1 for scenes in groups.values()))))
    return found


def together(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["group"] is not None and one["group"] == other["group"]


def agreement(truth: Rows, rows: Rows, place: Path) -> list[tuple[str, str]]:
    """Tags and scores of the drawn pictures that stayed against their scenes."""
    import numpy as np
    from scipy.stats import spearmanr

    tags = read_taglist(next((place / "taglists").iterdir()))
    kept = [(row, truth[path]) for path, row in rows.items() if not row["dropped"] and truth[path]["kind"] == "drawn"]
    right = said = there = 0
    for row, about in kept:
        chances = zip(row["tag_ids"], row["tag_probs"], strict=True)
        told = {tags.names[i] for i, chance in chances if chance >= FLOORS[tags.categories[i]]}
        shown = {name for name, category in tags_shown(about["tags"]) if category != 9}
        right, said, there = right + len(told & shown), said + len(told), there + len(shown)
    found = [("tag precision", f"{right / max(said, 1):.4f}"), ("tag recall", f"{right / max(there, 1):.4f}")]
    for name in ("aesthetic", "quality"):
        pairs = np.array([(row[f"score_miniature_{name}"], about["scene"][name]) for row, about in kept])
        found.append((f"{name}, rank correlation with the drawn truth", f"{spearmanr(*pairs.T).statistic:.4f}"))
    return found


def speed(args: argparse.Namespace, seconds: tuple[float, float], rows: Rows) -> Iterator[tuple[str, str]]:
    """Pictures a second of the chain and of separate tools one after another, each at its best number of workers."""
    from separate_tools import Pile, tools

    paths = [args.folder / "drawn" / path for path in rows]
    stayed = [args.folder / "drawn" / path for path, row in rows.items() if not row["dropped"]]
    pile = Pile(args.folder / "drawn", paths, stayed, args.models)
    yield "the chain", f"{len(paths) / seconds[0]:.2f} pictures/s; {seconds[0]:.1f} s, {seconds[1]:.1f} CPU s"
    wall = cpu = 0.0
    for name, tool in tools(not args.no_models).items():
        tries = {workers: measured(partial(tool, pile, workers))[1:] for workers in sorted({1, args.workers})}
        best = min(tries, key=lambda workers: tries[workers][0])
        wall, cpu = wall + tries[best][0], cpu + tries[best][1]
        yield name, f"{tries[best][0]:.1f} s, {tries[best][1]:.1f} CPU s, best with {best} workers"
    yield "separate tools", f"{len(paths) / wall:.2f} pictures/s; {wall:.1f} s, {cpu:.1f} CPU s"
    yield "chain / separate tools", f"{wall / seconds[0]:.2f} by the wall clock, {cpu / seconds[1]:.2f} by CPU"


def show(lines: Iterable[tuple[str, str]]) -> None:
    for what, figure in lines:
        print(f"| {what} | {figure} |", flush=True)


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
    _, *seconds = measured(lambda: curate(args, place))
    rows: Rows = {row["path"]: row for row in catalogue.read(place).to_table().to_pylist()}
    print(f"{args.scenes} scenes of series {args.seed}, {len(truth)} files, {args.workers} workers")
    show(exactness(truth, rows) + duplicates(truth, rows))
    if not args.no_models:
        show(agreement(truth, rows, place))
    if not args.no_tools:
        show(speed(args, (seconds[0], seconds[1]), rows))


if __name__ == "__main__":
    main()
