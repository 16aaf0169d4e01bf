"""LoRA while they are trained: thin matrices beside the weights of a network that stays as it is.

The sum of a weight and its change is not made: a linear map of x by W + s M is W x + s (M x), so that neither the sum nor its
gradient takes memory (Hu et al. 2021). Lengths of rows multiply what comes out; they alone are measured at the sum itself.
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
from sotediffusion.train.thin import Pair, Product, Thin
from sotediffusion.types import UserError
from sotediffusion.weights.lora_kinds import Kind
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
    kind: Literal["lora", "lokr"] = "lora"
    factor: int = 8  # of lokr: most rows and columns of the smaller matrix
    dora: bool = False  # whether the lengths of rows learn apart from their directions
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
        if not 2 <= self.factor <= 4096:
            raise UserError("lora.factor", f"{self.factor} is out of range; give 2 to 4096, such as 8")
        if self.kind == "lokr" and self.form == "peft":
            raise UserError("lora.form", "peft has no place for lokr; give kohya, comfyui or sote")
        for field, part in (("targets", "stage_c"), ("text_targets", "text")):
            for name in getattr(self, field):
                if name not in TARGETS[part]:
                    raise unknown(f"lora.{field}", name, TARGETS[part])
            if not getattr(self, field):
                raise UserError(f"lora.{field}", f"it is empty; name some of {', '.join(TARGETS[part])}")


Piece = tuple[int, int, Thin]  # first row, last row, and what learns beside these


class LowRank:
    """A weight W + s M, or that with other lengths, by its parts. Linear maps use the parts, everything else gets the sum."""

    def __init__(self, base: Tensor, pieces: list[Piece]):
        self.base, self.pieces = base, pieces

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
        return LowRank(self.base.flatten(start), self.pieces)

    def __getitem__(self, rows: slice) -> "LowRank":
        """Some rows, with the pieces that lie in them."""
        first, last, _ = rows.indices(self.base.shape[0])
        own = [(a - first, b - first, thin) for a, b, thin in self.pieces if first <= a and b <= last]
        return LowRank(self.base[rows], own)

    def map(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., in) by the weight and the bias."""
        if not self.pieces:
            return F.linear(x, self.base, bias)
        wide = x if torch.is_autocast_enabled(x.device.type) else x.to(self.pieces[0][2].down.dtype)
        return self.by_parts(x, wide, bias)

    def by_parts(self, x: Tensor, wide: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same, of which W reads `x` and the changes read `wide`, the same in another type perhaps."""
        measured = any(thin.magnitude is not None for _, _, thin in self.pieces)
        y = F.linear(x, self.base, None if measured else bias)
        total = y + self._over_rows(lambda thin, _: thin.scale * thin.map(wide).to(y.dtype), y.new_zeros(y.shape[:-1]))
        if not measured:
            return total
        # In float32: in bfloat16 what has been learnt of a length, a few thousandths, would be rounded away.
        total = (total * self._factors()).to(y.dtype)
        return total if bias is None else total + bias.to(y.dtype)

    def whole(self) -> Tensor:
        """The sum."""
        total = self.base.flatten(1)
        for first, last, thin in self.pieces:
            change = thin.scale * thin.matrix()
            total = total + F.pad(change, (0, 0, first, total.shape[0] - last)).to(total.dtype)
        if any(thin.magnitude is not None for _, _, thin in self.pieces):
            total = (total * self._factors()[:, None]).to(total.dtype)
        return total.view(self.base.shape)

    def _factors(self) -> Tensor:
        """Of every row (out,), float32: 1 where lengths are left as they are."""
        one = torch.ones((), device=self.base.device)

        def own(thin: Thin, base: Tensor) -> Tensor:
            return one.expand(len(base)) if thin.magnitude is None else thin.factor(base)

        return self._over_rows(own, one)

    def _over_rows(self, own: Callable[[Thin, Tensor], Tensor], between: Tensor) -> Tensor:
        """`own` of each piece and its rows of W, side by side, and `between` (...) for each row that has none."""
        columns, done = [], 0
        for first, last, thin in self.pieces:
            if first > done:
                columns.append(between[..., None].expand(*between.shape, first - done))
            columns.append(own(thin, self.base[first:last]))
            done = last
        if done < self.base.shape[0]:
            columns.append(between[..., None].expand(*between.shape, self.base.shape[0] - done))
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)


class _Attached(nn.Module):
    """What a module asks its weight of."""

    def __init__(self, pairs: list[tuple[Place, Thin]]):
        super().__init__()
        self.pairs = pairs  # a list: their parameters are another module's

    def forward(self, base: Tensor) -> LowRank:
        return LowRank(base, [(place.first, place.last, thin) for place, thin in self.pairs])


class Adapters(nn.Module):
    """What learns beside a network; the network's own parameters are not among those of this module."""

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
        self.pairs = nn.ModuleDict({_key(name): _thin(settings, place, weights, random) for name, place in self.places.items()})
        self._attach(network)

    def _attach(self, network: nn.Module) -> None:
        by_tensor: dict[str, list[tuple[Place, Thin]]] = {}
        for name, place in self.places.items():
            thin = self.pairs[_key(name)]
            assert isinstance(thin, Thin)
            by_tensor.setdefault(place.tensor, []).append((place, thin))
        for tensor, pairs in by_tensor.items():
            owner, _, leaf = tensor.rpartition(".")
            parametrize.register_parametrization(network.get_submodule(owner), leaf, _Attached(pairs), unsafe=True)

    def train(self, mode: bool = True) -> "Adapters":
        """Also of the network, whose dropout is that of the run."""
        self.network[0].train(mode)
        return super().train(mode)


def _thin(settings: LoraSettings, place: Place, weights: Mapping[str, Tensor], random: torch.Generator) -> Thin:
    rows = slice(place.first, place.last)
    size = place.last - place.first, place.columns, settings.rank, settings.alpha, random
    thin = Product(*size, settings.factor) if settings.kind == "lokr" else Pair(*size)
    if settings.dora:
        thin.measure(weights[place.tensor][rows].flatten(1))
    return thin


def _chosen(part: str, settings: LoraSettings) -> tuple[str, ...]:
    return settings.targets if part == "stage_c" else settings.text_targets


def _key(name: str) -> str:
    """A name of ours as torch takes it for a child."""
    return name.replace(".", "/")


def pairs_of(adapters: Mapping[str, Adapters], weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Kind]:
    """What a LoRA file holds, from tensors named as `nn.ModuleDict(adapters)` names them; convolutions' get their four axes."""
    pairs: dict[str, Kind] = {}
    for part, own in adapters.items():
        for name, dims in own.dims.items():
            thin, key = own.pairs[_key(name)], f"{part}.pairs.{_key(name)}."
            assert isinstance(thin, Thin)
            found = {half: weights[key + half].detach().to("cpu", dtype) for half, _ in thin.named_parameters()}
            pairs[name] = thin.kind(found, torch.tensor(own.alpha), (1,) * (dims - 2))
    return pairs
