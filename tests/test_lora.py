"""Claims about LoRA files: read from every program's names, written back bit by bit, refused in a sentence, merged exactly."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import KINDS, lora_file, random_kind, random_lora, targets
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_cascade

from sotediffusion.models.cascade import SIZES
from sotediffusion.types import UserError
from sotediffusion.weights import lora_keys, shapes
from sotediffusion.weights.lora import Lora, read, save
from sotediffusion.weights.lora_kinds import Kronecker, Pair, tensors_of
from sotediffusion.weights.lora_merge import changes, merge, merged, network_with, places
from sotediffusion.weights.reading import read as read_weights
from sotediffusion.weights.store import save_cascade


def assert_same(one: Lora, other: Lora) -> None:
    assert one.pairs.keys() == other.pairs.keys()
    for name, pair in one.pairs.items():
        theirs = other.pairs[name]
        assert (pair.kind, pair.rank, pair.scale, pair.by_rows) == (theirs.kind, theirs.rank, theirs.scale, theirs.by_rows)
        ours, found = (tensors_of(replace(kind, alpha=None), "sote", name) for kind in (pair, theirs))
        assert ours.keys() == found.keys()
        assert all(torch.equal(ours[key], found[key]) and ours[key].dtype == found[key].dtype for key in ours)


def forms_for(kind: str) -> list[str]:
    """Those that have a place for it."""
    return [form for form in lora_keys.FORMS if form != "peft" or kind in ("lora", "dora")]


@pytest.mark.parametrize(("kind", "form"), [(kind, form) for kind in KINDS for form in forms_for(kind)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_gives_back_what_was_written_bit_by_bit(tmp_path, kind, form, dtype):
    lora = random_lora(3, dtype=dtype, kind=kind, ends=("",) if kind == "lora" else (".to_q", ".clf.1", "channelwise.0"))
    there = read(save(lora, tmp_path / "there.safetensors", form))
    assert there.form == form
    assert_same(lora, there)
    for other in forms_for(kind):
        assert_same(lora, read(save(there, tmp_path / f"{other}.safetensors", other)))


@pytest.mark.parametrize("kind", ["columns", "lokr"])
def test_what_peft_has_no_place_for_is_not_written_for_it(tmp_path, kind):
    with pytest.raises(UserError, match="form: stage_c.* peft's form"):
        save(random_lora(kind=kind), tmp_path / "file.safetensors", "peft")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", lora_keys.FORMS)
def test_a_file_read_and_written_in_its_own_form_has_the_same_tensors(tmp_path, form):
    first = lora_file(tmp_path / "first.safetensors", form, seed=1)
    second = save(read(first), tmp_path / "second.safetensors", form)
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("size", "part"), [("full", "stage_c"), ("lite", "stage_c"), ("tiny", "text")])
def test_every_module_of_every_size_has_a_name_in_every_form_and_is_known_by_it(size, part):
    network = shapes.build(part, getattr(SIZES[size], part))
    names = set(places(part, {name: tuple(weight.shape) for name, weight in network.named_parameters()}))
    assert len(names) > 10
    for form in lora_keys.FORMS:
        theirs = {name: lora_keys.written(name, form) for name in names}
        assert len(set(theirs.values())) == len(names)
        assert {name: lora_keys.parse(theirs[name], "file") for name in names} == {name: [name] for name in names}


@pytest.mark.parametrize(("theirs", "ours"), [
    ("lora_unet_down_blocks_0_2_attention_attn_to_q", "stage_c.down_blocks.0.2.attention.attn.to_q"),  # kohya's trainer
    ("lora_prior_unet_up_blocks_1_11_attention_to_out_0", "stage_c.up_blocks.1.11.attention.attn.out_proj"),  # OneTrainer
    ("lora_prior_unet_down_blocks_0_1_mapper_sca", "stage_c.down_blocks.0.1.mapper_sca"),
    ("lora_unet_clip_txt_pooled_mapper", "stage_c.clip_txt_pooled_mapper"),
    ("diffusion_model.down_blocks.0.0.channelwise.4", "stage_c.down_blocks.0.0.channelwise.4"),  # ComfyUI, unprefixed
    ("text_encoders.clip_g.transformer.text_model.encoder.layers.1.mlp.fc1", "text.text_model.encoder.layers.1.mlp.fc1"),
    ("lora_te_text_model_encoder_layers_31_self_attn_q_proj", "text.text_model.encoder.layers.31.self_attn.q_proj"),
    ("lora_prior_te_text_projection", "text.text_projection"),
    ("prior.down_blocks.0.2.attention.to_k", "stage_c.down_blocks.0.2.attention.attn.to_k"),  # diffusers
    ("base_model.model.up_blocks.0.2.kv_mapper.1", "stage_c.up_blocks.0.2.kv_mapper.1"),  # PEFT alone
    ("base_model.model.text_model.encoder.layers.0.self_attn.out_proj", "text.text_model.encoder.layers.0.self_attn.out_proj"),
])  # fmt: skip
def test_names_as_other_programs_write_them_are_known(theirs, ours):
    assert lora_keys.parse(theirs, "file") == [ours]


def test_packed_attention_as_a_whole_is_its_three_parts(tmp_path):
    (out, into) = targets("stage_c")["stage_c.down_blocks.0.2.attention.attn.to_q"]
    down, up = torch.randn(2, into), torch.randn(3 * out, 2)
    key = "lora_unet_down_blocks_0_2_attention_attn_in_proj"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, tmp_path / "packed.safetensors")
    network = tiny_cascade().stage_c
    second = network_with("stage_c", network, [(read(tmp_path / "packed.safetensors"), 1.0)])
    attn = network.down_blocks[0][2].attention.attn.in_proj_weight
    assert torch.allclose(second.down_blocks[0][2].attention.attn.in_proj_weight, attn + up @ down, atol=1e-6)


@pytest.mark.parametrize("kind", ["dora", "lokr", "lokr dora"])
def test_packed_attention_of_other_kinds_is_its_three_parts_as_well(tmp_path, kind):
    (out, into) = targets("stage_c")["stage_c.down_blocks.0.2.attention.attn.to_q"]
    random = torch.Generator().manual_seed(0)
    whole = random_kind(kind, 3 * out, into, 2, lambda *shape: torch.randn(shape, generator=random), torch.tensor(1.0))
    if isinstance(whole, Kronecker):
        whole = replace(whole, left=(torch.randn(6, 2),), right=(torch.randn(out // 2, 2), torch.randn(2, into // 2)))
    key = "lora_unet_down_blocks_0_2_attention_attn_in_proj"
    tensors = {key + suffix: tensor for suffix, tensor in tensors_of(whole, "kohya", key).items()}
    save_file(tensors, tmp_path / "packed.safetensors")
    lora = read(tmp_path / "packed.safetensors")
    weight = tiny_cascade().stage_c.down_blocks[0][2].attention.attn.in_proj_weight
    second = network_with("stage_c", tiny_cascade().stage_c, [(lora, 0.5)])
    expected = weight + whole.change(0.5, weight)
    assert torch.allclose(second.down_blocks[0][2].attention.attn.in_proj_weight, expected, atol=1e-6)
    assert len(lora.pairs) == 3 and not torch.allclose(expected, weight, atol=1e-2)


def in_exact_arithmetic(kind: Pair | Kronecker, weight: torch.Tensor, factor: float) -> torch.Tensor:
    """The published equations in float64: of LoRA and LoKr the sum, of DoRA the fifth of Liu et al. 2024."""
    if isinstance(kind, Pair):
        delta = kind.up.double().flatten(1) @ kind.down.double().flatten(1)
    else:
        left, right = kind.left[0].double(), [half.double() for half in kind.right]
        delta = torch.kron(left, right[0] if len(right) == 1 else right[0] @ right[1])
    scaled = kind.alpha.double() / kind.rank if isinstance(kind, Pair) or len(kind.right) == 2 else 1.0
    moved = weight.double() + scaled * delta
    if kind.magnitude is not None:
        axis = 1 if kind.magnitude.shape[0] == weight.shape[0] else 0
        moved = kind.magnitude.double() * moved / moved.square().sum(axis, keepdim=True).sqrt()
    return factor * (moved - weight.double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, -0.4])
def test_every_kind_is_its_published_equation(kind, factor):
    random = torch.Generator().manual_seed(0)
    change = random_kind(kind, 12, 8, 3, lambda *shape: torch.randn(shape, generator=random), torch.tensor(2.0))
    weight = torch.randn(12, 8, generator=random)
    assert torch.allclose(change.change(factor, weight).double(), in_exact_arithmetic(change, weight, factor), atol=3e-6)
    assert change.shape == (12, 8)


def test_a_convolution_is_changed_as_its_kernel_flattened():
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731
    weight, columns = draw(6, 4 * 9), draw(1, 4, 1, 1)
    change = Pair(draw(2, 4, 3, 3), draw(6, 2, 1, 1), None, columns).change(1.0, weight)
    moved = change + weight
    assert torch.allclose(moved.view(6, 4, 9).square().sum((0, 2)).sqrt(), columns.flatten().abs(), atol=1e-5)
    rows = draw(6, 1, 1, 1)
    product = Kronecker((draw(2, 2),), (draw(3, 2, 3, 3),), None, rows)
    assert product.shape == (6, 36) and torch.allclose((product.change(1.0, weight) + weight).norm(dim=1), rows.flatten().abs())


PLAIN = {".lora_down.weight": torch.ones(2, 32), ".lora_up.weight": torch.ones(128, 2), ".alpha": torch.tensor(1.0)}


def good() -> dict[str, torch.Tensor]:
    return {"lora_unet_down_blocks_0_0_channelwise_0" + end: value for end, value in PLAIN.items()}


def changed(**values) -> dict[str, torch.Tensor]:
    """A good file with some tensors changed: by what follows the one module's name, or by whole names."""
    key = "lora_unet_down_blocks_0_0_channelwise_0"
    short = {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}
    named = {key + short[name] if name in short else name: value for name, value in values.items()}
    return {name: value for name, value in (good() | named).items() if value is not None}


