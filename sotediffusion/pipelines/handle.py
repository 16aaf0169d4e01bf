"""What all three pipelines have in common: opening, moving, offloading, and the parts under diffusers' names."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..models.cascade import Cascade
from ..names import unknown
from ..offload import offload_blocks, return_blocks
from ..types import Request, UserError
from ..weights import store
from ..weights.bundle import WHOLE, Choice
from ..weights.store import present
from .wording import Wording, encode, handed_out, orders

TAKEN = ("torch_dtype", "revision", "cache_dir", "variant", "lite", "use_safetensors", "local_files_only", "token",
         "low_cpu_mem_usage")  # fmt: skip


class Component:
    """A part of the cascade under the name that diffusers gives it; setting it changes the cascade."""

    def __init__(self, part: str):
        self.part = part

    def __get__(self, pipe: Any, owner: type) -> Any:
        return self if pipe is None else getattr(pipe.cascade, self.part)

    def __set__(self, pipe: Any, value: Any) -> None:
        setattr(pipe.cascade, self.part, value)


class Scheduler:
    """The place of diffusers' scheduler; there is none, and one that is put there would not be asked."""

    def __set__(self, pipe: Any, value: Any) -> None:
        others = "sotediffusion.generate.draw with Request(sampler=...), or sote generate --sampler"
        raise UserError("scheduler", f"{type(value).__name__} is not taken, pipelines draw by ddpm; for others use {others}")


