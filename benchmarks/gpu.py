"""Times full-size drawing on one GPU, offline: `python benchmarks/gpu.py` prints a markdown table in under nine minutes.

Weights are random and made on the device; the picture is the card's (1024x1536, 30 + 10 steps, guidance 7 and 2), bfloat16.
Rows: `eager`; `graphs`, whole forwards recorded as CUDA graphs; `compiled`, the same over blocks fused by torch.compile. Each is
a process of its own, so that one which fails or hangs is reported and the next goes on. `--size tiny --device cpu` tries it all
out where there is no GPU: nothing is recorded there, the forward runs on the buffers that a graph would have.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from sotediffusion.generate import DONE, generate, prior_cells  # noqa: E402
from sotediffusion.models.cascade import SIZES, Cascade, Conventions  # noqa: E402
from sotediffusion.models.layers import AttnBlock, ResBlock, TimestepBlock  # noqa: E402
from sotediffusion.models.unet import Conditioning, UNet  # noqa: E402
from sotediffusion.text.tokenizer import ClipTokenizer  # noqa: E402
from sotediffusion.types import Event, Request, UserError  # noqa: E402
from sotediffusion.weights.shapes import build  # noqa: E402
from sotediffusion.weights.store import present  # noqa: E402

PROMPT = ("newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, "
          "looking at viewer, smile, indoors, casual, living room, playing guitar,")
NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest,"
PIXELS = {"full": (1024, 1536), "lite": (1024, 1536), "tiny": (128, 192)}  # width and height
MODES = ("eager", "graphs", "compiled")
STAGES = ("text", "stage c", "stage b", "stage a")
ENOUGH = 20  # seconds of timed drawing after which a row is not repeated
REST = 10  # seconds under which no further row is begun


# The cascade


def random_cascade(size: str, device: torch.device) -> Cascade:
    """A cascade of random bfloat16 weights, made on the device."""
    torch.manual_seed(0)
    networks: dict[str, Any] = {}
    for name in ("text", "stage_c", "stage_b", "stage_a"):
        network = build(name, getattr(SIZES[size], name)).to(torch.bfloat16).to_empty(device=device).requires_grad_(False)
        fill(network)
        networks[name] = network
    width, height = PIXELS[size]
    conventions = Conventions(width=width, height=height)
    return Cascade(**networks, tokenizer=ClipTokenizer(), config=SIZES[size], conventions=conventions, name=f"random {size}")


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Weights under which every path matters and nothing overflows: zeros would be faster than real data and hide errors."""
    for name, weight in network.named_parameters():
        if weight.dim() > 1 and weight.shape[0] > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            weight.fill_(1)
        else:
            weight.normal_(std=0.1)
    for name, buffer in network.named_buffers():
        buffer.fill_(1 if name.endswith("running_var") else 0)
    if isinstance(network, UNet):
        for block in network.blocks(TimestepBlock):  # scales multiply up over a hundred blocks
            for weight in block.parameters():
                weight.mul_(0.1)


# Faster forwards


@dataclass
class Take:
    """A recorded forward: the buffers it reads, what replays it and gives its answer, and whose conditioning lies in them."""

    x: Tensor
    r: Tensor
    cond: Conditioning
    replay: Callable[[], Tensor]
    loaded: Conditioning | None = None

    def play(self, x: Tensor, r: Tensor, cond: Conditioning) -> Tensor:
        """The answer for these inputs, which are copied into the buffers; a conditioning that is there already is not."""
        self.x.copy_(x)
        self.r.copy_(r)
        if self.loaded is not cond:
            for buffer, tensor in zip(tensors(self.cond), tensors(cond), strict=True):
                buffer.copy_(tensor)
            self.loaded = cond
        return self.replay()


class Recorder:
    """Stands in for a network's forward: records it once per shape, checks the record against the forward, and replays it."""

    def __init__(self, forward: Callable[..., Tensor], pool: Any):
        self.forward = forward
        self.pool = pool  # of graph memory, shared by the networks of a cascade, which take turns
        self.takes: dict[tuple[Any, ...], Take] = {}
        self.error = 0.0  # relative, the largest of all records

    def __call__(self, x: Tensor, r: Tensor, cond: Conditioning) -> Tensor:
        key = (x.shape, cond.keys[0].shape, cond.mask is None)
        if key not in self.takes:
            with torch.compiler.set_stance("force_eager"):
                wanted = self.forward(x, r, cond)
            self.takes[key] = self._record(x, r, cond)
            self.error = max(self.error, distance(self.takes[key].play(x, r, cond), wanted))
        return self.takes[key].play(x, r, cond)

    def _record(self, x: Tensor, r: Tensor, cond: Conditioning) -> Take:
        """Recorded on other numbers than it is checked on, so that none can have stayed behind in it."""
        x, r, cond = torch.randn_like(x), torch.rand_like(r), noise_like(cond)

        def forward() -> Tensor:
            return self.forward(x, r, cond)

        if x.device.type != "cuda":
            return Take(x, r, cond, forward)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # compiles, picks kernels and makes handles, which a recording must not
                forward()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            answer = forward()

        def replay() -> Tensor:
            graph.replay()
            return answer.clone()

        return Take(x, r, cond, replay)


