"""LoRA while they are trained: pairs of thin matrices beside the weights of a network that stays as it is.

A weight with a pair is never made: a linear map of x by W + s B A is W x + s B (A x), so that neither the sum nor its gradient
takes memory (Hu et al. 2021).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sotediffusion.names import unknown
from sotediffusion.types import UserError
from sotediffusion.weights.lora import Pair
from sotediffusion.weights.lora_merge import Place, places

TARGETS: dict[str, dict[str, tuple[str, ...]]] = {  # by part: what may be chosen, and how the names of its modules end
    "stage_c": {
        "attention": (".to_q", ".to_k", ".to_v", ".attn.out_proj"),
        "residual": (".channelwise.0", ".channelwise.4"),
        "condition": (".kv_mapper.1", ".clip_txt_mapper", ".clip_txt_pooled_mapper"),
        "time": (".mapper",),
        "edges": (".embedding.1", ".clf.1"),
    },
    "text": {
        "attention": (".q_proj", ".k_proj", ".v_proj", ".self_attn.out_proj"),
        "mlp": (".fc1", ".fc2"),
        "projection": (".text_projection",),
    },
}


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA in the place of the weights themselves; a rank of 0 trains the weights."""

    rank: int = 0
    alpha: float = 16.0  # over the rank it scales the change
    targets: tuple[str, ...] = ("attention", "residual")  # of Stage C, keys of TARGETS
    text_targets: tuple[str, ...] = ("attention", "mlp")  # of the text encoder
    form: Literal["kohya", "comfyui", "peft", "sote"] = "kohya"  # whose names the file has
    trigger: str = ""  # words that call it up, to be written into the file

    def check(self) -> None:
        """UserError for a number or a name that means nothing."""
        if not 0 <= self.rank <= 4096:
            raise UserError("lora.rank", f"{self.rank} is out of range; give 1 to 4096, or 0 to train the weights themselves")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError("lora.alpha", f"{self.alpha:g} is not above 0; give a positive number, such as the rank")
        for field, part in (("targets", "stage_c"), ("text_targets", "text")):
            for name in getattr(self, field):
                if name not in TARGETS[part]:
                    raise unknown(f"lora.{field}", name, TARGETS[part])
            if not getattr(self, field):
                raise UserError(f"lora.{field}", f"it is empty; name some of {', '.join(TARGETS[part])}")


