"""The cascade as a whole: the shapes of its networks by size, what a set of weights was trained to expect, and the set itself.

Sizes: `full` and `lite` are Stability's published networks, `miniature` is the embedded one, `tiny` is for tests.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .effnet import EffNetConfig, EffNetEncoder
from .image_encoder import ImageConfig, ImageEncoder
from .previewer import Previewer, PreviewerConfig
from .stage_a import StageA, StageAConfig
from .stage_b import StageB
from .stage_c import StageC
from .text import TextConfig, TextTower
from .unet import UNetConfig


@dataclass(frozen=True)
class CascadeConfig:
    """The shapes of the six networks, and of the image tower that a prior may bring along."""

    stage_a: StageAConfig
    stage_b: UNetConfig
    stage_c: UNetConfig
    text: TextConfig
    effnet: EffNetConfig
    previewer: PreviewerConfig
    image: ImageConfig | None = None


@dataclass(frozen=True)
class Conventions:
    """What a set of weights was trained to expect; it travels with them."""

    text_mask: str = "masked"  # "masked" as the reference, "unmasked" as kohya's trainer, "sote": chunk padding seen
    time_condition: str = "raw"  # "raw": r = t; "clamped": at most .993583, what training saw
    compression: float = 42.67  # px per Stage C cell
    width: int = 1024  # px, the size drawn when none is asked for
    height: int = 1024
    area: int = 1024 * 1024  # px, around which it was trained
    prediction_c: str = "epsilon"  # what Stage C says: "epsilon", the noise, or "v", see diffusion.prediction
    prediction_b: str = "epsilon"
    prior_layout: str = "corners"  # how Stage B sees Stage C's cells: one of models.stage_b.LAYOUTS
    guidance_unit: float = 1.0  # what a step of Stage C's guidance above 1 counts: less where texts tell nearly everything
    decoder_guidance_unit: float = 1.0  # the same of Stage B's


@dataclass
class Cascade:
    """An opened set of weights: networks, tokenizer and what is known of them; of half a set the others' networks are None."""

    stage_a: StageA
    stage_b: StageB
    stage_c: StageC
    text: TextTower
    tokenizer: Any
    config: CascadeConfig
    conventions: Conventions = field(default_factory=Conventions)
    effnet: EffNetEncoder | None = None
    previewer: Previewer | None = None
    image: ImageEncoder | None = None  # opened for prompts that are pictures
    name: str = ""
    license: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    offload_to: torch.device | str | None = None  # where a network runs that otherwise rests in main memory
    resident: nn.Module | None = None  # the network that is there now
    worn: dict[Any, Any] = field(default_factory=dict)  # what is kept of sets of LoRA, see weights.lora_sets

    def parts(self) -> dict[str, nn.Module]:
        """The networks that are there, by name."""
        networks = {name: getattr(self, name) for name in NETWORKS}
        return {name: network for name, network in networks.items() if network is not None}

    def use(self, part: str, network: nn.Module | None = None) -> Any:
        """The network of this name, or another in its place, ready to run: at `offload_to` where the rest is in main memory."""
        network = getattr(self, part) if network is None else network
        if self.offload_to is not None and network is not self.resident:
            if self.resident is not None:
                self.resident.to("cpu")
            self.resident = network
            network.to(self.offload_to)
        return network

    def to(self, device: torch.device | str) -> "Cascade":
        """Moves every network; returns itself."""
        self.offload_to, self.resident, self.worn = None, None, {}
        for network in self.parts().values():
            network.to(device)
        return self


PARTS = {
    "text": TextTower, "stage_c": StageC, "stage_b": StageB, "stage_a": StageA, "effnet": EffNetEncoder, "previewer": Previewer,
}  # what drawing and training know
NETWORKS = {**PARTS, "image": ImageEncoder}  # what weights may hold

_STAGE_B = UNetConfig(
    c_latent=4, patch=2, c_cond=1280, widths=(320, 640, 1280, 1280), heads=(-1, -1, 20, 20), down=(2, 6, 28, 6), up=(6, 28, 6, 2),
    down_repeats=(1, 1, 1, 1), up_repeats=(3, 3, 2, 2), levels=("CT", "CT", "CTA", "CTA"), dropout=(0.0, 0.0, 0.1, 0.1),
    conds=("sca",), c_text=0, c_image=0, c_effnet=16, c_pixels=3,
)  # fmt: skip

_FULL = CascadeConfig(
    stage_a=StageAConfig(),
    stage_b=_STAGE_B,
    stage_c=UNetConfig(switch_level=(False,)),
    text=TextConfig(),
    effnet=EffNetConfig(),
    previewer=PreviewerConfig(),
    image=ImageConfig(),
)

_LITE = replace(
    _FULL,
    stage_b=replace(_STAGE_B, widths=(320, 576, 1152, 1152), heads=(-1, 9, 18, 18), down=(2, 4, 14, 4), up=(4, 14, 4, 2),
                    up_repeats=(2, 2, 2, 2)),
    stage_c=replace(_FULL.stage_c, c_cond=1536, widths=(1536, 1536), heads=(24, 24), down=(4, 12), up=(12, 4)),
)  # fmt: skip

_MINIATURE = CascadeConfig(
    stage_a=StageAConfig(width=96, bottleneck=6, codebook=2048),
    stage_b=replace(_STAGE_B, c_cond=192, widths=(48, 96, 160, 192), heads=(-1, -1, 5, 6), down=(2, 3, 4, 3), up=(3, 4, 3, 2),
                    up_repeats=(1, 1, 1, 1), c_pooled=256),
    stage_c=replace(_FULL.stage_c, c_cond=256, widths=(224, 224), heads=(7, 7), down=(2, 4), up=(4, 2), c_text=256, c_pooled=256,
                    c_image=32),
    text=TextConfig(width=256, layers=4, heads=8, hidden=1024, projection=256, vocabulary=4096, eos=1),
    effnet=EffNetConfig(stem=24, widths=(32, 64, 112, 160), layers=(1, 2, 2, 2), expand=(2, 3, 3, 3), strides=(2, 2, 2, 2),
                        fused=4, head=384),
    previewer=PreviewerConfig(width=256),
)  # fmt: skip

_TINY = CascadeConfig(
    stage_a=StageAConfig(width=16, bottleneck=1, codebook=32),
    stage_b=replace(_STAGE_B, c_cond=32, widths=(16, 16, 32, 32), heads=(-1, -1, 2, 2), down=(1, 1, 2, 1), up=(1, 2, 1, 1),
                    up_repeats=(2, 2, 1, 1), c_pooled=32),
    stage_c=replace(_FULL.stage_c, c_cond=32, widths=(32, 32), heads=(2, 2), down=(1, 2), up=(2, 1), c_text=32, c_pooled=32,
                    c_image=16),
    text=TextConfig(width=32, layers=2, heads=2, hidden=64, projection=32),
    effnet=EffNetConfig(stem=8, widths=(8, 8, 8, 16, 16, 16), layers=(1, 1, 1, 1, 1, 1), head=32),
    previewer=PreviewerConfig(width=32),
    image=ImageConfig(width=32, layers=2, heads=2, hidden=64, projection=16, size=32, patch=8),
)  # fmt: skip

SIZES = {"tiny": _TINY, "miniature": _MINIATURE, "lite": _LITE, "full": _FULL}
