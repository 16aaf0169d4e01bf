"""The networks have the published checkpoints' keys, shapes and counts, and give the original modules' values."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import fill
from torch import Tensor, nn

from sotediffusion.models.cascade import PARTS, SIZES
from sotediffusion.models.effnet import EffNetEncoder
from sotediffusion.models.layers import AttnBlock
from sotediffusion.models.previewer import Previewer
from sotediffusion.models.response_norm import GlobalResponseNorm
from sotediffusion.models.stage_a import StageA
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.stage_c import StageC
from sotediffusion.models.text import TextTower
from sotediffusion.models.unet import Conditioning

DATA = Path(__file__).parent / "data"
FULL, LITE = SIZES["full"], SIZES["lite"]
PUBLISHED = {  # name -> class, config, parameters
    "stage_c": (StageC, FULL.stage_c, 3_589_103_632),
    "stage_c_lite": (StageC, LITE.stage_c, 1_030_785_040),
    "stage_b": (StageB, FULL.stage_b, 1_562_941_136),
    "stage_b_lite": (StageB, LITE.stage_b, 699_471_248),
    "stage_a": (StageA, FULL.stage_a, 18_406_894),
    "effnet": (EffNetEncoder, FULL.effnet, 20_197_968),
    "previewer": (Previewer, FULL.previewer, 3_979_651),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_counts_are_the_published_ones(name: str) -> None:
    kind, config, parameters = PUBLISHED[name]
    with torch.device("meta"):
        network = kind(config)
    published = json.loads((DATA / f"keys_{name}.json").read_text())
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert list(ours.items()) == list(published.items())  # in this order too
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_full_text_tower_counts_as_clip_bigg() -> None:
    with torch.device("meta"):
        tower = TextTower(FULL.text)
    assert len(tower.state_dict()) == 517
    assert sum(p.numel() for p in tower.parameters()) == 694_659_840


def golden_weights(network: nn.Module) -> nn.Module:
    """Fills a network by the rule that the golden values were computed with (data/golden_outputs.json, "how")."""
    network = network.double().eval()
    for k, (name, value) in enumerate(network.state_dict().items()):
        wave = torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + k).view(value.shape)
        if name.endswith("num_batches_tracked"):
            value.zero_()
        elif name.endswith("running_var"):
            value.copy_(1 + 0.5 * wave**2)
        elif name.endswith(("running_mean", "bias")):
            value.copy_(0.05 * wave)
        elif value.dim() >= 2:
            value.copy_(wave * (2 / value[0].numel()) ** 0.5)
        else:
            value.copy_(1 + 0.1 * wave)
    return network


@pytest.mark.parametrize(
    ("name", "network", "call"),
    [
        ("effnet", "effnet", lambda m, x: m.features(x)),
        ("previewer", "previewer", lambda m, x: m(x)),
        ("stage_a_decode", "stage_a", lambda m, x: m.decode(x)),
        ("stage_a_encode_before_quantizing", "stage_a", lambda m, x: m.code(x)),
    ],
)
def test_the_original_modules_values_come_out(name: str, network: str, call) -> None:  # type: ignore[no-untyped-def]
    golden = json.loads((DATA / "golden_outputs.json").read_text())["golden"][name]
    kind, config, _ = PUBLISHED[network]
    shape = torch.Size(golden["input_shape"])
    x = torch.sin(0.013 * torch.arange(shape.numel(), dtype=torch.float64)).view(shape)
    with torch.no_grad():
        y: Tensor = call(golden_weights(kind(config)), x)
    assert list(y.shape) == golden["output_shape"]
    assert abs(y.mean().item() - golden["mean"]) < 1e-10
    for index, value in golden["samples"].items():
        assert abs(y.flatten()[int(index)].item() - value) < 1e-9


def test_effnet_takes_plain_pictures_and_normalises_them() -> None:
    network = EffNetEncoder(SIZES["tiny"].effnet).eval()
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        assert torch.allclose(network(pixels), network.features((pixels - mean) / std))


@pytest.mark.parametrize("size", ["tiny", "miniature"])
@pytest.mark.parametrize("part", PARTS)
def test_every_network_runs_forward_and_backward(size: str, part: str) -> None:
    config = getattr(SIZES[size], part)
    network = PARTS[part](config)
    g = torch.Generator().manual_seed(0)
    pooled, r = torch.randn(2, 1, getattr(config, "c_pooled", 1), generator=g), torch.rand(2)
    if part == "text":
        out = sum(y.square().mean() for y in network(torch.randint(0, 9, (2, 77))))
    elif part == "stage_c":
        cond = network.condition(torch.randn(2, 77, config.c_text, generator=g), pooled)
        out = network(torch.randn(2, 16, 8, 8, generator=g), r, cond).square().mean()
    elif part == "stage_b":
        cond = network.condition(torch.randn(2, 16, 4, 4, generator=g), pooled, (16, 16))
        out = network(torch.randn(2, 4, 16, 16, generator=g), r, cond).square().mean()
    elif part == "stage_a":
        out = network.decode(network.encode(torch.rand(2, 3, 32, 32), quantize=False)).square().mean()
    elif part == "effnet":
        out = network(torch.rand(2, 3, 64, 64)).square().mean()
    else:
        out = network(torch.randn(2, 16, 4, 4)).square().mean()
    out.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_both_kinds_of_conditioning_give_equal_gradients(masked: bool) -> None:
    config, g = SIZES["tiny"].stage_c, torch.Generator().manual_seed(0)
    network = StageC(config).double().eval()
    fill(network)
    text, pooled, x = (torch.randn(shape, generator=g, dtype=torch.float64)
                       for shape in ((2, 9, config.c_text), (2, 1, config.c_pooled), (2, config.c_latent, 6, 5)))  # fmt: skip
    mask = torch.arange(9) < torch.tensor([[9], [4]]) if masked else None

    def gradients(ready: bool) -> tuple[Tensor, dict[str, Tensor]]:
        network.zero_grad()
        cond = network.condition(text.requires_grad_(), pooled, mask=mask)
        assert cond.tokens is not None and not cond.keys
        if ready:
            pairs = [block.key_values(cond.tokens) for block in network.blocks(AttnBlock)]
            cond = replace(cond, keys=[k for k, _ in pairs], values=[v for _, v in pairs], tokens=None)
        out = network(x, torch.tensor([0.2, 0.7], dtype=torch.float64), cond)
        text.grad = None
        out.square().sum().backward()
        assert text.grad is not None
        return out, {"text": text.grad} | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    (one, own), (other, ready) = gradients(False), gradients(True)
    assert torch.equal(one, other) and own.keys() == ready.keys()
    assert [name for name in own if not torch.allclose(own[name], ready[name], rtol=1e-12, atol=1e-14)] == []


def test_rows_of_conditionings_of_both_kinds_join_and_part_alike() -> None:
    config, g = SIZES["tiny"].stage_c, torch.Generator().manual_seed(0)
    network = StageC(config).eval()
    fill(network)
    told = [(torch.randn(1, length, config.c_text, generator=g), torch.randn(1, 1, config.c_pooled, generator=g))
            for length in (9, 4, 9)]  # fmt: skip
    x, r = torch.randn(2, config.c_latent, 6, 5, generator=g), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        ready = Conditioning.cat([network.condition(*one) for one in told]).rows(torch.tensor([2, 1]))
        drawn = network(x, r, ready)
    trained = network(x, r, Conditioning.cat([network.condition(*one) for one in told]).rows(torch.tensor([2, 1])))
    assert torch.allclose(drawn, trained, atol=1e-5)


def test_the_response_norm_s_own_gradient_is_the_true_one():
    torch.manual_seed(0)
    norm = GlobalResponseNorm(5).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x[0, :, :, 2] = 0  # a channel without a norm
    gamma, beta = (torch.randn(1, 1, 1, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def respond(x, gamma, beta):
        return torch.func.functional_call(norm, {"gamma": gamma, "beta": beta}, (x,))

    alive = x[1:].clone().requires_grad_()  # at a channel of zeros finite differences see the kink of the root
    assert torch.autograd.gradcheck(respond, (alive, gamma, beta))
    whole = x.requires_grad_()
    respond(whole, gamma, beta).square().sum().backward()
    assert whole.grad.isfinite().all()
    with torch.no_grad():
        assert torch.allclose(norm(x), respond(x, norm.gamma, norm.beta), rtol=1e-12)
