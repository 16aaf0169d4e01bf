"""Claims about training LoRA: only they move, the run resumes to the bit, and the file draws what was trained."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_cascade
from training_run import PRESETS, assert_equal_states, die, forked, go, go_together, losses, order, training_place

from sotediffusion.cli.main import main
from sotediffusion.generate import generate, prepare, step
from sotediffusion.models.stage_c import StageC
from sotediffusion.train import checkpoint
from sotediffusion.train.adapters import TARGETS, Adapters, LoraSettings, LowRank, pairs_of
from sotediffusion.train.contradictions import check
from sotediffusion.train.memory import spare
from sotediffusion.train.settings import Memory, resolve
from sotediffusion.train.thin import Pair, Product, divisor
from sotediffusion.types import Request, UserError
from sotediffusion.weights.lora import Lora, read
from sotediffusion.weights.lora_merge import network_with
from sotediffusion.weights.lora_sets import wear
from sotediffusion.weights.store import open_cascade

LORA = ("lora.rank=2", "lora.alpha=2.0", "save.every=0", "train.ema=0")
ALL = LoraSettings(2, 3.0, targets=tuple(TARGETS["stage_c"]), text_targets=tuple(TARGETS["text"]))
KINDS = {
    "lora": ALL, "dora": replace(ALL, dora=True), "lokr": replace(ALL, kind="lokr", factor=4),
    "whole lokr": replace(ALL, kind="lokr", rank=64), "lokr dora": replace(ALL, kind="lokr", dora=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return training_place(tmp_path_factory.mktemp("loras"))


def lora_order(place: Path, name: str, *assignments: str, **more):
    return order(place, name, *LORA, *assignments, preset="lora", **more)


def stirred(adapters: Adapters) -> dict[str, torch.Tensor]:
    """Adapters whose pairs all change something; their weights as a run names them."""
    for number, weight in enumerate(adapters.parameters()):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1
        weight.data = weight.data * (1 + noise) if weight.dim() == 1 else noise
    return {f"{adapters.part}.{name}": value for name, value in adapters.state_dict().items()}


@pytest.mark.parametrize("part", ["stage_c", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_with_pairs_beside_its_weights_is_the_network_with_both_in_one(part, kind):
    network = copy.deepcopy(getattr(tiny_cascade(), part))
    adapters = Adapters(part, network, KINDS[kind])
    weights = stirred(adapters)
    lora = Lora(pairs_of({part: adapters}, weights, torch.float32))
    merged = network_with(part, getattr(tiny_cascade(), part), [(lora, 1.0)])
    outputs = []
    for one in (network.eval(), merged):
        if part == "text":
            hidden, pooled = one(torch.tensor([[49406, 320, 1237, 49407]]), torch.ones(1, 4, dtype=torch.bool))
            outputs.append([hidden, pooled])
        else:
            text, pooled = (torch.randn(1, n, 32, generator=torch.Generator().manual_seed(n)) for n in (5, 1))
            cond = one.condition(text, pooled)
            outputs.append([one(torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3]), cond)])
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5) and ours.requires_grad and not theirs.requires_grad


def test_a_weight_by_its_parts_is_what_the_sum_is_for_every_question_asked_of_it():
    random = torch.Generator().manual_seed(0)
    base, down, up = (torch.randn(shape, generator=random) for shape in ((6, 4), (2, 4), (2, 2)))
    weight = LowRank(base, [(2, 4, pair(down, up, 0.5))])
    full, x = base.clone(), torch.randn(3, 4, generator=random)
    full[2:4] += 0.5 * up @ down
    assert torch.allclose(weight.whole(), full) and weight.shape == full.shape and weight.dtype == full.dtype
    assert torch.allclose(F.linear(x, weight, torch.ones(6)), F.linear(x, full, torch.ones(6)), atol=1e-6)
    for rows in (slice(2, None), slice(None, 4), slice(4, None), slice(2, 4)):
        assert torch.allclose(F.linear(x, weight[rows]), F.linear(x, full[rows]), atol=1e-6)
    assert torch.allclose(torch.sum(weight), full.sum())
    kernel = LowRank(base.view(6, 4, 1, 1), [(0, 6, pair(down, torch.ones(6, 2), 1.0))])
    assert kernel.whole().shape == (6, 4, 1, 1) and F.linear(x, kernel.flatten(1)).shape == (3, 6)


def pair(down: torch.Tensor, up: torch.Tensor, scale: float) -> Pair:
    thin = Pair(*(len(up), down.shape[1], len(down), scale * len(down)), torch.Generator())
    thin.down.data, thin.up.data = down, up
    return thin


def test_lengths_learn_apart_from_directions_as_the_paper_has_it():
    """Equation 5 of Liu et al. 2024 in float64, and of its section 4.3 that lengths of the sum are constants to a gradient."""
    random = torch.Generator().manual_seed(0)
    base, down, up, x = (torch.randn(shape, generator=random) for shape in ((6, 4), (2, 4), (3, 2), (5, 4)))
    thin = pair(down, up, 0.5)
    thin.measure(base[2:5])
    thin.magnitude.data *= torch.tensor([0.5, 1.0, 2.0])
    weight = LowRank(base, [(2, 5, thin)])
    y = F.linear(x, weight, torch.ones(6))
    wide = [value.detach().double().requires_grad_() for value in (thin.down, thin.up, thin.magnitude)]
    moved = base[2:5].double() + 0.5 * wide[1] @ wide[0]
    rows = wide[2][:, None] * moved / moved.detach().norm(dim=1, keepdim=True)
    full = torch.cat([base[:2].double(), rows, base[5:].double()])
    expected = F.linear(x.double(), full, torch.ones(6).double())
    assert torch.allclose(y.double(), expected, atol=1e-5) and torch.allclose(weight.whole().double(), full, atol=1e-6)
    assert torch.allclose(full[2:5].norm(dim=1), thin.magnitude.double(), atol=1e-6)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip((thin.down, thin.up, thin.magnitude), wide, strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


def test_a_product_is_of_blocks_as_large_as_their_number_divides():
    assert [divisor(side, 8) for side in (2048, 12, 7, 13, 1)] == [8, 6, 7, 1, 1]
    product = Product(12, 32, 2, 4.0, torch.Generator().manual_seed(0), 8)
    assert product.left.shape == (6, 8) and product.down.shape == (2, 4) and product.up is None and product.scale == 1
    thin = Product(128, 128, 2, 4.0, torch.Generator().manual_seed(0), 8)
    assert thin.up.shape == (16, 2) and thin.down.shape == (2, 16) and thin.scale == 2
    x = torch.randn(3, 5, 128)
    thin.up.data.normal_()
    assert torch.allclose(thin.map(x), F.linear(x, thin.matrix()), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_pairs_change_nothing_and_gradients_reach_them_alone(kind):
    network = copy.deepcopy(tiny_cascade().stage_c).requires_grad_(False)
    adapters = Adapters("stage_c", network, KINDS[kind])
    spare(network, Memory(recompute=("residual", "attention")))
    hidden, pooled, x = torch.randn(2, 5, 32), torch.randn(2, 1, 32), torch.randn(2, 16, 4, 4)
    r, bare = torch.tensor([0.3, 0.6]), tiny_cascade().stage_c
    ours, theirs = network(x, r, network.condition(hidden, pooled)), bare(x, r, bare.condition(hidden, pooled))
    assert torch.allclose(ours, theirs, atol=1e-5) if KINDS[kind].dora else torch.equal(ours, theirs)
    stirred(adapters)
    network(x, r, network.condition(hidden, pooled)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in adapters.parameters())
    assert all(weight.grad is None for name, weight in network.named_parameters() if "parametrizations" not in name)
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not list(StageC(network.config).named_parameters())[0][0].startswith("parametrizations")


def test_only_the_lora_moves_and_the_file_draws(place):
    go(lora_order(place, "both", "save.every='3 steps'", "lora.trigger='pink thing'", "train.lr=1e-2", "train.text_lr=1e-2"))
    models = place / "both" / "models"
    assert sorted(path.name for path in models.iterdir()) == ["lora-000000024.safetensors", "lora.safetensors"]
    state = checkpoint.load(place / "both" / "checkpoints", checkpoint.latest(place / "both" / "checkpoints"))
    assert all(key.split(".")[1] == "pairs" and key.endswith((".down", ".up")) for key in state["modules"])
    lora = read(models / "lora.safetensors")
    assert lora.form == "kohya" and lora.trigger == ["pink thing"] and lora.ranks == [2]
    assert {name.split(".")[0] for name in lora.pairs} == {"stage_c", "text"}
    assert all(pair.up.any() and pair.scale == 1 for pair in lora.pairs.values())
    request = Request("1girl", width=64, height=64, steps=1, decoder_steps=1, seed=0)
    cascade = open_cascade(place / "model")
    plain, drawn = (generate(cascade, Request(**{**vars(request), "loras": loras}))[0].image
                    for loras in ((), ((str(models / "lora.safetensors"), 1.0),)))  # fmt: skip
    assert plain.tobytes() != drawn.tobytes()


def test_the_file_puts_into_a_model_what_the_run_trained(place):
    go(lora_order(place, "exact", "save.dtype=float32", "train.steps=3", "lora.form=sote"))
    state = checkpoint.load(place / "exact" / "checkpoints", checkpoint.latest(place / "exact" / "checkpoints"))
    lora = read(place / "exact" / "models" / "lora.safetensors")
    for name, pair in lora.pairs.items():
        part, _, module = name.partition(".")
        for half, value in (("down", pair.down), ("up", pair.up)):
            assert torch.equal(value, state["modules"][f"{part}.pairs.{name.replace('.', '/')}.{half}"])
    assert lora.form == "sote"


@pytest.mark.parametrize(("kind", "form", "said"), [
    ("lora.dora=true", "kohya", ["DoRA"]), ("lora.dora=true", "peft", ["DoRA"]), ("lora.kind=lokr", "comfyui", ["LoKr"])
])  # fmt: skip
def test_other_kinds_are_trained_and_draw(place, kind, form, said):
    name = f"{said[0]}-{form}"
    rates = "train.lr=3e-2", "train.text_lr=1e-2"
    go(lora_order(place, name, kind, f"lora.form={form}", *rates, "lora.factor=2", "train.steps=2"))
    lora = read(place / name / "models" / "lora.safetensors")
    assert lora.kinds == said and lora.form == form
    state = checkpoint.load(place / name / "checkpoints", checkpoint.latest(place / name / "checkpoints"))["modules"]
    assert any(key.endswith(".magnitude") for key in state) == (said == ["DoRA"])
    request = Request("1girl", width=64, height=64, steps=1, decoder_steps=1, seed=0)
    loras = ((str(place / name / "models" / "lora.safetensors"), 1.0),)
    plain, drawn = (generate(open_cascade(place / "model"), replace(request, loras=own))[0].image for own in ((), loras))
    assert plain.tobytes() != drawn.tobytes()


def test_the_file_says_what_was_told_of_padding_and_a_model_that_is_told_otherwise_is_noted(place, recwarn):
    for mask in ("masked", "unmasked"):
        go(lora_order(place, mask, "train.steps=1", f"text_mask={mask}"))
        path = place / mask / "models" / "lora.safetensors"
        assert read(path).text_mask == mask
        recwarn.clear()
        wear(open_cascade(place / "model"), [(str(path), 1.0)])
        said = [str(warning.message) for warning in recwarn if "text_mask" in str(warning.message)]
        assert len(said) == (mask == "unmasked") and all("lora was trained with text_mask=unmasked" in line for line in said)


def test_the_loss_falls(place):
    go(lora_order(place, "falls", "train.steps=24", "train.lr=3e-2", "train.text_lr=0", "lora.rank=4", "objective.weight=none"))
    seen = list(losses(place / "falls").values())
    assert sum(seen[-6:]) < 0.95 * sum(seen[:6])


def test_a_run_that_was_killed_goes_on_to_the_same_lora(place):
    often = ("save.state_minutes=0", "train.steps=5")
    go(lora_order(place, "unbroken", *often))

    def until_killed() -> None:
        go(lora_order(place, "broken", *often), lambda status: die() if status.images >= 14 else None)

    assert forked(until_killed) == [-9]
    go(lora_order(place, "broken", *often))
    assert_equal_states(place / "unbroken", place / "broken")
    one, other = (read(place / name / "models" / "lora.safetensors") for name in ("unbroken", "broken"))
    assert one.digest == other.digest and losses(place / "unbroken") == losses(place / "broken")


def test_two_processes_train_what_one_does(place):
    go(lora_order(place, "one", "train.steps=3", "train.lr=1e-3"))
    assert forked(lambda: go_together(lora_order(place, "two", "train.steps=3", "train.lr=1e-3")), 2) == [0, 0]
    one, two = losses(place / "one"), losses(place / "two")
    assert one.keys() == two.keys() and all(abs(one[n] - two[n]) <= 1e-5 * one[n] for n in one)


def test_one_part_alone_may_be_trained(place):
    go(lora_order(place, "text", "train.steps=1", "train.lr=0", "train.text_lr=1e-3", "lora.text_targets=['mlp']"))
    names = read(place / "text" / "models" / "lora.safetensors").pairs
    assert names and all(name.startswith("text.") and name.endswith((".fc1", ".fc2")) for name in names)


def test_in_half_precision_the_model_rests_in_it_and_the_lora_does_not(place):
    go(lora_order(place, "half", "train.steps=2", "precision.frozen=bfloat16", "precision.compute=bfloat16"))
    state = checkpoint.load(place / "half" / "checkpoints", checkpoint.latest(place / "half" / "checkpoints"))
    assert {value.dtype for value in state["modules"].values()} == {torch.float32}
    assert all(loss == loss for loss in losses(place / "half").values())


@pytest.mark.parametrize(("assignment", "says"), [
    ("lora.rank=-1", "lora.rank: -1 is out of range"),
    ("lora.alpha=0", "lora.alpha: 0 is not above 0"),
    ("lora.targets=['attn']", "lora.targets: 'attn' is not known; known are, nearest first, attention"),
    ("lora.text_targets=[]", "lora.text_targets: it is empty"),
    ("lora.form=lycoris", "'lycoris' is not known"),
    ("memory.compile=eager", "cannot compile blocks that have a LoRA"),
    ("precision.weights=bfloat16", "a LoRA is trained in float32"),
    ("lora.ranks=3", "lora.ranks"),
    ("lora.factor=1", "lora.factor: 1 is out of range"),
    ("lora.kind=loha", "'loha'"),
])  # fmt: skip
def test_settings_that_cannot_hold_are_refused_in_a_sentence(assignment, says):
    with pytest.raises(UserError) as refused:
        check(resolve("lora", (assignment, "train.lr=1e-3", "train.text_lr=1e-3"), PRESETS), 1)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_lokr_has_no_place_in_pefts_form():
    with pytest.raises(UserError, match="lora.form: peft has no place for lokr"):
        check(resolve("lora", ("lora.kind=lokr", "lora.form=peft"), PRESETS), 1)


def test_stage_b_and_spread_weights_have_no_lora():
    spread = ("distributed.sharding=fsdp", "memory.average=device")
    for assignments, ranks in ((("train.part=stage_b", "train.text_lr=0"), 1), (spread, 2)):
        with pytest.raises(UserError, match="LoRA"):
            check(resolve("lora", assignments, PRESETS), ranks)


def test_on_the_command_line_a_lora_is_trained_and_drawn_with(place, capsys):
    places = ("--data", place / "pictures", "--model", place / "model", "--out", place / "cli")
    few = ("train.steps=1", "train.epochs=0", "train.batch=4", "train.micro=4")
    small = ("data.buckets.resolution=128", "data.buckets.shortest=64", "data.buckets.longest=256")
    chosen = [argument for assignment in (*few, *small, *LORA) for argument in ("-s", assignment)]
    with pytest.raises(SystemExit) as done:
        main(["train", "run", "lora", *map(str, places), *chosen])
    assert done.value.code == 0 and "lora finished at 4 images" in capsys.readouterr().out
    loras = ((str(place / "cli" / "models" / "lora.safetensors"), 0.5),)
    (run,) = prepare(open_cascade(place / "model"), Request("1girl", width=64, height=64, seed=0, loras=loras))
    step(open_cascade(place / "model"), [run])
    assert run.x.isfinite().all()