@pytest.mark.parametrize(("tensors", "says"), [
    (changed(up=None), "has no lora_up"),
    (changed(up=torch.ones(128, 3)), "do not meet in one rank"),
    (changed(down=torch.full((2, 32), torch.nan)), "not finite"),
    (changed(down=torch.ones(2, 32, dtype=torch.int64)), "a pair has matrices of numbers"),
    (changed(alpha=torch.ones(2)), "alpha is not one number"),
    (changed(**{"lora_unet_down_blocks_0_0_channelwise_0.dora_scale": torch.ones(1)}), "for each of 128 rows nor .* 32 inputs"),
    ({"lora_unet_down_blocks_0_0_channelwise_0.lokr_w1": torch.ones(2, 2)}, "has no lokr_w2"),
    ({"lora_unet_down_blocks_0_0_channelwise_0.lokr_w1": torch.ones(1),
      "lora_unet_down_blocks_0_0_channelwise_0.lokr_w2": torch.ones(2, 2)}, r"lokr_w1 of shape \(1,\) is no matrix"),
    ({"lora_unet_down_blocks_0_0_channelwise_0.lokr_w1": torch.ones(2, 2),
      "lora_unet_down_blocks_0_0_channelwise_0.lokr_w2_a": torch.ones(2, 2),
      "lora_unet_down_blocks_0_0_channelwise_0.lokr_w2_b": torch.ones(3, 2)}, "lokr_w2 of shape .* is no matrix"),
    ({"lora_unet_down_blocks_0_0_channelwise_0.lokr_t2": torch.ones(1)}, "which is of LoKr with a core"),
    ({"lora_unet_down_blocks_0_0_channelwise_0.hada_w1_a": torch.ones(1)}, "which is of LoHa"),
    ({"down_blocks.0.0.channelwise.0.weight": torch.ones(1)}, "which no LoRA has"),
    ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(2, 2)}, "no module of a Stable Cascade"),
    ({"junk.lora_down.weight": torch.ones(2, 2)}, "no module of a Stable Cascade"),
    (good() | {"stage_c.down_blocks.0.0.channelwise.0" + end: value.clone() for end, value in PLAIN.items()},
     "changes stage_c.down_blocks.0.0.channelwise.0 twice"),
])  # fmt: skip
def test_a_file_that_is_no_plain_lora_is_refused_in_a_sentence(tmp_path, tensors, says):
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(UserError, match=says) as refused:
        read(tmp_path / "file.safetensors")
    assert "\n" not in refused.value.message