def tensors(cond: Conditioning) -> Iterator[Tensor]:
    """All tensors of a conditioning, in a fixed order."""
    yield from (*cond.keys, *cond.values, *cond.shifts)
    yield from (part for part in (cond.mask, cond.spatial) if part is not None)


def noise_like(cond: Conditioning) -> Conditioning:
    """Noise in the shapes of a conditioning; the mask stays as it is."""
    keys, values, shifts = ([torch.randn_like(part) for part in parts] for parts in (cond.keys, cond.values, cond.shifts))
    mask = None if cond.mask is None else cond.mask.clone()
    return Conditioning(keys, values, shifts, mask, None if cond.spatial is None else torch.randn_like(cond.spatial))


def distance(out: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return ((out.double() - wanted.double()).norm() / wanted.double().norm()).item()


def speed_up(cascade: Cascade, mode: str) -> list[Recorder]:
    """Replaces the forwards of both stages, and nothing else, by faster ones that give the same."""
    if mode == "eager":
        return []
    recorders = []
    pool = torch.cuda.graph_pool_handle() if next(cascade.stage_c.parameters()).is_cuda else None
    for network in (cascade.stage_c, cascade.stage_b):
        if mode == "compiled":
            compile_blocks(network)
        recorders.append(Recorder(network.forward, pool))
        network.forward = recorders[-1]  # type: ignore[method-assign]
    return recorders


def compile_blocks(network: nn.Module) -> None:
    """Compiles block by block: blocks of one class and shape share their code, so that a network compiles about a dozen."""
    torch._dynamo.config.recompile_limit = 64  # shapes of one class, over levels and skips
    for module in network.modules():
        if isinstance(module, (ResBlock, AttnBlock, TimestepBlock)):
            module.compile(dynamic=False)


# Measuring


def order(args: argparse.Namespace, count: int) -> Request:
    """The card's order at the asked settings."""
    return Request(PROMPT, NEGATIVE, steps=args.steps, decoder_steps=args.decoder_steps, seed=0, count=count)


def measure(args: argparse.Namespace, mode: str, batch: int) -> dict[str, float]:
    """One row: seconds a picture by stage, peak memory, error of the replaced forwards, and seconds until warm."""
    began = time.perf_counter()
    device = present(args.device)
    cascade = random_cascade(args.size, device)
    recorders = speed_up(cascade, mode)
    request = order(args, batch)
    hooks = [network.register_forward_hook(must_be_finite) for network in (cascade.stage_c, cascade.stage_b)]
    generate(cascade, replace(request, steps=1, decoder_steps=1), batch=batch)
    for hook in hooks:
        hook.remove()
    forget_peak(device)
    warm = time.perf_counter() - began
    runs: list[dict[str, float]] = []
    while len(runs) < args.runs and sum(sum(run.values()) for run in runs) < ENOUGH:
        runs.append(stage_seconds(cascade, request, device))
    totals = [sum(run.values()) for run in runs]
    stages = {stage: statistics.median(run[stage] for run in runs) / batch for stage in STAGES}
    return {
        **stages, "seconds": statistics.median(totals) / batch, "spread": (max(totals) - min(totals)) / batch, "warm": warm,
        "error": max((recorder.error for recorder in recorders), default=0.0), "peak": peak_bytes(device) / 2**30,
        "rate": matmul_rate(device),
    }  # fmt: skip


def must_be_finite(network: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook: numbers that are none are not worth timing."""
    if not output.isfinite().all():
        raise ArithmeticError(f"{type(network).__name__} gave something that is no number")


def stage_seconds(cascade: Cascade, request: Request, device: torch.device) -> dict[str, float]:
    """Draws an order as one batch and returns the seconds of each stage."""
    marks: list[tuple[str, float]] = []

    def mark(event: Event) -> None:
        if not marks or marks[-1][0] != event.stage:
            synchronize(device)
            marks.append((event.stage, time.perf_counter()))

    generate(cascade, request, mark, request.count)
    assert marks[-1][0] == DONE
    return {stage: later - earlier for (stage, earlier), (_, later) in pairwise(marks)}


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: reserved on a GPU, graphs included, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: torch.device) -> None:
    """Leaves out of a GPU's peak what only the warming up needed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def matmul_rate(device: torch.device) -> float:
    """TFLOP/s of a large bfloat16 matrix product of random numbers, the median of ten."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(13):
        synchronize(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds[3:]) / 1e12


@torch.inference_mode()
def work(size: str, request: Request) -> float:
    """TFLOP of one guided picture, counted on the meta device: 568 at full size for the card's, less what is done once."""
    with torch.device("meta"):
        stages: dict[str, Any] = {name: build(name, getattr(SIZES[size], name)) for name in ("stage_c", "stage_b", "stage_a")}
        text, pooled = torch.empty(2, 77, SIZES[size].text.width), torch.empty(2, 1, SIZES[size].text.projection)
        prior = torch.empty(2, 16, *prior_cells(request))
        latent = torch.empty(2, 4, (request.height or 0) // 4, (request.width or 0) // 4)
        r = torch.empty(2)
        once_c, cond = _counted(lambda: stages["stage_c"].condition(text, pooled))
        step_c, _ = _counted(lambda: stages["stage_c"](prior, r, cond))
        once_b, cond = _counted(lambda: stages["stage_b"].condition(prior, pooled, tuple(latent.shape[2:])))
        step_b, _ = _counted(lambda: stages["stage_b"](latent, r, cond))
        decode, _ = _counted(lambda: stages["stage_a"].decode(latent[:1]))
    return once_c + request.steps * step_c + once_b + request.decoder_steps * step_b + decode


def _counted(call: Callable[[], Any]) -> tuple[float, Any]:
    with FlopCounterMode(display=False) as counter:
        result = call()
    return counter.get_total_flops() / 1e12, result


# The table

COLUMNS = ("mode", "batch", "s/picture", "+-", *STAGES, "TFLOP/s", "of the floor", "peak GiB", "error", "s until warm")


def row_alone(args: argparse.Namespace, mode: str, batch: int, limit: float) -> dict[str, Any]:
    """Measures one row in a process of its own; `trouble` says in a line why there is none."""
    options = ("size", "device", "steps", "decoder_steps", "runs")
    command = [sys.executable, __file__, "--row", mode, str(batch)]
    command += [text for name in options for text in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, process_group=0)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return {"trouble": f"stopped after {limit:.0f} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its compile workers too
                process.wait()
        out.seek(0)
        errors.seek(0)
        if process.returncode == 0:
            return json.loads(out.read().splitlines()[-1])
        said = [line for line in errors.read().splitlines() if line.strip()]
        return {"trouble": f"failed ({process.returncode}): {said[-1][:300] if said else 'without a word'}"}


def cells(mode: str, batch: int, row: dict[str, Any], tflop: float) -> list[str]:
    """A row of the table as text."""
    if "trouble" in row:
        return [mode, str(batch), row["trouble"], *[""] * (len(COLUMNS) - 3)]
    rate = tflop / row["seconds"]
    numbers = [row["seconds"], row["spread"], *(row[stage] for stage in STAGES)]
    return [mode, str(batch), *(f"{value:.3f}" for value in numbers), f"{rate:.3g}", f"{rate / row['rate']:.1%}",
            f"{row['peak']:.2f}", f"{row['error']:.1e}", f"{row['warm']:.0f}"]  # fmt: skip


def table(args: argparse.Namespace) -> None:
    """Prints the table row by row, as each is measured."""
    ends = time.monotonic() + args.budget
    device = present(args.device)
    width, height = PIXELS[args.size]
    request = settled(args)
    tflop = work(args.size, request)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}; {args.size} size, random bfloat16 weights, {width}x{height}, {args.steps} + "
          f"{args.decoder_steps} steps, guidance {request.guidance:g} and {request.decoder_guidance:g}\n", flush=True)
    print(_line(COLUMNS), _line(["---"] * len(COLUMNS)), sep="\n", flush=True)
    waiting = [(mode, batch) for batch in args.batches for mode in args.modes]
    rates: list[float] = []
    for i, (mode, batch) in enumerate(waiting):
        left = ends - time.monotonic()
        limit = left if i == len(waiting) - 1 else left / 2  # one that hangs leaves time for those that wait
        row: dict[str, Any] = {"trouble": "skipped: the time budget is spent"}
        if left > REST:
            row = row_alone(args, mode, batch, limit)
        rates += [row["rate"]] if "rate" in row else []
        print(_line(cells(mode, batch, row, tflop)), flush=True)
    if rates:
        rate = statistics.median(rates)
        print(f"\nFloor: {tflop:.4g} TFLOP a picture at {rate:.3g} TFLOP/s of a large bfloat16 matrix product = "
              f"{tflop / rate:.3g} s. Error: replayed forwards against eager ones. Stages are seconds a picture.", flush=True)


def settled(args: argparse.Namespace) -> Request:
    """The order with the size's own width, height and compression."""
    width, height = PIXELS[args.size]
    return replace(order(args, 1), width=width, height=height, compression=Conventions().compression)


def _line(texts: Any) -> str:
    return "| " + " | ".join(text.replace("|", "/") for text in texts) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(PIXELS), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--decoder-steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3, help="timed drawings a row, fewer where they are slow")
    parser.add_argument("--budget", type=float, default=500, help="seconds for everything; rows that no longer fit are skipped")
    parser.add_argument("--row", nargs=2, metavar=("MODE", "BATCH"), help="measure one row here and print it as JSON")
    args = parser.parse_args()
    try:
        if args.row:
            print(json.dumps(measure(args, args.row[0], int(args.row[1]))))
        else:
            table(args)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
