"""Claims about a whole run: pictures and a model go in, a model that draws comes out, and says what it was trained to expect."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import tiny_cascade
from training_pictures import catalogue_of
from training_run import PRESETS, SMALL, go, losses, order, settings, training_place

from sotediffusion.cli.main import main
from sotediffusion.generate import generate
from sotediffusion.models.cascade import SIZES
from sotediffusion.models.layers import AttnBlock, ResBlock
from sotediffusion.text.prompt import chunk_pair
from sotediffusion.train.data import Batch
from sotediffusion.train.loss import Objective
from sotediffusion.train.memory import chosen, spare
from sotediffusion.train.recipes.finetune_b import FinetuneB
from sotediffusion.train.recipes.finetune_c import FinetuneC, told
from sotediffusion.train.run import conventions_of
from sotediffusion.train.settings import Memory
from sotediffusion.types import Request, UserError
from sotediffusion.weights.store import open_cascade, save_cascade


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return training_place(tmp_path_factory.mktemp("runs"))


def sote(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_from_a_catalogue_through_base_and_final_to_a_picture(place, capsys):
    (place / "drawn").mkdir()
    good = {"score_aesthetic_shadow_v2": lambda number: 0.95 - number / 50, "score_aes_b32_v0": lambda number: 0.99}
    catalogue = catalogue_of(place / "drawn", place / "catalogue", 20, **good, repeats=lambda number: 6 if number < 2 else 1)
    # An epoch has 20 pictures but 4 that fit no bucket, two of the others six times; its fourth step has the 2 that are left.
    small = [argument for assignment in SMALL for argument in ("-s", assignment)]
    base = ("train", "run", "card-base", "--data", catalogue, "--model", place / "model", "--out", place / "base", *small)
    assert sote(*base, "-s", "save.every='4 steps'") == 0
    assert "card-base finished at 42 images; models in" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "base" / "models").iterdir()) == ["card-base", "card-base-000000026"]
    final = ("train", "run", "card-final", "--data", catalogue, "--model", place / "base" / "models" / "card-base",
             "--out", place / "final", *small, "-s", "train.text_lr=0", "-s", "train.steps=0",
             "-s", "train.epochs=2")  # fmt: skip
    assert sote(*final) == 0
    assert "card-final finished at 6 images" in capsys.readouterr().out  # three of the best, twice, whatever their repeats
    before, base_model, final_model = (open_cascade(path) for path in (
        place / "model", place / "base" / "models" / "card-base", place / "final" / "models" / "card-final"))  # fmt: skip
    assert moved(before, base_model) == {"stage_c", "text"} and moved(base_model, final_model) == {"stage_c"}
    assert {path.name for path in (place / "final" / "data").iterdir()} and final_model.name == "card-final"
    (picture,) = generate(final_model, Request("1girl", width=128, height=128, steps=1, decoder_steps=1, seed=0))
    assert picture.image.size == (128, 128)


def moved(one, other) -> set[str]:
    """Parts whose weights differ."""
    return {name for name, network in one.parts().items()
            if not all(map(torch.equal, network.state_dict().values(), getattr(other, name).state_dict().values()))}  # fmt: skip


def test_what_it_was_trained_to_expect_is_written_into_the_model_and_read_back_when_drawing(place):
    what = order(place, "kohya", "recipe=kohya", "train.steps=1", "data.buckets.resolution=128", "data.buckets.longest=128",
                 "save.format=kohya")  # fmt: skip
    go(what)
    path = place / "kohya" / "models" / "card-base.safetensors"
    assert path.with_name("card-base_text_model.safetensors").is_file()
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["modelspec.architecture"] == "stable-cascade" and "unmasked" in about["sotediffusion.model"]
    model = open_cascade({"base": place / "model", "stage_c": path, "text": path.with_name("card-base_text_model.safetensors")})
    assert open_cascade(place / "model").conventions.text_mask == "masked"
    go(replace(what, settings=settings("recipe=kohya", "train.steps=1", "data.buckets.longest=128"), out=place / "kohya2"))
    conventions = open_cascade(place / "kohya2" / "models" / "card-base").conventions
    assert (conventions.text_mask, conventions.compression) == ("unmasked", 42.67)
    assert conventions.area == round(128 * 128 * (42.67 / 32) ** 2)  # what EffNet saw whole stands for a larger picture
    assert model.stage_c.config == SIZES["tiny"].stage_c


def test_the_size_drawn_when_none_is_asked_for_goes_along_with_the_area_trained_on(place):
    what = order(place, "larger", "train.steps=1", "train.batch=1", "train.micro=1", "data.buckets.resolution=256",
                 "data.buckets.shortest=128")  # fmt: skip
    go(what)
    path = place / "larger" / "models" / "card-base"
    conventions = open_cascade(path).conventions
    assert abs(conventions.area / 256**2 - 1) < 0.001 and (conventions.width, conventions.height) == (192, 288)
    (picture,) = generate(open_cascade(path), Request("1girl", steps=1, decoder_steps=1, seed=0))
    assert picture.image.size == (192, 288)
    stage_b = settings("data.buckets.resolution=256", "train.part=stage_b", "train.text_lr=0", preset="stage-b")
    assert conventions_of(tiny_cascade(), stage_b) == tiny_cascade().conventions


def test_a_model_keeps_what_it_was_told_of_padding_unless_a_run_says_otherwise_and_then_that_is_noted(place):
    unmasked, notes = place / "unmasked", []
    save_cascade(replace(open_cascade(place / "model"), conventions=replace(
        open_cascade(place / "model").conventions, text_mask="unmasked")), unmasked, "folder")  # fmt: skip
    what = replace(order(place, "kept", "train.steps=1"), model=unmasked)
    go(what, note=notes.append)
    assert open_cascade(place / "kept" / "models" / "card-base").conventions.text_mask == "unmasked"
    assert not [note for note in notes if "text_mask" in note]
    for dry in (True, False):
        changed = settings("train.steps=1", "text_mask=masked")
        notes.clear()
        go(replace(what, settings=changed, out=place / "told", dry=dry), note=notes.append)
        assert "was made with text_mask=unmasked and is trained with masked" in "".join(notes)
    assert open_cascade(place / "told" / "models" / "card-base").conventions.text_mask == "masked"


def test_stage_b_is_told_of_padding_as_its_text_encoder_is(place):
    with pytest.raises(UserError, match="text_mask: Stage B listens .* as masked, not unmasked; give -s text_mask=model"):
        go(order(place, "b-refused", "train.part=stage_b", "train.text_lr=0", "recipe=kohya", preset="stage-b"))


def test_saved_precision_does_not_touch_what_is_trained_and_an_overflow_is_refused(place):
    go(order(place, "half", "train.steps=1", "save.dtype=float16"))
    model = open_cascade(place / "half" / "models" / "card-base")
    assert {p.dtype for p in model.stage_c.parameters()} == {torch.float16}
    with pytest.raises(UserError, match="overflows float16"):
        go(order(place, "overflow", "train.steps=1", "train.lr=1e6", "save.dtype=float16", "train.ema=0", "train.clip=0"))


ECONOMY = ("memory.fused=true", "train.batch=4", "train.micro=4", "train.ema=0")
WAYS = {
    "fused": ECONOMY,
    "host": ("memory.gather=host",),
    "recompute": ("memory.recompute=['residual', 'attention', 'text']", "memory.recompute_share=0.5"),
    "bfloat16": ("precision.weights=bfloat16", "precision.rounding=stochastic", "precision.compute=bfloat16"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_spare_memory_train_what_a_plain_run_does(place, way):
    go(order(place, way, *WAYS[way]))
    found = list(losses(place / way).values())
    assert len(found) >= 6 and max(found) < 3
    if way in ("host", "recompute"):
        if not (place / "plain").exists():
            go(order(place, "plain"))
        assert found == pytest.approx(list(losses(place / "plain").values()), rel=1e-4)


def test_blocks_are_chosen_evenly_and_compute_their_insides_again(monkeypatch):
    assert chosen(list(range(8)), 0.5) == [1, 3, 5, 7] and chosen(list(range(3)), 1.0) == [0, 1, 2]
    network, runs = copy.deepcopy(tiny_cascade().stage_c).requires_grad_(), {"residual": 0, "attention": 0}
    monkeypatch.setattr(ResBlock, "forward", counted(ResBlock.forward, runs, "residual"))
    monkeypatch.setattr(AttnBlock, "forward", counted(AttnBlock.forward, runs, "attention"))
    spare(network, Memory(recompute=("residual",)))
    cond = network.condition(torch.randn(1, 77, 32), torch.randn(1, 1, 32))
    network(torch.randn(1, 16, 3, 3), torch.rand(1), cond).square().mean().backward()
    assert runs["residual"] == 2 * runs["attention"] > 0


def counted(forward, runs, name):
    def run(*arguments):
        runs[name] += 1
        return forward(*arguments)

    return run


def test_compiled_blocks_compute_the_same_for_every_bucket():
    block = copy.deepcopy(next(tiny_cascade().stage_c.blocks(ResBlock)))
    network = torch.nn.ModuleList([copy.deepcopy(block)])
    spare(network, Memory(compile="eager"))
    for size in ((3, 4), (5, 2)):
        x = torch.randn(2, *size, 32)
        torch.testing.assert_close(network[0](x), block(x))
    assert network[0]._compiled_call_impl is not None
    assert network[0].state_dict().keys() == block.state_dict().keys()


def test_captions_reach_stage_c_as_they_do_when_drawing():
    """Long ones in several chunks, the shorter one beside them filled up as its picture's negative would be."""
    from sotediffusion.conditioning import encode_pair
    from sotediffusion.train.captions import Chunker

    cascade = tiny_cascade()
    texts = [", ".join(f"thing {i}" for i in range(40)), "1girl"]
    tokens, mask = Chunker(cascade.tokenizer, "masked", 3).encode(texts)
    assert tokens.shape[1] == len(chunk_pair(*texts, cascade.tokenizer)[0]) > 1
    batch = Batch([(0, 0, 0), (0, 0, 1)], [{}, {}], {"tokens": tokens, "token_mask": mask})
    with torch.inference_mode():
        hidden, pooled = told(cascade.text, batch, torch.device("cpu"))
        expected = encode_pair(cascade.text, cascade.tokenizer, *texts, "masked")
    torch.testing.assert_close(hidden, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, expected[1], rtol=1e-4, atol=1e-5)


