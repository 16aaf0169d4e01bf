"""What a network says of a noised picture, and the noise that follows from it.

x = a x0 + b eps, a^2 + b^2 = 1. Where there is nearly nothing but noise, a network that says eps has to repeat its input to the
last digit, since an error in eps counts b / a times in x0; one that says v = a eps - b x0 (Salimans and Ho 2022, appendix D) says
there what the picture is. A large network can do either, a small one cannot afford the first.
"""

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v")


def noise_of(said: Tensor, x: Tensor, a: Tensor, b: Tensor, prediction: str) -> Tensor:
    """Return eps for what a network `said` of x, all (B, ...), in float32 at least; a and b broadcast against them."""
    if prediction == "epsilon":
        return said
    dtype = torch.promote_types(x.dtype, torch.float32)
    return b.to(x.device, dtype) * x.to(dtype) + a.to(x.device, dtype) * said.to(dtype)
