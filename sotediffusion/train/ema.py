"""An exponential moving average of the trained weights, whose memory is a number of images and grows with the run.

Power-function averaging in its simplest form (Karras et al. 2024, section 3.1): early in a run the average is short, so
that it does not remember the noise it started from; later it reaches its full half-life.
"""

import torch
from torch import Tensor, nn

RAMP_UP = 0.1  # the half-life never exceeds this share of the images seen so far


class Ema:
    """Averages of every parameter, and copies of every buffer, of `module`, in float32."""

    def __init__(self, module: nn.Module, half_life: float, host: bool = False):
        """`half_life` in images; 0 keeps no averages. `host` keeps them in main memory."""
        self.half_life, self.host = half_life, host
        self.values = {key: self._own(value) for key, value in module.state_dict().items()} if half_life else {}

    def _own(self, value: Tensor) -> Tensor:
        value = value.detach().clone()
        value = value.float() if value.is_floating_point() else value
        return value.cpu() if self.host else value

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch: int) -> None:
        """Move towards `module` after a step on `batch` images that brought the run to `images`."""
        if not self.half_life:
            return
        half_life = max(min(self.half_life, images * RAMP_UP), 1e-8)
        weight = 1 - 0.5 ** (batch / half_life)
        averaged = dict(module.named_parameters())
        for key, value in module.state_dict().items():
            if key in averaged:
                self.values[key].lerp_(value.to(self.values[key]), weight)
            else:
                self.values[key].copy_(value)

    def of(self, module: nn.Module) -> dict[str, Tensor]:
        """The averages of `module`, or where none are kept its weights as they are."""
        return self.values if self.half_life else {key: value.detach() for key, value in module.state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by the module's own keys."""
        return self.values

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages."""
        for key, value in self.values.items():
            value.copy_(state[key])
