"""Claims about textual inversion: a word of one's own is trained, saved, and heard in prompts; and about the masked loss."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_cascade
from training_run import PRESETS, assert_equal_states, die, forked, go, losses, order, training_place

from sotediffusion.generate import generate, prepare
from sotediffusion.limits import validate
from sotediffusion.pictures.infotext import infotext_of, parse_infotext, settings_of
from sotediffusion.text.tokenizer import ClipTokenizer
from sotediffusion.text.words import WordTokenizer, unknown_words
from sotediffusion.train import checkpoint
from sotediffusion.train.adapters import Adapters, LoraSettings
from sotediffusion.train.captions import Chunker
from sotediffusion.train.contradictions import check
from sotediffusion.train.data import Batch
from sotediffusion.train.inversion import EmbeddingSettings, Words
from sotediffusion.train.loss import Objective
from sotediffusion.train.recipes.lora import LoraC
from sotediffusion.train.settings import resolve
from sotediffusion.types import Request, UserError
from sotediffusion.weights.embeddings import Embedding, read, save, with_words
from sotediffusion.weights.lora import TEXT_MASK
from sotediffusion.weights.store import open_cascade

WORD = ("save.every=0", "train.ema=0", "embedding.vectors=2", "name=mine")
SMALL = Request("1girl", width=64, height=64, steps=1, decoder_steps=1, seed=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return training_place(tmp_path_factory.mktemp("words"))


def word_order(place: Path, name: str, *assignments: str):
    return order(place, name, *WORD, "train.lr=0", "train.text_lr=1e-1", *assignments, preset="embedding")


def test_a_word_is_heard_wherever_it_stands_and_only_there():
    clip = ClipTokenizer()
    own = WordTokenizer(clip, {"mine": [50000, 50001], "mine-2": [50002]})
    one, two = clip.encode("a"), clip.encode(", b")
    assert own.encode("a embedding:mine, b") == [*one, 50000, 50001, *two]
    assert own.encode("embedding:MINE-2") == [50002] and own.encode("Embedding:Mine") == [50000, 50001]
    for text in ("embedding:mined", "mine", "embedding: mine", "1girl, (o)_(o)"):
        assert own.encode(text) == clip.encode(text)
    with pytest.raises(UserError, match="cannot be written in a prompt"):
        WordTokenizer(clip, {"my word": [1]})


def test_words_in_a_prompt_are_weighed_and_chunked_like_others():
    vectors = torch.randn(3, 32)
    cascade = tiny_cascade()
    tower, tokenizer = with_words(cascade.text, cascade.tokenizer, [Embedding("mine", vectors), Embedding("other", vectors[:1])])
    assert tokenizer.encode("embedding:mine embedding:other") == [49408, 49409, 49410, 49411]
    tokens = torch.tensor([[49406, 49408, 49411, 49407]])
    table = tower.text_model.embeddings.token_embedding
    assert torch.equal(table(tokens)[0, 1:3], vectors[[0, 0]]) and table(tokens).shape == (1, 4, 32)
    assert dict(tower.named_parameters())["text_projection.weight"] is cascade.text.text_projection.weight
    assert len(cascade.text.text_model.embeddings.token_embedding.weight) == 49408


@pytest.mark.parametrize(("mask", "notes"), [("unmasked", 1), ("masked", 0), (None, 0)])
def test_a_word_that_was_trained_with_padding_told_otherwise_is_noted(tmp_path, recwarn, mask, notes):
    path = save(Embedding("mine", torch.randn(2, 32), {TEXT_MASK: mask} if mask else {}), tmp_path / "mine.safetensors")
    prepare(tiny_cascade(), replace(SMALL, prompt="embedding:mine", embeddings=(str(path),)))
    said = [str(warning.message) for warning in recwarn if "text_mask" in str(warning.message)]
    assert len(said) == notes
    assert all("mine was trained with text_mask=unmasked and tiny draws with masked" in each for each in said)


def test_a_picture_drawn_with_a_word_tells_of_it_and_differs(place, tmp_path):
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 3
    path = save(Embedding("mine", vectors), tmp_path / "mine.safetensors")
    cascade = open_cascade(place / "model")
    request = replace(SMALL, prompt="(embedding:mine:1.2), 1girl", negative="embedding:mine", guidance=3.0)
    bare, said = (generate(cascade, replace(request, embeddings=paths))[0] for paths in ((), (str(path),)))
    assert bare.image.tobytes() != said.image.tobytes() and "embeddings" not in bare.settings
    assert said.settings["embeddings"] == [{"name": "mine", "hash": read(path).digest}]
    text = infotext_of(said.settings)
    assert f'TI hashes: "mine: {read(path).digest[:12]}"' in text
    assert settings_of(parse_infotext(text))["embeddings"] == [{"name": "mine", "hash": read(path).digest[:12]}]
    unsaid = generate(cascade, replace(SMALL, embeddings=(str(path),)))[0]
    assert unsaid.image.tobytes() == generate(cascade, SMALL)[0].image.tobytes()


@pytest.mark.parametrize(("tensors", "says"), [
    ({"a": torch.ones(2, 32), "b": torch.ones(2, 32)}, "none of them named clip_g or emb_params"),
    ({"clip_g": torch.ones(80, 32)}, "of 80x32; a word has 1 to 75 vectors"),
    ({"clip_g": torch.full((1, 32), torch.nan)}, "not finite"),
    ({"clip_g": torch.ones(1, 32, dtype=torch.int64)}, "a word has"),
    ({"emb_params": torch.ones(1, 48)}, "vectors of 48 numbers where this model's text encoder takes 32"),
])  # fmt: skip
def test_a_file_that_is_no_word_of_this_model_is_refused_in_a_sentence(tmp_path, tensors, says):
    save_file(tensors, tmp_path / "word.safetensors")
    with pytest.raises(UserError, match=says):
        prepare(tiny_cascade(), replace(SMALL, embeddings=(str(tmp_path / "word.safetensors"),)))


def test_a_name_that_no_file_can_have_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="cannot be read"):
        read(f"{'x' * 3000}.safetensors")


def test_an_order_takes_paths_of_embeddings_only():
    validate(replace(SMALL, embeddings=["x"]), ("ddpm",), ("default",))
    for wrong in ("x", (1,), ("",), ("x",) * 17):
        with pytest.raises(UserError, match="embeddings"):
            validate(replace(SMALL, embeddings=wrong), ("ddpm",), ("default",))


@pytest.mark.parametrize("text_mask", ["masked", "unmasked"])
def test_captions_begin_with_the_word_as_a_prompt_that_says_it_first(text_mask):
    tower = copy.deepcopy(tiny_cascade().text)
    words = Words(tower, ClipTokenizer(), "mine", EmbeddingSettings(2))
    long = ", ".join(["cat ears"] * 40)
    plain, spoken = Chunker(ClipTokenizer(), text_mask), Chunker(words.tokenizer, text_mask)
    tokens, mask = words.say(*plain.encode(["1girl, smile", "", long]))
    wanted, seen = spoken.encode(["embedding:mine, 1girl, smile", "", "embedding:mine, " + long])
    assert torch.equal(tokens[:2], wanted[:2]) and torch.equal(mask[:2], seen[:2])
    assert tokens[2, 0, :6].tolist() == wanted[2, 0, :6].tolist() and tokens[2, 0, -1] == 49407


def test_only_the_word_learns_and_the_file_is_heard(place):
    go(word_order(place, "word", "train.steps=3", "save.dtype=float32"))
    state = checkpoint.load(place / "word" / "checkpoints", checkpoint.latest(place / "word" / "checkpoints"))
    assert list(state["modules"]) == ["text.vectors"]
    path = place / "word" / "models" / "mine.safetensors"
    embedding = read(path)
    assert torch.equal(embedding.vectors, state["modules"]["text.vectors"]) and embedding.vectors.shape == (2, 32)
    assert embedding.metadata[TEXT_MASK] == "masked"
    table = tiny_cascade().text.text_model.embeddings.token_embedding.weight
    begin = table[(ClipTokenizer().encode("1girl") * 2)[:2]]
    assert not torch.allclose(embedding.vectors, begin) and torch.allclose(embedding.vectors, begin, atol=1.0)
    (picture,) = generate(open_cascade(place / "model"), replace(SMALL, prompt="embedding:mine", embeddings=(str(path),)))
    assert picture.settings["embeddings"][0]["name"] == "mine"


def test_a_killed_run_goes_on_to_the_same_word(place):
    often = ("save.state_minutes=0", "train.steps=4")
    go(word_order(place, "unbroken", *often))
    killed = lambda: go(word_order(place, "broken", *often), lambda status: die() if status.images >= 14 else None)  # noqa: E731
    assert forked(killed) == [-9]
    go(word_order(place, "broken", *often))
    assert_equal_states(place / "unbroken", place / "broken")
    assert losses(place / "unbroken") == losses(place / "broken")


@pytest.mark.parametrize(("assignment", "says"), [
    ("embedding.vectors=76", "embedding.vectors: 76 is out of range"),
    ("train.lr=1e-3", "set train.lr=0"),
    ("lora.rank=4", "one at a time"),
    ("precision.weights=bfloat16", "an embedding is trained in float32"),
])  # fmt: skip
def test_settings_that_cannot_hold_are_refused_in_a_sentence(assignment, says):
    with pytest.raises(UserError, match=says):
        check(resolve("embedding", (assignment,), PRESETS), 1)


def test_a_start_that_says_nothing_is_refused():
    with pytest.raises(UserError, match="says nothing"):
        Words(copy.deepcopy(tiny_cascade().text), ClipTokenizer(), "mine", EmbeddingSettings(2, " "))


def test_where_the_mask_is_dark_nothing_is_learnt():
    cascade = replace(tiny_cascade(), stage_c=copy.deepcopy(tiny_cascade().stage_c))
    adapters = {"stage_c": Adapters("stage_c", cascade.stage_c, LoraSettings(2))}

    class Nothing:
        identity = ""

    recipe = LoraC(cascade, adapters, Nothing(), Objective(), cascade.conventions)
    tokens, seen = Chunker(ClipTokenizer()).encode(["1girl", "1boy"])
    latents = torch.randn(2, 16, 4, 4)
    fields = {"tokens": tokens, "token_mask": seen, "effnet": latents}
    found = []
    for mask in (torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)):
        mask[0, :, :, :2] = mask[0, :, :, :2] if len(found) < 2 else 0
        loss, _ = recipe.loss(Batch([(0, 0, 0), (0, 0, 1)], [{}, {}], fields | {"mask": mask}))
        found.append(loss)
    assert found[0] == 0 and 0 < found[2] < found[1]
    assert torch.equal(found[1], recipe.loss(Batch([(0, 0, 0), (0, 0, 1)], [{}, {}], fields))[0])


def test_a_word_that_no_embedding_stands_for_is_told_from_those_that_are_known():
    said = "a cat embedding:My-Style, embedding:my-style.v2 and embedding:other. EMBEDDING:other, embedding:other"
    assert unknown_words(said, ["my-style", "my-style.v2"]) == ["other"]
    assert unknown_words(said, ["my-style"]) == ["other"], "a dot ends a word that is known, as it does where it is heard"
    assert unknown_words(said, []) == ["My-Style", "my-style.v2", "other"]