def test_what_is_no_file_of_safetensors_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello, this is no LoRA at all")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02")
    told = {"text.safetensors": "safetensors", "pickle.pt": "is no safetensors file", "none.safetensors": "is not here"}
    for name, says in told.items():
        with pytest.raises(UserError, match=says):
            read(tmp_path / name)


@pytest.mark.parametrize(("name", "shape", "says"), [
    ("stage_c.down_blocks.7.0.channelwise.0", (128, 32), "which this model has not"),
    ("stage_c.down_blocks.0.0.channelwise.0", (128, 16), "as 128x16 where this model has 128x32"),
    ("stage_c.down_blocks.0.0.channelwise.0", (64, 32), "as 64x32 where this model has 128x32"),
])  # fmt: skip
def test_a_lora_of_another_size_is_refused_by_the_name_of_what_differs(name, shape, says):
    lora = Lora({name: Pair(torch.ones(1, shape[1]), torch.ones(shape[0], 1))}, "mine")
    with pytest.raises(UserError, match=says):
        network_with("stage_c", tiny_cascade().stage_c, [(lora, 1.0)])


@settings(max_examples=5)
@given(weights=st.lists(st.floats(-2, 2), min_size=1, max_size=3))
def test_a_merged_weight_is_the_sum_in_exact_arithmetic(weights):
    loras = [(random_lora(seed), weight) for seed, weight in enumerate(weights)]
    network = tiny_cascade().text
    second = network_with("text", network, loras)
    for name in ("text_model.encoder.layers.0.mlp.fc1", "text_model.encoder.layers.1.self_attn.q_proj"):
        exact = network.get_submodule(name).weight.double()
        for lora, weight in loras:
            if f"text.{name}" in lora.pairs:
                pair = lora.pairs[f"text.{name}"]
                exact = exact + weight * pair.alpha.double() / pair.rank * (pair.up.double() @ pair.down.double())
        assert torch.allclose(second.get_submodule(name).weight.double(), exact, atol=1e-5)


