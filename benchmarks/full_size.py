"""Opens the full-size Stage C and Stage B on this CPU, one after the other, and takes one real step at 1024x1024 with each.

Weights are random bfloat16, written to a scratch file first (7.2 GB, then 3.1 GB; each goes when its row is done). Each network
is opened and run by a process of its own, whose peak of resident memory is printed: `python benchmarks/full_size.py`.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from sotediffusion.generate import Run, own_noise, start_decoder, start_prior, step  # noqa: E402
from sotediffusion.models.cascade import SIZES, Cascade  # noqa: E402
from sotediffusion.types import Request  # noqa: E402
from sotediffusion.weights.reading import read  # noqa: E402
from sotediffusion.weights.shapes import build  # noqa: E402
from sotediffusion.weights.tensors import Stored, write_file  # noqa: E402

PARTS = ("stage_c", "stage_b")
GIB = 2**30


def random_weights(network: nn.Module) -> dict[str, Stored]:
    """Weights for a network on the meta device, made tensor by tensor when they are written."""
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    return {name: _repeated(noise, _spread(name, t), tuple(t.shape)) for name, t in network.state_dict().items()}


def _spread(name: str, tensor: Tensor) -> float:
    """A standard deviation under which nothing overflows: time scales multiply up over a hundred blocks, so they stay small."""
    spread = float(tensor[0].numel() ** -0.5) if tensor.dim() > 1 and tensor.shape[0] > 1 else 0.1
    return spread * 0.1 if ".mapper" in name else spread


def _repeated(noise: Tensor, spread: float, shape: tuple[int, ...]) -> Stored:
    def load() -> Tensor:
        out = torch.empty(shape, dtype=torch.bfloat16)
        for part in out.view(-1).split(len(noise)):
            torch.mul(noise[: len(part)], spread, out=part)
        return out

    return Stored(torch.bfloat16, shape, load)


def peak() -> int:
    """Bytes of resident memory this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def open_and_step(part: str, path: Path) -> dict[str, Any]:
    """Opens one network as the product does, on the meta device with its tensors assigned, and steps one run once."""
    start, began = peak(), time.perf_counter()
    bundle = read(path)
    bundle.settle()
    stored = bundle.parts[part]
    network = build(part, stored.config)
    network.load_state_dict({name: tensor.load() for name, tensor in stored.tensors.items()}, assign=True)
    opened, seconds = peak(), time.perf_counter() - began
    cascade = _cascade(part, network)
    began = time.perf_counter()
    run = started(cascade)
    step(cascade, [run])
    assert run.x is not None and run.x.isfinite().all(), "the step gave something that is no number"
    return {
        "parameters": sum(p.numel() for p in network.parameters()), "weights": stored.bytes, "opening": opened - start,
        "seconds to open": seconds, "seconds to step": time.perf_counter() - began, "peak": peak(),
    }  # fmt: skip


def _cascade(part: str, network: Any) -> Cascade:
    """A cascade of one network: a step of one stage asks for no other."""
    there: dict[str, Any] = {name: network if name == part else None for name in ("stage_a", "stage_b", "stage_c", "text")}
    return Cascade(**there, tokenizer=None, config=SIZES["full"])


def started(cascade: Any) -> Run:
    """A run at the first step of a stage, unguided, for a text and a prior of noise."""
    request = Request("", width=1024, height=1024, guidance=1.0, decoder_guidance=1.0, compression=42.67, seed=0)
    noise, config = own_noise(0), (cascade.stage_c or cascade.stage_b).config
    c_text = config.c_text or config.c_pooled
    run = Run(request, noise, noise((2, 77, c_text), torch.float32), noise((2, 1, config.c_pooled), torch.float32))
    if cascade.stage_c is not None:
        start_prior(cascade, run)
    else:
        run.x = noise((1, config.c_effnet, 24, 24), torch.float32)
        start_decoder(cascade, run)
    return run


def row(size: str, part: str, scratch: Path) -> dict[str, Any]:
    """Writes the weights of one network, has a fresh process open and step it, and removes them again."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / f"{part}.safetensors"
        write_file(path, random_weights(build(part, getattr(SIZES[size], part))), {})
        command = [sys.executable, __file__, "--open", part, str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(size: str, scratch: Path) -> None:
    """Prints a row for each network as it is done."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
          f"{size} size, bfloat16, 1024x1024, one picture, not guided\n")
    print("| network | parameters | weights | s to open | memory of opening | s for the step | peak memory |\n"
          "|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    for part in PARTS:
        found = row(size, part, scratch)
        print(f"| {part} | {found['parameters'] / 1e6:.1f} M | {found['weights'] / GIB:.2f} GiB "
              f"| {found['seconds to open']:.1f} | {found['opening'] / found['weights']:.3f} x the weights "
              f"| {found['seconds to step']:.1f} | {found['peak'] / GIB:.2f} GiB |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "lite", "tiny"), default="full")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the weights lie meanwhile")
    parser.add_argument("--open", nargs=2, metavar=("PART", "FILE"), help="open and step one network here, print it as JSON")
    args = parser.parse_args()
    if args.open:
        print(json.dumps(open_and_step(args.open[0], Path(args.open[1]))))
    else:
        table(args.size, args.scratch)


if __name__ == "__main__":
    main()
