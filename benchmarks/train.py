"""A Stage C training step: ours against the same step written plainly with diffusers' UNet and transformers' Adafactor.

Same weights, latents, texts, noise and loss, in one run and in turns; what is compared is a forward and a backward pass under
autocast, the joint clip and the step. Peak memory is that of a process that does one of them alone.

python benchmarks/train.py --size miniature --batch 8 --threads 2 --runs 5
python benchmarks/train.py --size full --batch 8 --device cuda
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sotediffusion.diffusion.schedule import alpha_sigma, log_snr, time_condition
from sotediffusion.models.cascade import SIZES
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.unet import UNetConfig
from sotediffusion.train.footprint import operations
from sotediffusion.train.loss import draw, p2
from sotediffusion.train.optim.kinds import Choice, groups
from sotediffusion.train.optim.stepping import Stepper, Stepping
from sotediffusion.train.rate import matmul_rate

LR, CLIP = 1e-5, 1.0
MID = replace(SIZES["full"].stage_c, c_cond=512, widths=(512, 512), heads=(8, 8), down=(2, 6), up=(6, 2))  # about 60M weights
CONFIGS = {**{name: size.stage_c for name, size in SIZES.items()}, "mid": MID}
KINDS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}

Step = Callable[[], float]


class Inputs:
    """What both sides are given: the same for every step."""

    def __init__(self, config: UNetConfig, batch: int, cells: tuple[int, int], device: str):
        g = torch.Generator().manual_seed(0)
        self.hidden, self.pooled, self.x0 = (torch.randn(shape, generator=g).to(device) for shape in (
            (batch, 77, config.c_text), (batch, 1, config.c_pooled), (batch, config.c_latent, *cells)))  # fmt: skip
        t, noise = draw([(0, 0, number) for number in range(batch)], tuple(self.x0.shape[1:]))
        logsnr = log_snr(t).float()
        a, b = (value.float().view(-1, 1, 1, 1) for value in alpha_sigma(logsnr))
        self.noise, self.r, self.weight = noise.to(device), time_condition(logsnr).float().to(device), p2(logsnr).to(device)
        self.noised = a.to(device) * self.x0 + b.to(device) * self.noise

    def loss(self, eps: Tensor) -> Tensor:
        """P2-weighted squared error."""
        return (self.weight * (eps.float() - self.noise).square().flatten(1).mean(1)).mean()


def weights(config: UNetConfig, dropout: float | None = 0.0) -> StageC:
    """A network whose every path matters, the same one each time."""
    torch.manual_seed(0)
    network = StageC(config)
    network.init_weights()
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Dropout) and dropout is not None:
            module.p = dropout
    return network.train()


def ours(config: UNetConfig, given: Inputs, device: str, bf16: bool) -> Step:
    """The product's network, optimizer and way to a step."""
    network = weights(config).to(device)
    modules = nn.ModuleDict({"stage_c": network})
    stepper = Stepper(modules, Choice("adafactor", 0.0), groups(modules, LR), Stepping(CLIP))

    def step() -> float:
        stepper.begin(1.0, 0)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = given.loss(network(given.noised, given.r, network.condition(given.hidden, given.pooled)))
        (loss * stepper.take(1.0)).backward()
        stepper.norm()
        stepper.step()
        return float(loss.detach())

    return step