class Pipeline:
    """A cascade seen through diffusers' interface."""

    networks: ClassVar[tuple[str, ...]] = ()  # the parts that `to` moves, the one that `device` speaks of first
    opens: ClassVar[tuple[str, ...]] = WHOLE.parts  # those that `from_pretrained` looks for
    scheduler = prior_scheduler = Scheduler()
    names: ClassVar[dict[str, str]] = {}  # arguments by the names that an order has for them
    unsaid: ClassVar[tuple[str, ...]] = ()  # settings of a picture that it cannot know

    def __init__(self, cascade: Cascade):
        self.cascade = cascade
        self._bar: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, torch_dtype: torch.dtype | None = None, revision: str | None = None,
        cache_dir: str | Path | None = None, variant: str | None = None, lite: bool = False,
        use_safetensors: bool | None = None, local_files_only: bool = False, token: str | bool | None = None,
        low_cpu_mem_usage: bool = True, **others: Any,
    ) -> Self:  # fmt: skip
        """Opens a file, a folder, a hub id (fetched, with its connected repository) or "miniature", the embedded model.

        `torch_dtype` None is float32, as in diffusers; `variant` "bf16" takes files named model.bf16.safetensors, and of a part
        that has none of them the plain one; `lite` takes Stability's smaller networks, prior_lite/ and decoder_lite/;
        `local_files_only` fetches nothing; `token` is shown to the hub; memory is never taken twice, `low_cpu_mem_usage` or not.
        UserError: anything missing, broken or unknown.
        """
        for name in others:
            raise UserError(name, f"is not taken here; leave it out; taken are {', '.join(TAKEN)}")
        if use_safetensors is False:
            raise UserError("use_safetensors", "False would open pickles, which can run code; only safetensors are, leave it out")
        choice = Choice(cls.opens, variant or "", lite)
        cache = None if cache_dir is None else Path(cache_dir)
        where = _located(str(pretrained_model_name_or_path), revision, cache, choice, local_files_only, token)
        cascade = store.open_cascade(where, _floating(torch_dtype) or torch.float32, choice=choice)
        for note in cascade.notes:
            warnings.warn(note, stacklevel=2)
        return cls(cascade)

    @property
    def components(self) -> dict[str, Any]:
        """The parts by diffusers' names."""
        names = (name for kind in type(self).__mro__ for name, value in vars(kind).items() if isinstance(value, Component))
        return {name: getattr(self, name) for name in names}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._networks()[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the text encoder computes in."""
        return next(self._networks()[0].parameters()).dtype

    def to(self, *arguments: Any, **named: Any) -> Self:
        """Moves and casts the pipeline's networks: to(device), to(dtype), to(device, dtype) or by name; returns itself.

        It ends any offloading. UserError: a device that is not here, a dtype that cannot be computed in.
        """
        device, dtype = _asked(arguments, named)
        if device is not None:
            self._end_offloading()
        for name in self._there():
            network = getattr(self.cascade, name)
            if device is not None:
                network.to(device)
            if dtype is not None:
                network.to(_kind(name, dtype, next(network.parameters())))
        return self

    def encode_prompt(
        self, device: torch.device | str | None, batch_size: int, num_images_per_prompt: int, do_classifier_free_guidance: bool,
        prompt: str | Sequence[str] | None = None, negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None, prompt_embeds_pooled: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None, negative_prompt_embeds_pooled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """Hidden states (B, L, D) and pooled ones (B, 1, P) of the prompts, then of the negatives, None where not guided.

        They may be given to a pipeline of this process in the prompts' place, unchanged but for dtype and device; the policy is
        asked about their texts then. UserError: what cannot or must not be drawn.
        """
        wording = Wording(prompt, negative_prompt, prompt_embeds, prompt_embeds_pooled,
                          negative_prompt_embeds, negative_prompt_embeds_pooled)  # fmt: skip
        requests = orders(self.cascade, wording, Request(""), {"negative": "negative_prompt"})
        if len(requests) != batch_size:
            raise UserError("batch_size", f"{batch_size} does not fit {len(requests)} prompts; give their number")
        texts = encode(self.cascade, wording, requests)
        parts = handed_out(requests, texts)
        one, pooled, other, other_pooled = (part.to(device).repeat_interleave(num_images_per_prompt, dim=0) for part in parts)
        return (one, pooled, other, other_pooled) if do_classifier_free_guidance else (one, pooled, None, None)

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Lets networks rest in main memory, each brought to the device when it works: the largest is what must fit.

        UserError: no GPU here and no device named.
        """
        target = _target(gpu_id, device)
        self._end_offloading()
        self.cascade.to("cpu")
        self.cascade.offload_to = target

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Lets networks rest in main memory, each block brought to the device when it works: least memory, most waiting.

        UserError: no GPU here and no device named.
        """
        target = _target(gpu_id, device)
        self._end_offloading()
        for network in self.cascade.to("cpu").parts().values():
            offload_blocks(network, target)

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None) -> None:
        """Writes all parts as a folder for `from_pretrained`. UserError: something is there, or another format is asked for."""
        if not safe_serialization or variant is not None:
            raise UserError("save_pretrained", "writes plain safetensors; leave safe_serialization and variant out, for "
                                               "diffusers' own folders see `sote weights convert`")  # fmt: skip
        store.save_cascade(self.cascade, save_directory)

    def enable_xformers_memory_efficient_attention(self, *_: Any) -> None:
        """Nothing to do: attention is torch's own, which takes no more memory."""

    def enable_attention_slicing(self, *_: Any) -> None:
        """Nothing to do, likewise."""

    def set_progress_bar_config(self, **config: Any) -> None:
        """Takes what tqdm takes, `disable=True` for one."""
        self._bar = config

    def progress_bar(self, total: int) -> Any:
        """A tqdm bar of so many steps."""
        return tqdm(total=total, **self._bar)

    def _networks(self) -> list[nn.Module]:
        return [getattr(self.cascade, name) for name in self._there()]

    def _there(self) -> list[str]:
        return [name for name in self.networks if getattr(self.cascade, name) is not None]

    def _end_offloading(self) -> None:
        if self.cascade.offload_to is not None:
            self.cascade.to("cpu")
        for network in self.cascade.parts().values():
            return_blocks(network)


def _located(model: str, revision: str | None, cache: Path | None, choice: Choice, local: bool, token: str | bool | None) -> Path:
    """Where the weights of a path, a hub id or the embedded model are; a hub that cannot be reached leaves what is downloaded."""
    from ..weights import cache as downloads
    from ..weights import hub

    id, named = downloads.pinned(model)
    revision = revision or named
    if local or os.path.exists(model) or id.count("/") != 1:
        return downloads.locate(model, revision, cache)
    try:
        return hub.download(id, revision, cache, choice=choice, token=token)[0].path
    except UserError:
        found = downloads.find(id, revision, cache)
        if found is None:
            raise
        return found


def _asked(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and dtype of a call of `to`, in any of its forms."""
    named = {name.removeprefix("torch_"): value for name, value in named.items() if name != "silence_dtype_warnings"}
    for value in arguments:
        name = "dtype" if isinstance(value, torch.dtype) else "device"
        if value is not None and named.setdefault(name, value) is not value:
            raise UserError(name, "given twice; give it once")
    for name in named:
        if name not in ("device", "dtype"):
            raise unknown("to", name, ("device", "dtype"))
    device = None if (device := named.get("device")) is None else present(device)
    if device is not None and device.type == "meta":
        raise UserError("device", "on meta the weights would be lost; take cpu, cuda, cuda:1 or mps")
    return device, _floating(named.get("dtype"))


def _floating(dtype: Any) -> torch.dtype | None:
    dtype = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1):
        raise UserError("dtype", f"{dtype} cannot be computed in; take torch.float32, torch.bfloat16 or torch.float16")
    return dtype


def _target(gpu_id: int | None, device: torch.device | str | None) -> torch.device:
    if device is None and not torch.accelerator.is_available():
        raise UserError("device", "no GPU is here to bring the networks to; leave offloading out and draw on the cpu")
    target = present(device) if device is not None else torch.accelerator.current_accelerator()
    assert target is not None
    return target if gpu_id is None else present(f"{target.type}:{gpu_id}")


def _kind(name: str, dtype: torch.dtype, weight: Tensor) -> torch.dtype:
    """What a network of such weights computes in when `dtype` is asked for; Stage C overflows in float16, which is said once."""
    if name != "stage_c" or dtype != torch.float16:
        return dtype
    kind, note = store.stage_c_kind(weight.device)
    if kind != weight.dtype:
        warnings.warn(note, stacklevel=3)
    return kind