class LowRank:
    """A weight W + s B A by its parts. Linear maps use the parts, everything else gets the sum."""

    def __init__(self, base: Tensor, pieces: list[tuple[int, int, Tensor, Tensor]], scale: float):
        self.base, self.pieces, self.scale = base, pieces, scale  # pieces: first row, last row, down (r, in), up (rows, r)

    dtype = property(lambda self: self.base.dtype)
    shape = property(lambda self: self.base.shape)
    device = property(lambda self: self.base.device)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and isinstance(args[1], LowRank):
            return args[1].map(args[0], *args[2:])
        return func(*(arg.whole() if isinstance(arg, LowRank) else arg for arg in args), **(kwargs or {}))

    def flatten(self, start: int) -> "LowRank":
        """As of a tensor; pieces are flat already."""
        return LowRank(self.base.flatten(start), self.pieces, self.scale)

    def __getitem__(self, rows: slice) -> "LowRank":
        """Some rows, with the pieces that lie in them."""
        first, last, _ = rows.indices(self.base.shape[0])
        own = [(a - first, b - first, down, up) for a, b, down, up in self.pieces if first <= a and b <= last]
        return LowRank(self.base[rows], own, self.scale)

    def map(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., in) by the weight and the bias."""
        y = F.linear(x, self.base, bias)
        wide = x if torch.is_autocast_enabled(x.device.type) or not self.pieces else x.to(self.pieces[0][2].dtype)
        columns, done = [], 0
        for first, last, down, up in self.pieces:
            if first > done:
                columns.append(y.new_zeros(*y.shape[:-1], first - done))
            columns.append(F.linear(F.linear(wide, down), up).to(y.dtype))
            done = last
        if not columns:
            return y
        if done < y.shape[-1]:
            columns.append(y.new_zeros(*y.shape[:-1], y.shape[-1] - done))
        return y + self.scale * (columns[0] if len(columns) == 1 else torch.cat(columns, -1))

    def whole(self) -> Tensor:
        """The sum."""
        total = self.base.flatten(1)
        for first, last, down, up in self.pieces:
            change = self.scale * (up @ down)
            total = total + F.pad(change, (0, 0, first, total.shape[0] - last)).to(total.dtype)
        return total.view(self.base.shape)


class Thin(nn.Module):
    """One module's pair; it changes nothing at first."""

    def __init__(self, place: Place, rank: int, random: torch.Generator):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, place.columns))
        self.up = nn.Parameter(torch.zeros(place.last - place.first, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=random)


class _Attached(nn.Module):
    """What a module asks its weight of."""

    def __init__(self, pairs: list[tuple[Place, Thin]], scale: float):
        super().__init__()
        self.pairs, self.scale = pairs, scale  # a list: their parameters are another module's

    def forward(self, base: Tensor) -> LowRank:
        return LowRank(base, [(place.first, place.last, thin.down, thin.up) for place, thin in self.pairs], self.scale)


class Adapters(nn.Module):
    """All pairs of a network; its own parameters are not among those of this module."""

    def __init__(self, part: str, network: nn.Module, settings: LoraSettings, seed: int = 0):
        """UserError: nothing of the network is a target."""
        super().__init__()
        self.part, self.alpha, self.network = part, settings.alpha, [network]  # in a list: not a child
        random = torch.Generator().manual_seed(seed)
        weights = {name: weight for name, weight in network.named_parameters()}
        ends = tuple(end for name in _chosen(part, settings) for end in TARGETS[part][name])
        known = places(part, {name: tuple(weight.shape) for name, weight in weights.items()})
        self.places = {name: place for name, place in known.items() if name.endswith(ends)}
        self.dims = {name: weights[place.tensor].dim() for name, place in self.places.items()}
        self.pairs = nn.ModuleDict({_key(name): Thin(place, settings.rank, random) for name, place in self.places.items()})
        self._attach(network, settings.alpha / settings.rank)

    def _attach(self, network: nn.Module, scale: float) -> None:
        by_tensor: dict[str, list[tuple[Place, Thin]]] = {}
        for name, place in self.places.items():
            thin = self.pairs[_key(name)]
            assert isinstance(thin, Thin)
            by_tensor.setdefault(place.tensor, []).append((place, thin))
        for tensor, pairs in by_tensor.items():
            owner, _, leaf = tensor.rpartition(".")
            parametrize.register_parametrization(network.get_submodule(owner), leaf, _Attached(pairs, scale), unsafe=True)

    def train(self, mode: bool = True) -> "Adapters":
        """Also of the network, whose dropout is that of the run."""
        self.network[0].train(mode)
        return super().train(mode)


def _chosen(part: str, settings: LoraSettings) -> tuple[str, ...]:
    return settings.targets if part == "stage_c" else settings.text_targets


def _key(name: str) -> str:
    """A name of ours as torch takes it for a child."""
    return name.replace(".", "/")


def pairs_of(adapters: Mapping[str, Adapters], weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Pair]:
    """What a LoRA file holds, from tensors named as `nn.ModuleDict(adapters)` names them; convolutions' get their four axes."""
    pairs = {}
    for part, own in adapters.items():
        for name, dims in own.dims.items():
            down, up = (weights[f"{part}.pairs.{_key(name)}.{half}"].detach().to("cpu", dtype) for half in ("down", "up"))
            shape = (1,) * (dims - 2)
            pairs[name] = Pair(down.view(*down.shape, *shape), up.view(*up.shape, *shape), torch.tensor(own.alpha))
    return pairs
