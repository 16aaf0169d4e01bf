"""A whole cascade of random weights, small enough for every test."""

from dataclasses import replace
from functools import cache

import torch

from sotediffusion.models.cascade import PARTS, SIZES, Cascade, Conventions
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
    config = replace(SIZES["tiny"], image=None)
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