def batch_of(count: int) -> Batch:
    keys = [(0, 0, i) for i in range(count)]
    tokens = torch.randint(0, 1000, (count, 1, 77), generator=torch.Generator().manual_seed(0))
    fields = {"tokens": tokens, "token_mask": torch.ones(count, 1, 77, dtype=torch.bool),
              "effnet": torch.randn(count, 16, 3, 4, generator=torch.Generator().manual_seed(1)),
              "pictures": torch.randint(0, 256, (count, 128, 192, 3), dtype=torch.uint8)}  # fmt: skip
    return Batch(keys, [{}] * count, fields)


def recipe_c(trained=("stage_c", "text")) -> FinetuneC:
    cascade = tiny_cascade()
    networks = {name: copy.deepcopy(getattr(cascade, name)).requires_grad_(name in trained) for name in ("stage_c", "text")}
    return FinetuneC(networks["stage_c"], networks["text"], None, Objective(), cascade.conventions)


@pytest.mark.parametrize("trained", [("stage_c", "text"), ("stage_c",), ("text",)])
def test_only_what_is_trained_is_kept_in_a_state_and_has_gradients(trained):
    recipe = recipe_c(trained)
    recipe.loss(batch_of(2))[0].backward()
    assert tuple(recipe.modules) == trained
    assert all(p.grad is not None for p in recipe.modules.parameters())
    others = {"stage_c": recipe.stage_c, "text": recipe.text}
    assert not any(p.grad is not None for name, network in others.items() if name not in trained for p in network.parameters())