def test_a_second_network_shares_all_that_is_not_changed_and_the_first_stays_as_it_is():
    network = tiny_cascade().stage_c
    before = {name: value.clone() for name, value in network.state_dict().items()}
    second = network_with("stage_c", network, [(random_lora(ends=("channelwise.0",)), 1.0)])
    shared = {name for name, value in second.named_parameters() if value is dict(network.named_parameters())[name]}
    assert {name for name in before if name not in shared} == {name for name in before if name.endswith("channelwise.0.weight")}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network_with("text", tiny_cascade().text, [(random_lora(parts=("stage_c",)), 1.0)]) is None


def test_a_weight_keeps_its_kind_and_its_order_in_memory():
    (place,) = places("text", {"x.weight": (6, 4)}).values()
    lora = Lora({"text.x": Pair(torch.ones(1, 4), torch.ones(6, 1))})
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        weight = torch.randn(4, 6).to(kind).t()
        made = changes("text", {"x.weight": (6, 4)}, [(lora, 0.5)])["x.weight"]
        after = merged(weight, made)
        assert after.stride() == weight.stride() and after.dtype == kind and place.columns == 4
        assert torch.equal(after, (weight.float() + 0.5).to(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_merged_on_disk_is_merged_in_memory(tmp_path, kind):
    save_cascade(tiny_cascade(), tmp_path / "model")
    loras = sorted([(random_lora(0, kind=kind), 0.8), (random_lora(1), -0.3)], key=lambda own: own[0].identity)
    bundle = merge(read_weights(tmp_path / "model"), loras[::-1])  # it knows their order
    bundle.settle()
    for part in ("stage_c", "text"):
        second = network_with(part, getattr(tiny_cascade(), part), loras)
        for name, value in second.state_dict().items():
            assert torch.equal(bundle.parts[part].tensors[name].load(), value), name


def test_what_a_file_says_of_itself_travels_and_tells_its_trigger_words(tmp_path):
    said = {"modelspec.trigger_phrase": "pink hair, from afar", "modelspec.author": "me"}
    lora = replace(random_lora(), name="pink", metadata=said)
    for form in lora_keys.FORMS:
        found = read(save(lora, tmp_path / f"{form}.safetensors", form))
        assert found.trigger == ["pink hair", "from afar"] and found.metadata["modelspec.author"] == "me"
        assert found.metadata["modelspec.architecture"] == "stable-cascade/lora" and found.metadata["modelspec.title"] == "pink"
        assert found.metadata["ss_network_dim"] == "2"


def test_words_alone_make_no_other_lora_of_a_file(tmp_path):
    one = save(random_lora(), tmp_path / "one.safetensors")
    other = save(replace(random_lora(), metadata={"modelspec.author": "someone else"}), tmp_path / "other.safetensors")
    third = save(random_lora(1), tmp_path / "third.safetensors")
    assert read(one).digest == read(other).digest != read(third).digest
    assert read(one).identity == read(other).identity != read(third).identity


def test_a_scale_or_a_module_that_only_the_header_tells_makes_another_lora(tmp_path):
    def peft(name, alpha, place):
        key = f"base_model.model.down_blocks.0.{place}.channelwise.0"
        tensors = {f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.ones(128, 2)}
        save_file(tensors, tmp_path / name, {"lora_adapter_metadata": json.dumps({"lora_alpha": alpha})})
        return read(tmp_path / name)

    one, scaled, moved = peft("one.safetensors", 2, 0), peft("scaled.safetensors", 4, 0), peft("moved.safetensors", 2, 3)
    assert one.digest == scaled.digest == moved.digest
    assert len({one.identity, scaled.identity, moved.identity}) == 3


def test_a_folder_of_peft_is_read_with_its_alpha(tmp_path):
    key = "base_model.model.down_blocks.0.0.channelwise.0"
    save_file({f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.ones(128, 2)},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "alpha_pattern": {}}))
    lora = read(tmp_path)
    assert lora.name == tmp_path.name and lora.pairs["stage_c.down_blocks.0.0.channelwise.0"].scale == 4