def theirs(config: UNetConfig, given: Inputs, device: str, bf16: bool) -> Step:
    """diffusers' network and transformers' Adafactor, as a training script has them."""
    from transformers.optimization import Adafactor

    network = plain_unet(config).to(device).train()
    optimizer = Adafactor(network.parameters(), lr=LR, scale_parameter=False, relative_step=False, warmup_init=False)
    image = torch.zeros(len(given.x0), 1, config.c_image, device=device)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            eps = network(sample=given.noised, timestep_ratio=given.r, clip_text_pooled=given.pooled, clip_text=given.hidden,
                          clip_img=image).sample  # fmt: skip
            loss = given.loss(eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def plain_unet(config: UNetConfig) -> Any:
    """diffusers' Stage C with our weights."""
    from diffusers.models.unets import StableCascadeUNet

    from sotediffusion.weights.formats import to_diffusers
    from sotediffusion.weights.tensors import in_memory

    c = config
    network = StableCascadeUNet(
        in_channels=c.c_latent, out_channels=c.c_latent, timestep_ratio_embedding_dim=c.c_r, patch_size=c.patch,
        conditioning_dim=c.c_cond, block_out_channels=c.widths, num_attention_heads=c.heads, down_num_layers_per_block=c.down,
        up_num_layers_per_block=c.up, down_blocks_repeat_mappers=c.down_repeats, up_blocks_repeat_mappers=c.up_repeats,
        block_types_per_layer=tuple(tuple(KINDS[kind] for kind in level) for level in c.levels), clip_text_in_channels=c.c_text,
        clip_text_pooled_in_channels=c.c_pooled, clip_image_in_channels=c.c_image, clip_seq=c.c_seq, dropout=0.0,
        self_attn=c.self_attn, timestep_conditioning_type=c.conds, switch_level=c.switch_level,
    )  # fmt: skip
    tensors = {name: in_memory(value) for name, value in weights(config).state_dict().items()}
    network.load_state_dict({name: value.load() for name, value in to_diffusers("stage_c", tensors).items()})
    return network


SIDES = {"ours": ours, "diffusers": theirs}


def timed(steps: dict[str, Step], runs: int, device: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and losses of each side's steps, in turns, after two that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(runs + 2):
        for name, step in steps.items():
            started = _now(device)
            losses[name].append(step())
            if run >= 2:
                seconds[name].append(_now(device) - started)
    return seconds, losses


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(options: argparse.Namespace, side: str) -> float:
    """MiB at most of a process that does two steps of one side."""
    told = ("size", "batch", "rows", "columns", "device", "threads", "bf16")
    arguments = [f"--{name}={getattr(options, name)}" for name in told]
    result = subprocess.run([sys.executable, __file__, *arguments, "--alone", side], capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.splitlines()[-1]))


def alone(options: argparse.Namespace) -> float:
    """Two steps of one side; the most memory that they took, in MiB, without that of the libraries."""
    config, device = CONFIGS[options.size], options.device
    for library in ("transformers.optimization", "diffusers.models.unets") if options.alone == "diffusers" else ():
        import_module(library)
    before = _resident("VmRSS")
    given = Inputs(config, options.batch, (options.rows, options.columns), device)
    step = SIDES[options.alone](config, given, device, bool(options.bf16))
    for _ in range(2):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _resident("VmHWM") - before


def _resident(what: str) -> float:
    """MiB of this process, now (VmRSS) or at most (VmHWM); what getrusage tells is the parent's where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed."""
    config, device, bf16 = CONFIGS[options.size], options.device, bool(options.bf16)
    given = Inputs(config, options.batch, (options.rows, options.columns), device)
    steps = {name: make(config, given, device, bf16) for name, make in SIDES.items()}
    seconds, losses = timed(steps, options.runs, device)
    with torch.device("meta"):
        hollow = StageC(config)
    hidden, pooled, x, r = (torch.empty(1, *value.shape[1:], device="meta")
                            for value in (given.hidden, given.pooled, given.noised, given.r))  # fmt: skip
    forward = operations(lambda: F.mse_loss(hollow(x, r, hollow.condition(hidden, pooled)), x))
    rate = matmul_rate(device, torch.bfloat16 if bf16 else torch.float32)
    found: dict[str, Any] = {"weights": sum(p.numel() for p in hollow.parameters()), "matmul TFLOP/s": rate / 1e12}
    for name in SIDES:
        speed = options.batch / statistics.median(seconds[name])
        spread = [options.batch / value for value in (max(seconds[name]), min(seconds[name]))]
        found[name] = {"images/s": speed, "from, to": spread, "MFU": 3 * forward * speed / rate, "first losses": losses[name][:3]}
        if options.memory:
            found[name]["peak MiB"] = peak(options, name)
    found["ours / diffusers"] = found["ours"]["images/s"] / found["diffusers"]["images/s"]
    found["largest difference of a loss"] = max(abs(a - b) / a for a, b in zip(losses["ours"], losses["diffusers"], strict=True))
    return found


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=CONFIGS, default="miniature")
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--rows", type=int, default=24, help="latent cells")
    made.add_argument("--columns", type=int, default=24)
    made.add_argument("--runs", type=int, default=5)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--bf16", type=int, choices=(0, 1), default=1)
    made.add_argument("--memory", type=int, choices=(0, 1), default=1, help="measure peaks, in processes of their own")
    made.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    given_options = parser().parse_args()
    torch.set_num_threads(given_options.threads)
    print(json.dumps(alone(given_options)) if given_options.alone else json.dumps(compare(given_options), indent=2))
