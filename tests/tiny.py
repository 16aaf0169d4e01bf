"""A whole cascade of random weights, small enough for every test."""

from dataclasses import replace
from functools import cache

import torch

from sotediffusion.models.cascade import PARTS, SIZES, Cascade, CascadeConfig, Conventions
from sotediffusion.models.image_encoder import ImageEncoder
from sotediffusion.models.unet import UNet
from sotediffusion.text.tokenizer import ClipTokenizer


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights that let every path matter: nothing is zero, nothing explodes."""
    g = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if "norm" in name and p.dim() == 1:
            p.data.copy_(1 + 0.1 * torch.randn(p.shape, generator=g))
        else:
            scale = p[0].numel() ** -0.5 if p.dim() > 1 and p.shape[0] > 1 else 0.3
            p.data.copy_(torch.randn(p.shape, generator=g) * scale)


@cache
def tiny_cascade(dtype: torch.dtype = torch.float32) -> Cascade:
    """The same object at every call: do not change it."""
    return _filled(replace(SIZES["tiny"], image=None), dtype)


@cache
def lite_cascade(dtype: torch.dtype = torch.float32) -> Cascade:
    """As the lite networks differ from the full ones, so this from the tiny: narrower, shallower, each level of B gone through
    twice on the way up. The same object at every call."""
    full, lite = SIZES["tiny"], SIZES["lite"]
    stage_b = replace(full.stage_b, widths=(16, 12, 24, 24), heads=(-1, 3, 3, 3), down=(1, 1, 1, 1), up=(1, 1, 1, 1),
                      up_repeats=lite.stage_b.up_repeats)  # fmt: skip
    stage_c = replace(full.stage_c, c_cond=24, widths=(24, 24), heads=(3, 3), down=(1, 3), up=(3, 1))
    return _filled(replace(full, image=None, stage_b=stage_b, stage_c=stage_c), dtype)


def _filled(config: CascadeConfig, dtype: torch.dtype) -> Cascade:
    networks = {}
    for i, (name, kind) in enumerate(PARTS.items()):
        network = kind(getattr(config, name)).eval().requires_grad_(False)
        fill(network, i)
        if isinstance(network, UNet):
            network.clf[1].weight.mul_(0.5)
        networks[name] = network.to(dtype)
    conventions = Conventions(width=128, height=192, area=128 * 192)
    return Cascade(**networks, tokenizer=ClipTokenizer(), config=config, conventions=conventions, name="tiny")


@cache
def seeing_cascade(dtype: torch.dtype = torch.float32) -> Cascade:
    """The tiny cascade with an image tower: do not change it."""
    config = SIZES["tiny"].image
    assert config is not None
    tower = ImageEncoder(config).eval().requires_grad_(False)
    fill(tower, 6)
    return replace(tiny_cascade(dtype), image=tower.to(dtype), config=SIZES["tiny"])
