"""How many scenes of the drawn world one core renders a second: python benchmarks/scenes.py"""

import argparse
import statistics
import time

from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import sample_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--side", type=int, default=512, help="px")
    args = parser.parse_args()
    seconds = []
    for index in range(args.scenes):
        scene, began = sample_scene(1, index), time.process_time()
        render(scene, args.side, args.side)
        seconds.append(time.process_time() - began)
    print(f"{args.scenes / sum(seconds):.1f} scenes a CPU second at {args.side} x {args.side} px; "
          f"one takes {statistics.median(seconds) * 1000:.1f} ms (median), {max(seconds) * 1000:.1f} ms at most")


if __name__ == "__main__":
    main()
