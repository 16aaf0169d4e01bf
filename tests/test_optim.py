"""Claims about optimizers: Adafactor as published, steps that spare memory as those that do not, no step that vanishes."""

import json
from collections import Counter

import pytest
import torch
import transformers
from torch import nn

from sotediffusion.train import checkpoint
from sotediffusion.train.optim.adafactor import Adafactor
from sotediffusion.train.optim.kinds import KINDS, Choice, groups
from sotediffusion.train.optim.rounding import check_rate, share_moved, stochastic
from sotediffusion.train.optim.stepping import Stepper, Stepping
from sotediffusion.types import UserError

SHAPES = [(12, 8), (8,), (6, 1, 3, 3), (10, 4, 1, 1), (1, 1, 1, 8)]
RATES = {"adamw": 1e-2, "adafactor": 1e-2, "adamw8bit": 1e-2, "lion": 1e-3, "prodigy": 1.0, "schedule-free": 1e-2}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adafactor_is_the_one_that_the_published_models_were_trained_with(decay):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = Adafactor(ours, lr=1e-2, weight_decay=decay)
    other = transformers.Adafactor(theirs, lr=1e-2, scale_parameter=False, relative_step=False, warmup_init=False,
                                   weight_decay=decay)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape) * 10.0 ** (step - 3)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_adafactor_remembers_a_row_and_a_column_of_a_matrix_in_float32_whatever_the_weights():
    weight = nn.Parameter(torch.zeros(512, 256, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    optimizer = Adafactor([weight])
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    assert Counter(value.dtype for value in kept) == {torch.float32: 2} and sum(value.numel() for value in kept) == 512 + 256


def network(dtype=torch.float32) -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 8))
    return nn.ModuleDict({"net": layers.to(dtype)})


def walk(stepper: Stepper, modules: nn.ModuleDict, steps: range, pieces: int = 1) -> list[float]:
    """Some steps; the norms of their gradients."""
    norms = []
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(8, 8)
        stepper.begin(1.0, step)
        for part in x.chunk(pieces):
            dtype = next(modules.parameters()).dtype
            mean = (modules["net"](part.to(dtype)).float() - part).square().mean()
            (mean * stepper.take(1 / pieces)).backward()
        norms.append(stepper.norm())
        stepper.step()
    return norms


def stepper_of(modules: nn.ModuleDict, kind: str, **how) -> Stepper:
    return Stepper(modules, Choice(kind), groups(modules, RATES[kind]), Stepping(**how))


