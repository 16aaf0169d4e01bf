"""Times drawing by ours and by diffusers on the same weights, in one run: `python benchmarks/generate.py [--size mid]`.

Compares first what they draw, then alternates them, both in float32 and ours in bfloat16 too, and prints medians, their ratios,
peak memory of a process that does only one of them, and the share of the machine's measured matmul rate.
"""

import argparse
import copy
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sotediffusion.models.cascade import PARTS, SIZES, Cascade, Conventions  # noqa: E402
from sotediffusion.text.tokenizer import ClipTokenizer  # noqa: E402

PROMPT = ("newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, "
          "looking at viewer, smile, indoors, casual, living room, playing guitar,")
NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest,"
_FULL = SIZES["full"]
MID = replace(  # about 120M parameters in all, 16M of them token embeddings
    _FULL,
    stage_a=replace(_FULL.stage_a, width=192),
    stage_b=replace(_FULL.stage_b, c_cond=320, widths=(96, 192, 320, 320), heads=(-1, -1, 5, 5), down=(2, 4, 8, 4),
                    up=(4, 8, 4, 2), c_pooled=320),
    stage_c=replace(_FULL.stage_c, c_cond=512, widths=(512, 512), heads=(8, 8), down=(2, 5), up=(5, 2), c_text=320, c_pooled=320),
    text=replace(_FULL.text, width=320, layers=4, heads=5, hidden=1280, projection=320),
)  # fmt: skip


def random_cascade() -> Cascade:
    """The mid-size cascade with random weights that draw something finite."""
    from tiny import fill

    networks: dict[str, Any] = {}
    for i, name in enumerate(("text", "stage_c", "stage_b", "stage_a")):
        networks[name] = PARTS[name](getattr(MID, name)).eval().requires_grad_(False)
        fill(networks[name], i)
    return Cascade(**networks, tokenizer=ClipTokenizer(), config=MID, conventions=Conventions(width=512, height=512), name="mid")


def open_size(size: str) -> Cascade:
    """The embedded cascade, or the mid-size one."""
    if size == "mid":
        return random_cascade()
    from sotediffusion.weights.store import open_cascade

    cascade = open_cascade(str(files("sotediffusion") / "miniature" / "weights"), dtype=torch.float32)
    # Both sides draw under the only conventions that diffusers knows; times are the same, pictures are no good.
    return replace(cascade, conventions=replace(Conventions(), width=SIDE["miniature"], height=SIDE["miniature"]))


def ours(cascade: Cascade, seed: int) -> Any:
    """One picture by the product's own face."""
    from sotediffusion import StableCascadeCombinedPipeline

    pipe = StableCascadeCombinedPipeline(cascade)
    pipe.set_progress_bar_config(disable=True)
    return lambda: _call(pipe, cascade, seed)


def fast(cascade: Cascade, seed: int) -> Any:
    """One picture by the product's own face in bfloat16."""
    from sotediffusion import StableCascadeCombinedPipeline

    own = replace(cascade, **{name: copy.deepcopy(network) for name, network in cascade.parts().items()})  # type: ignore[arg-type]
    pipe = StableCascadeCombinedPipeline(own).to(dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return lambda: _call(pipe, cascade, seed)


def theirs(cascade: Cascade, seed: int) -> Any:
    """One picture by diffusers, built from objects around the same weights."""
    import reference_pipelines

    pipe = reference_pipelines.combined(reference_pipelines.components(cascade))
    return lambda: _call(pipe, cascade, seed)


def _call(pipe: Any, cascade: Cascade, seed: int) -> Any:
    return pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, width=SIDE[cascade.name], height=SIDE[cascade.name],
        prior_num_inference_steps=30, prior_guidance_scale=7.0, num_inference_steps=10, decoder_guidance_scale=2.0,
        output_type="np", generator=torch.Generator().manual_seed(seed),
    ).images[0]  # fmt: skip


SIDES = {"ours": ours, "ours, bfloat16": fast, "diffusers": theirs}
SAME = 1e-3  # of 1, by which pixels may differ in float32
SIDE = {"mid": 512, "miniature": 256}  # px; diffusers knows compression 42.67 only, and multiples of 128


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of several."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = min(_timed(lambda: a @ b)[0] for _ in range(20))
    return 2 * 1024**3 / best


def _linear_flop(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Of the shapes of x (..., K) and weight (N, K)."""
    return 2 * math.prod(x) * weight[0]


def _attention_flop(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


# A CPU's operators of which torch's counter does not know the cost.
FLOPS = {torch.ops.mkldnn._linear_pointwise: _linear_flop,
         torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}  # fmt: skip


def _timed(call: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def peak() -> float:
    """MiB that this process has needed at most; getrusage would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024  # type: ignore[index]


def peak_memory(side: str, args: argparse.Namespace) -> float:
    """MiB that a process needs which draws once by one side only."""
    command = [sys.executable, __file__, "--size", args.size, "--only", side, "--threads", str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("miniature", "mid"), default="miniature")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=SIDES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cascade = open_size(args.size)
    if args.only:
        SIDES[args.only](cascade, 0)()
        print(peak())
        return
    sides = {name: side(cascade, 0) for name, side in SIDES.items()}
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        picture = sides["ours"]()
    first = {name: _timed(call) for name, call in sides.items()}  # warms them up too
    others = {name: abs(picture - drawn) for name, (_, drawn) in first.items() if name != "ours"}
    if not (apart := others["diffusers"].max()) <= SAME:
        parser.exit(1, f"ours and diffusers' pictures differ by {apart:.2g} of 1, at most {SAME} is allowed\n")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.runs):
        for name, call in sides.items():
            seconds[name].append(_timed(call)[0])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    flops, rate = counter.get_total_flops(), matmul_rate(torch.float32)
    print(f"{args.size}, {SIDE[cascade.name]} px, 30 + 10 steps, guidance 7 and 2, float32, {args.threads} threads, "
          f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    narrow = matmul_rate(torch.bfloat16)
    print(f"{flops / 1e12:.3f} TFLOP a picture; matmul {rate / 1e9:.0f} GFLOP/s, {narrow / 1e9:.0f} in bfloat16")
    for name, difference in others.items():
        print(f"ours against {name}: pixels differ by {difference.max():.2g} of 1 at most, {difference.mean():.2g} on average")
    for name in sides:
        share = flops / median[name] / rate
        print(f"{name:15} {median[name]:7.2f} s  (min {min(seconds[name]):.2f}, max {max(seconds[name]):.2f})  "
              f"{share:5.1%} of the float32 rate  first {first[name][0]:.2f} s  peak {peak_memory(name, args):.0f} MiB")
    for name in ("ours", "ours, bfloat16"):
        print(f"diffusers / {name}: {median['diffusers'] / median[name]:.2f}")


if __name__ == "__main__":
    main()
