"""What a network says of a noised picture, and the noise that follows from it.

x = a x0 + b eps, a^2 + b^2 = 1. Where there is nearly nothing but noise, a network that says eps has to repeat its input to the
last digit, since an error in eps counts b / a times in x0; one that says v = a eps - b x0 (Salimans and Ho 2022, appendix D) says
there what the picture is. A large network can do either, a small one cannot afford the first.
"""

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v")


def noise_of(said: Tensor, x: Tensor, scales: Tensor, prediction: str) -> Tensor:
    """Return eps for what a network `said` of x, all (B, ...), float32 at least from v; `scales` (B, 2) are each row's (a, b)."""
    if prediction == "epsilon":
        return said
    dtype = torch.promote_types(x.dtype, torch.float32)
    a, b = (column.view(-1, *[1] * (x.dim() - 1)) for column in scales.to(x.device, dtype).unbind(1))
    return b * x.to(dtype) + a * said.to(dtype)