@pytest.mark.parametrize("kind", ["adafactor", "adamw"])
def test_gradients_gathered_in_main_memory_make_the_same_steps_and_none_is_left_on_the_weights(kind):
    plain, gathered = network(), network()
    one, other = stepper_of(plain, kind, clip=0.1), stepper_of(gathered, kind, clip=0.1, gather="host")
    norms = walk(one, plain, range(4), pieces=4), walk(other, gathered, range(4), pieces=4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6) and min(norms[0]) > 0.1
    for a, b in zip(plain.parameters(), gathered.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert b.grad is None


def test_a_fused_backward_pass_steps_tensor_by_tensor_as_if_each_had_been_clipped_and_stepped_alone():
    fused, alone = network(), network()
    stepper = stepper_of(fused, "adafactor", clip=0.05, fused=True)
    optimizers = {p: Adafactor([p], lr=RATES["adafactor"]) for p in alone.parameters()}
    for step in range(3):
        norm = walk(stepper, fused, range(step, step + 1))[0]
        torch.manual_seed(step)
        x = torch.randn(8, 8)
        (alone["net"](x) - x).square().mean().backward()
        assert norm == pytest.approx(float(torch.nn.utils.get_total_norm([p.grad for p in alone.parameters()])), rel=1e-5)
        for p, optimizer in optimizers.items():
            torch.nn.utils.clip_grad_norm_([p], 0.05)
            optimizer.step()
            p.grad = None
    for a, b in zip(fused.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        assert a.grad is None


def test_in_a_fused_backward_pass_at_most_one_gradient_is_there_at_a_time():
    modules = network()
    stepper_of(modules, "adafactor", fused=True)
    most = []
    for p in modules.parameters():
        p.register_post_accumulate_grad_hook(lambda p: most.append(sum(q.grad is not None for q in modules.parameters())))
    x = torch.randn(8, 8)
    (modules["net"](x) - x).square().mean().backward()
    assert len(most) == 6 and max(most) == 0


def test_a_run_goes_on_with_the_decay_and_the_arguments_that_are_asked_for_now():
    before, modules = network(), network()
    first = Stepper(before, Choice("adamw", 0.01), groups(before, 1e-3, 0.01), Stepping())
    walk(first, before, range(2))
    choice = Choice("adamw", 0.1, {"eps": 1e-6})
    second = Stepper(modules, choice, groups(modules, 1e-3, 0.1), Stepping())
    second.load_state_dict(first.state_dict())
    assert {group["eps"] for group in second.optimizer.param_groups} == {1e-6}
    assert sorted(group["weight_decay"] for group in second.optimizer.param_groups) == [0.0, 0.1]
    assert len(second.optimizer.state) == len(first.optimizer.state)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_learns_and_goes_on_from_its_state_to_the_bit(kind):
    @torch.no_grad()
    def loss(modules):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(9))
        return float((modules["net"](x) - x).square().mean())

    whole, modules, resumed = network(), network(), network()
    steps = 80
    stepper = stepper_of(whole, kind)
    walk(stepper, whole, range(steps))
    kinds = {v.dtype for state in stepper.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)}
    assert (torch.uint8 in kinds) == (kind == "adamw8bit")
    first = stepper_of(modules, kind)
    walk(first, modules, range(steps // 2))
    tensors: dict = {}
    skeleton = json.loads(json.dumps(checkpoint.split(first.state_dict(), tensors)))
    resumed.load_state_dict(modules.state_dict())
    second = stepper_of(resumed, kind)
    second.load_state_dict(checkpoint.join(skeleton, {key: value.clone() for key, value in tensors.items()}))
    walk(second, resumed, range(steps // 2, steps))
    assert loss(whole) < 0.9 * loss(network())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.by_tensor])
def test_bfloat16_weights_are_stepped_in_float32_and_go_on_to_the_bit(kind):
    whole, modules, resumed = (network(torch.bfloat16) for _ in range(3))
    walk(stepper_of(whole, kind, rounding="stochastic"), whole, range(6), pieces=2)
    first = stepper_of(modules, kind, rounding="stochastic")
    walk(first, modules, range(3), pieces=2)
    kept = [v for state in first.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert not any(value.dtype == torch.bfloat16 for value in kept)
    tensors: dict = {}
    skeleton = checkpoint.split(first.state_dict(), tensors)
    resumed.load_state_dict(modules.state_dict())
    second = stepper_of(resumed, kind, rounding="stochastic")
    second.load_state_dict(checkpoint.join(skeleton, {key: value.clone() for key, value in tensors.items()}))
    walk(second, resumed, range(3, 6), pieces=2)
    assert all(p.dtype == torch.bfloat16 for p in whole.parameters())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_schedule_free_weights_to_be_used_are_others_than_those_that_are_trained_which_stay_to_the_bit():
    modules = network()
    stepper = stepper_of(modules, "schedule-free")
    walk(stepper, modules, range(5))
    before = [p.detach().clone() for p in modules.parameters()]
    with stepper.averaged():
        used = [p.detach().clone() for p in modules.parameters()]
    assert all(torch.equal(a, p) for a, p in zip(before, modules.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, used, strict=True))
    whole = network()
    walk(stepper_of(whole, "schedule-free"), whole, range(7))
    walk(stepper, modules, range(5, 7))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), modules.parameters(), strict=True))