def test_lokr_of_peft_is_refused_as_its_scale_is_not_in_the_file(tmp_path):
    key = "base_model.model.down_blocks.0.0.channelwise.0"
    save_file({f"{key}.lokr_w1": torch.ones(2, 2), f"{key}.lokr_w2": torch.ones(64, 16)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="LoKr as PEFT saves it"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_lengths_as_peft_names_them_are_of_rows(tmp_path, suffix):
    key = "base_model.model.down_blocks.0.2.attention.to_q"  # as many rows as columns
    save_file({f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.zeros(32, 2),
               f"{key}.{suffix}": torch.arange(1.0, 33)}, tmp_path / "adapter_model.safetensors")  # fmt: skip
    (pair,) = read(tmp_path).pairs.values()
    moved = torch.ones(32, 32) + pair.change(1.0, torch.ones(32, 32))
    assert torch.allclose(moved.norm(dim=1), torch.arange(1.0, 33)) and pair.kind == "DoRA"


def test_alphas_that_differ_survive_the_form_that_keeps_them_outside_of_the_tensors(tmp_path):
    lora = random_lora()
    pairs = {name: replace(pair, alpha=torch.tensor(float(i))) for i, (name, pair) in enumerate(lora.pairs.items())}
    path = save(replace(lora, pairs=pairs), tmp_path / "peft.safetensors", "peft")
    assert_same(replace(lora, pairs=pairs), read(path))
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert told["prior.r"] == 2 and set(told) >= {"prior.alpha_pattern", "text_encoder.lora_alpha"}
