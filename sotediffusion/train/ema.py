"""An exponential moving average of the trained weights, whose memory is a number of images and grows with the run.

Power-function averaging in its simplest form (Karras et al. 2024, section 3.1): early in a run the average is short, so
that it does not remember the noise it started from; later it reaches its full half-life.
"""

import torch
from torch import nn

RAMP_UP = 0.1  # the half-life never exceeds this share of the images seen so far


class Ema:
    """Averages of every parameter, and copies of every buffer, of `module`, in float32."""

    def __init__(self, module: nn.Module, half_life: float):
        """`half_life` in images."""
        self.half_life = half_life
        self.values = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch: int) -> None:
        """Move towards `module` after a step on `batch` images that brought the run to `images`."""
        half_life = max(min(self.half_life, images * RAMP_UP), 1e-8)
        weight = 1 - 0.5 ** (batch / half_life)
        averaged = dict(module.named_parameters())
        for key, value in module.state_dict().items():
            if key in averaged:
                self.values[key].lerp_(value, weight)
            else:
                self.values[key].copy_(value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages, by the module's own keys."""
        return self.values

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from saved averages."""
        for key, value in self.values.items():
            value.copy_(state[key])