def test_a_sample_counts_by_its_weight_and_where_its_mask_is_white():
    recipe, batch = recipe_c(), batch_of(2)
    alone = recipe.loss(batch.take([0]))[0].item()
    batch.fields |= {"weight": torch.tensor([1.0, 0.0]), "mask": torch.ones(2, 1, 3, 4)}
    assert recipe.loss(batch)[0].item() == pytest.approx(alone / 2, rel=1e-5)
    batch.fields["mask"] = torch.zeros(2, 1, 3, 4)
    assert recipe.loss(batch)[0].item() == 0


def test_stage_b_learns_from_pictures_seen_at_many_sizes_each_its_own_in_any_batch():
    cascade = tiny_cascade()
    frozen = {name: getattr(cascade, name) for name in ("text", "effnet", "stage_a")}
    stage_b = copy.deepcopy(cascade.stage_b).requires_grad_()
    recipe = FinetuneB(stage_b, frozen, None, Objective(pyramid=0.75), cascade.conventions)
    batch = batch_of(30)
    sizes = []
    frozen["effnet"].register_forward_pre_hook(hook := lambda module, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    picture = batch.fields["pictures"].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        seen = recipe.look(picture, batch, (16, 24))
        alone = recipe.look(picture[7:8], batch.take([7]), (16, 24))
    frozen["effnet"]._forward_pre_hooks.clear()
    assert hook and torch.allclose(seen[7:8], alone, atol=1e-6)
    assert {size[0] for size in sizes} == {64, 96} and all(size[0] % 32 == 0 == size[1] % 32 for size in sizes)  # .5 to 1 of 128
    assert 0 < sum(not row.any() for row in seen) < 12  # one in ten sees nothing
    loss, numbers = recipe.loss(batch.take([0, 1]))
    loss.backward()
    assert loss.isfinite() and numbers and all(p.grad is not None for p in stage_b.parameters())


def test_stage_b_is_trained_by_its_preset(place):
    go(order(place, "b", "train.part=stage_b", "train.text_lr=0", "train.steps=2", "train.batch=2", "train.micro=1",
             "data.buckets.resolution=96", "data.buckets.shortest=32", preset="stage-b"))  # fmt: skip
    model, before = open_cascade(place / "b" / "models" / "stage-b"), open_cascade(place / "model")
    assert moved(before, model) == {"stage_b"} and len(losses(place / "b")) == 2


@pytest.mark.parametrize("assignments, message", [
    (["data.buckets.scale=1.0"],
     r"data.buckets.scale: 1 makes a latent cell of 32 px where the model draws 42.67; set it to 0.75"),
])  # fmt: skip
def test_what_contradicts_the_model_is_refused_before_data_is_made_for_it(place, assignments, message):
    with pytest.raises(UserError, match=message):
        go(order(place, "refused", *assignments))
    assert not (place / "refused" / "latents").exists()


def test_a_model_without_effnet_says_how_to_add_it(place):
    shutil.copytree(place / "model", place / "bare")
    table = (place / "bare" / "model.toml").read_text()
    start = table.index("[effnet]")
    end = table.index("[previewer]")
    (place / "bare" / "model.toml").write_text(table[:start] + table[end:])
    (place / "bare" / "effnet.safetensors").unlink()
    with pytest.raises(UserError, match="model: has no EffNet encoder .* --effnet"):
        go(replace(order(place, "none"), model=place / "bare"))


@pytest.mark.parametrize("online", ["false", "true"])
def test_a_picture_that_cannot_be_read_is_left_out_and_named_once(place, tmp_path, online):
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    torn = tmp_path / "pictures" / "03.png"
    torn.write_bytes(torn.read_bytes()[:-200])  # its size can still be read
    notes = []
    what = replace(order(place, "torn", f"data.online={online}"), data=str(tmp_path / "pictures"), out=tmp_path / "run")
    assert go(what, note=notes.append).outcome == "finished"
    assert len([text for text in notes if text.startswith("1 pictures cannot be read: ") and "03.png" in text]) == 1


def test_the_commands_errors_are_one_sentence_and_leave_with_2(place, capsys):
    common = ("--data", place / "pictures", "--model", place / "model", "--out", place / "error")
    assert sote("train", "run", "card-bse", *common) == 2
    assert capsys.readouterr().err.startswith("sote: preset: 'card-bse' is not known; known are, nearest first, card-base")
    assert sote("train", "run", "card-base", *common, "-s", "train.images=5") == 2
    assert "epochs and images are all given" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert sote("train", "run", "card-base", *common, "--device", "cuda") == 2
        assert capsys.readouterr().err.startswith("sote: device: cuda:0 is not here, torch sees 0 such GPUs; take cpu")
    assert not Path(place / "error").exists() and PRESETS.is_dir()