def test_each_module_has_a_rate_of_its_own_and_vectors_do_not_decay():
    modules = nn.ModuleDict({"stage_c": nn.Linear(4, 4), "text": nn.Linear(4, 4)})
    made = groups(modules, 1e-5, 0.1, {"text": 4e-6})
    assert [(group["peak"], group["weight_decay"], len(group["params"])) for group in made] == [
        (1e-5, 0.1, 1), (1e-5, 0.0, 1), (4e-6, 0.1, 1), (4e-6, 0.0, 1)]  # fmt: skip


def test_rounding_by_chance_keeps_the_mean_where_rounding_to_nearest_keeps_nothing():
    x = torch.full((20_000,), 1.0 + 2**-12)  # a sixteenth of the way to the next bfloat16
    rounded = stochastic(x, torch.Generator().manual_seed(0)).float()
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    assert rounded.mean().item() == pytest.approx(1 + 2**-12, abs=3e-5) and x.bfloat16().float().mean() == 1.0
    exact = torch.tensor([0.5, -3.0, 0.0, float("inf")])
    assert torch.equal(stochastic(exact, torch.Generator().manual_seed(1)).float(), exact)


@pytest.mark.parametrize("lr, share", [(4e-6, 0.047), (1e-5, 0.117), (1e-4, 0.68)])
def test_steps_that_bfloat16_weights_cannot_express(lr, share):
    assert share_moved(lr, torch.bfloat16) == pytest.approx(share, abs=0.005)
    assert share_moved(lr, torch.float32) > 0.999


def test_a_rate_that_vanishes_is_refused_unless_chance_decides():
    reason = r"text_lr: a step of 4e-06 reaches 4\.\d% of bfloat16 weights, whose spacing at 0.02 is 0.0001"
    with pytest.raises(UserError, match=reason):
        check_rate("text_lr", 4e-6, torch.bfloat16, by_chance=False)
    check_rate("text_lr", 4e-6, torch.bfloat16, by_chance=True)
    check_rate("text_lr", 4e-6, torch.float32, by_chance=False)
    with pytest.raises(UserError, match="float16 cannot be trained in"):
        check_rate("lr", 1e-3, torch.float16, by_chance=False)


@pytest.mark.parametrize("choice, lr, message", [
    (Choice("adafactor", 0, {"relative_step": True}), 1e-5, "lr of 1e-05 would be ignored; leave it false"),
    (Choice("prodigy"), 1e-5, "factor on the rate that prodigy finds.*give 1"),
    (Choice("adam"), 1e-5, "'adam' is not known; known are, nearest first, adamw"),
    (Choice("adamw", 0, {"beta": [0.9, 0.9]}), 1e-5, "optimizer.arguments.beta: 'beta' is not known.*betas"),
])  # fmt: skip
def test_optimizers_that_cannot_be_meant_are_refused(choice, lr, message):
    with pytest.raises(UserError, match=message):
        choice.check(lr)


def test_an_optimizer_whose_library_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    need = r"optimizer.kind: needs the package pytorch_optimizer .*pip install 'sotediffusion\[optimizers\]'"
    with pytest.raises(UserError, match=need):
        stepper_of(network(), "lion")


@pytest.mark.parametrize("how, kind, micro_batches, ranks, message", [
    ({"fused": True}, "adafactor", 4, 1, "cannot add those of 4 micro-batches"),
    ({"fused": True, "gather": "host"}, "adafactor", 1, 1, "leaves nothing to gather"),
    ({"fused": True}, "prodigy", 1, 1, "prodigy looks at all tensors together.*take adafactor, adamw or lion"),
    ({"gather": "host"}, "adafactor", 1, 2, "are for one process; with 2 take distributed.sharding=fsdp"),
])  # fmt: skip
def test_ways_to_spare_memory_that_contradict_each_other_are_refused(how, kind, micro_batches, ranks, message):
    with pytest.raises(UserError, match=message):
        Stepping(**how).check(KINDS[kind], kind, micro_batches, ranks)
