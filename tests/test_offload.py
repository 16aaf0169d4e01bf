"""Where pipelines compute and in what: moved, cast, offloaded by network or by block, and never silently elsewhere."""

from typing import Any

import pytest
import torch
from quick_pipelines import draw, of, own_copy
from torch.overrides import TorchFunctionMode

from sotediffusion import offload
from sotediffusion.pipelines import StableCascadeCombinedPipeline
from sotediffusion.types import UserError

MOVES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("cpu", torch.bfloat16), {}), ((torch.bfloat16,), {}), (("cpu",), {"dtype": torch.bfloat16}), ((torch.bfloat16, "cpu"), {}),
    ((), {"device": torch.device("cpu"), "dtype": torch.bfloat16}), ((), {"torch_device": "cpu", "torch_dtype": torch.bfloat16}),
    (("cpu", torch.bfloat16), {"silence_dtype_warnings": True}),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), MOVES)
def test_to_takes_every_form_of_call(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    pipe = of(StableCascadeCombinedPipeline, own_copy())
    assert pipe.to(*arguments, **named) is pipe
    assert pipe.dtype == torch.bfloat16 and pipe.device == torch.device("cpu")
    kinds = {next(getattr(pipe, name).parameters()).dtype for name in ("prior_prior", "decoder", "vqgan", "text_encoder")}
    assert kinds == {torch.bfloat16}


def test_float16_leaves_the_prior_in_bfloat16_and_says_so() -> None:
    pipe = of(StableCascadeCombinedPipeline, own_copy())
    with pytest.warns(UserWarning, match="overflows in float16"):
        pipe.to(torch.float16)
    assert pipe.dtype == torch.float16 and pipe.prior_prior.clip_txt_mapper.weight.dtype == torch.bfloat16
    assert draw(pipe, decoder_guidance_scale=2.0).shape == (1, 4, 32, 32)


def test_a_gpu_that_is_not_here_is_one_sentence_that_names_the_cpu() -> None:
    pipe = of(StableCascadeCombinedPipeline)
    missing = f"cuda:{torch.cuda.device_count()}"
    for call in (pipe.to, pipe.prior_pipe.to, pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(UserError, match=r"device: cuda:\d is not here, .* take cpu"):
            call(device=missing)
    for wrong, field in (("gpu", "device"), (torch.int8, "dtype"), (torch.float8_e4m3fn, "dtype")):
        with pytest.raises(UserError) as found:
            pipe.to(wrong)
        assert found.value.field == field


@pytest.mark.skipif(torch.accelerator.is_available(), reason="has a GPU")
def test_without_a_gpu_to_cuda_and_offloading_say_so() -> None:
    pipe = of(StableCascadeCombinedPipeline)
    with pytest.raises(UserError, match="cuda is not here, torch sees 0 such GPUs; take cpu"):
        pipe.to("cuda")
    for enable in (pipe.enable_model_cpu_offload, pipe.prior_pipe.enable_sequential_cpu_offload):
        with pytest.raises(UserError, match="no GPU is here .* draw on the cpu"):
            enable()


def test_offloaded_networks_draw_the_same_pictures() -> None:
    want = draw(decoder_guidance_scale=2.0)
    pipe = of(StableCascadeCombinedPipeline, own_copy())
    pipe.enable_model_cpu_offload(device="cpu")
    assert pipe.cascade.offload_to == torch.device("cpu")
    assert torch.equal(draw(pipe, decoder_guidance_scale=2.0), want)
    assert pipe.cascade.resident is pipe.cascade.stage_b  # the last one that worked
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert pipe.cascade.offload_to is None
    assert torch.equal(draw(pipe, decoder_guidance_scale=2.0), want)
    pipe.to("cpu")
    assert not any("forward" in vars(module) for network in pipe.cascade.parts().values() for module in network.modules())
    assert torch.equal(draw(pipe, decoder_guidance_scale=2.0), want)


class Watch(TorchFunctionMode):
    """Notes what is computed with weights as they rest; those that visit a device are no parameters there."""

    def __init__(self) -> None:
        super().__init__()
        self.resting_at_work: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", str(function))
        if name not in ("to", "__get__") and any(isinstance(value, torch.nn.Parameter) for value in args):
            self.resting_at_work.add(name)
        return function(*args, **(kwargs or {}))


def test_each_block_works_on_the_device_and_rests_in_main_memory() -> None:
    """The meta device stands for a GPU: what comes out of it was worked there, and it holds no weights afterwards."""
    cascade = own_copy()
    parameters = {id(p) for network in cascade.parts().values() for p in network.parameters()}
    for network in cascade.parts().values():
        offload.offload_blocks(network, "meta")
    with torch.inference_mode(), Watch() as watch:
        text, pooled = torch.zeros(1, 77, 32), torch.zeros(1, 1, 32)
        cond = cascade.stage_c.condition(text, pooled)
        prior = cascade.stage_c(torch.zeros(1, 16, 3, 3), torch.ones(1), cond)
        decoded = cascade.stage_b(torch.zeros(1, 4, 32, 32), torch.ones(1), cascade.stage_b.condition(prior, pooled, (32, 32)))
        pixels = cascade.stage_a.decode(decoded)
        hidden, _ = cascade.text(torch.full((1, 77), 49407))
    assert {x.device.type for x in (prior, decoded, pixels, hidden, cond.keys[0], cond.shifts[0])} == {"meta"}
    assert not watch.resting_at_work
    assert parameters == {id(p) for network in cascade.parts().values() for p in network.parameters()}
    assert all(p.device.type == "cpu" for network in cascade.parts().values() for p in network.parameters())


def test_a_whole_drawing_stays_on_the_device_that_blocks_work_on() -> None:
    pipe = of(StableCascadeCombinedPipeline, own_copy())
    pipe.enable_sequential_cpu_offload(device="meta")
    drawn = draw(pipe, decoder_guidance_scale=2.0)
    assert drawn.shape == (1, 4, 32, 32) and drawn.device.type == "meta" and pipe.device.type == "cpu"


def test_a_block_that_fails_gets_its_weights_back() -> None:
    network = own_copy().stage_c
    offload.offload_blocks(network, "meta")
    with pytest.raises(RuntimeError):
        network.clip_txt_mapper(torch.zeros(1, 7))
    assert network.clip_txt_mapper.weight.device.type == "cpu"
