"""Times the exact search for near-duplicates: `python benchmarks/dedupe.py [--count 6000000] [--kind skewed] [--radius 10]`.

Runs each (kind, radius) in a process of its own, so that each peak of memory is its own. Times are from the hashes in memory to
the columns group and distance; making the hashes and compiling the loops (once per machine) are not in them.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from sotediffusion.curate.dedupe.groups import Nodes, stars  # noqa: E402
from sotediffusion.curate.dedupe.neighbours import near_pairs  # noqa: E402
from sotediffusion.curate.dedupe.verdicts import Verdicts  # noqa: E402

Array = np.ndarray[Any, Any]
COPIES = 0.08  # of all hashes are another's, with FLIPS bits flipped
FLIPS = 13  # at most 12
HEIGHT, WIDTH = 16, 17
MARGINS = 0.35  # of the pictures have white margins left and right or above and below


def uniform(count: int, rng: np.random.Generator) -> Array:
    """Hashes (N, 32) of independent fair bits."""
    return rng.integers(0, 256, (count, 32), dtype=np.uint8)


def skewed(count: int, rng: np.random.Generator) -> Array:
    """Gradient hashes of random 1/f fields, some with white margins: as in pictures, bits agree far too often."""
    spread = _pink_filter()
    out = np.empty((count, 32), np.uint8)
    for first in range(0, count, 1 << 16):
        size = min(1 << 16, count - first)
        noise = rng.standard_normal((size, HEIGHT * WIDTH), np.float32)
        fields = (noise @ spread).reshape(size, HEIGHT, WIDTH)
        _lay_margins(fields, rng)
        bits = fields[:, :, 1:] > fields[:, :, :-1]
        out[first : first + size] = np.packbits(bits.reshape(size, -1), axis=1, bitorder="little")
    return out


def _pink_filter() -> Array:
    """(P, P) that turns white noise of P pixels into noise whose amplitude falls as 1/f."""
    u, v = np.fft.fftfreq(2 * WIDTH)[None, :] * 2 * WIDTH, np.fft.fftfreq(2 * HEIGHT)[:, None] * 2 * HEIGHT
    amplitude = 1 / np.sqrt(u**2 + v**2 + 0.25)
    kernel = np.real(np.fft.ifft2(amplitude))
    y, x = np.divmod(np.arange(HEIGHT * WIDTH), WIDTH)
    matrix = kernel[(y[:, None] - y) % (2 * HEIGHT), (x[:, None] - x) % (2 * WIDTH)]
    return (matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32)


def _lay_margins(fields: Array, rng: np.random.Generator) -> None:
    size = len(fields)
    with_margin = rng.random(size) < MARGINS
    sides = rng.random(size) < 0.5
    width = rng.integers(1, 6, size)
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    aside = (columns < width[:, None]) | (columns >= WIDTH - width[:, None])
    above = (rows < width[:, None]) | (rows >= HEIGHT - width[:, None])
    white = np.where(sides[:, None, None], aside[:, None, :], above[:, :, None]) & with_margin[:, None, None]
    fields[white] = 4.0


def plant(hashes: Array, rng: np.random.Generator) -> int:
    """Overwrite the last COPIES of the hashes with near-copies of others; how many."""
    count = int(len(hashes) * COPIES)
    sources = rng.integers(0, len(hashes) - count, count)
    flips = rng.integers(0, FLIPS, count)
    copies = np.unpackbits(hashes[sources], axis=1)
    for turn in range(FLIPS - 1):
        rows = np.flatnonzero(flips > turn)
        copies[rows, rng.integers(0, 256, len(rows))] ^= 1
    hashes[len(hashes) - count :] = np.packbits(copies, axis=1)
    return count


def effective_bits(hashes: Array, rng: np.random.Generator) -> float:
    """Mean^2 / variance of the distances of random pairs: 256 for independent fair bits."""
    one, other = rng.integers(0, len(hashes), (2, 200_000))
    distance = np.bitwise_count(hashes[one] ^ hashes[other]).sum(1)
    return float(distance.mean() ** 2 / distance.var())


def group(hashes: Array, radius: int, threads: int) -> tuple[Array, int, dict[str, float]]:
    """Keepers of all rows, the number of pairs, and the seconds of each part; rows rank by their number."""
    marks = [time.perf_counter()]
    nodes = Nodes.of(hashes, pa.nulls(len(hashes), pa.string()), np.zeros(len(hashes), bool), Verdicts())
    marks.append(time.perf_counter())
    pairs = near_pairs(nodes.hashes, radius, threads)
    marks.append(time.perf_counter())
    keeper = stars(nodes, pairs, nodes.rows_in(pairs))
    marks.append(time.perf_counter())
    parts = zip(("distinct s", "search s", "group s"), np.diff(marks).tolist(), strict=True)
    return keeper, len(pairs.one), {name: round(seconds, 2) for name, seconds in parts}


def measure(kind: str, count: int, radius: int, threads: int) -> dict[str, Any]:
    """One run: seconds of each part, pairs, groups, peak of memory in GB."""
    rng = np.random.default_rng(7)
    warm = uniform(1000, rng)
    group(warm, radius, threads)
    hashes = KINDS[kind](count, rng)
    planted = plant(hashes, rng)
    bits = effective_bits(hashes, rng)
    start, busy = time.perf_counter(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keeper, pairs, marks = group(hashes, radius, threads)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    aims = dict(zip(("aim s", "aim GB"), AIMS.get(radius, ()), strict=False)) if count == 6_000_000 else {}
    return {
        "kind": kind, "count": count, "radius": radius, "effective bits": round(bits), "planted": planted,
        "pairs": pairs, "left out": int((keeper != np.arange(count)).sum()),
        **marks, "total s": round(took, 2), "cpu s": round(busy, 2), "peak GB": round(peak, 2),
        "of it before GB": round(before / 2**20, 2), **aims,
    }  # fmt: skip


KINDS = {"uniform": uniform, "skewed": skewed}
AIMS = {10: (5.0, 1.5), 24: (60.0, 2.0)}  # seconds and GB for 6M hashes on two cores, by radius


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6_000_000)
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="in this process")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args.kind, args.count, args.radius[0], args.threads)))
        return
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, python {platform.python_version()}")
    for kind in KINDS if args.kind == "all" else (args.kind,):
        for radius in args.radius or (10, 24):
            options = ["--kind", kind, "--count", str(args.count), "--radius", str(radius), "--threads", str(args.threads)]
            subprocess.run([sys.executable, __file__, *options, "--alone"], check=True)


if __name__ == "__main__":
    main()
