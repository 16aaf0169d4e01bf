"""Tokenizers give the reference's ids, read how they pad, and the home-made vocabulary knows every text."""

import json
import subprocess
import sys
from pathlib import Path

import instant_clip_tokenizer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.text.tokenizer import BOS, EOS, ClipTokenizer, FolderTokenizer, train_bpe
from sotediffusion.types import UserError

TEXTS = [
    "extremely aesthetic, best quality, newest, general, 1girl, solo, cat ears, pink hair, orange eyes, long hair",
    "acoustic guitar, sitting, living room, night sky, The text says hello",
    "worst quality, oldest, 2girls, fox ears, silver hair, looking at viewer",
] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    train_bpe(TEXTS, 700, place / "tokenizer.json")
    return place


@pytest.fixture(scope="module")
def trained(folder) -> FolderTokenizer:
    return FolderTokenizer(folder)


@pytest.fixture(scope="module")
def clip() -> ClipTokenizer:
    return ClipTokenizer()


WORDS = """hatsune miku|1girl|o_o| (|)|, |,,|'s|don't|caf\u00e9|\u521d\u97f3|\U0001f600|re:zero|:d|;)|42|artoria|-""".split("|")
WORDS += ["^_^", " ", "||", "\n", "BREAK", "\u00c9", "fate/", "\\o/"]


def write_pair(source: Path, target: Path, **config) -> Path:
    """Write the vocabulary of a tokenizer.json as diffusers' older pair of files."""
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    (target / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) for merge in model["merges"]]
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("A person riding a motorcycle", [320, 2533, 6765, 320, 10297]),
        ("Hello \n  WORLD", [3306, 1002]),
        ("1girl, hatsune miku", [272, 1611, 267, 3447, 41096, 37703]),
        ("a,b", [320, 267, 321]),
        ("", []),
    ],
)
def test_clip_ids_are_the_published_ones(clip, text, ids):
    assert clip.encode(text) == ids


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """CLIP's vocabulary as a folder, read out of the binary that carries it as plain text."""
    (binary,) = Path(instant_clip_tokenizer.__file__).parent.glob("instant_clip_tokenizer.*")
    lines = binary.read_bytes().partition(b"#version: 0.2\n")[2].split(b"\n")[: 49152 - 256 - 2]
    merges = [tuple(line.decode().split()) for line in lines]
    letters = list(transformers_bytes().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges), BOS, EOS]
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges)]) + "\n")
    specials = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **specials}))
    return folder


def transformers_bytes() -> dict[int, str]:
    return pytest.importorskip("transformers.convert_slow_tokenizer").bytes_to_unicode()


@pytest.fixture(scope="module")
def both_published(published):
    transformers = pytest.importorskip("transformers")
    return FolderTokenizer(published), transformers.CLIPTokenizer.from_pretrained(str(published))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join))
def test_clip_equals_transformers_on_the_whole_published_vocabulary(clip, both_published, words):
    ours, theirs = both_published
    assert clip.encode(words) == ours.encode(words) == theirs(words, add_special_tokens=False)["input_ids"]


def test_clip_special_tokens_are_the_published_ones(clip):
    assert (clip.bos, clip.eos, clip.pad) == (49406, 49407, 49407)


def test_composed_and_decomposed_letters_are_the_same_to_clip(clip):
    assert clip.encode("\u00e9") == clip.encode("e\u0301")


def test_no_prompt_can_spell_a_special_token(clip, folder):
    for tokenizer in (clip, FolderTokenizer(folder)):
        assert not {tokenizer.bos, tokenizer.eos} & set(tokenizer.encode(f"a {EOS} b {BOS}"))


def test_a_folder_of_json_and_one_of_vocab_and_merges_agree_with_transformers(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    specials = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": "!"}
    pair = write_pair(folder, tmp_path, tokenizer_class="CLIPTokenizer", **specials)
    theirs = transformers.CLIPTokenizer.from_pretrained(str(pair))
    for text in [*TEXTS[:3], "Hatsune  Miku's (cosplay)_\n||_||, it's 42", "caf\u00e9 \u65e5\u672c\u8a9e", "d'art,,  o_o"]:
        wanted = theirs(text, add_special_tokens=False)["input_ids"]
        assert FolderTokenizer(pair).encode(text) == FolderTokenizer(folder).encode(text) == wanted
    padded = theirs("a", padding="max_length", max_length=4)["input_ids"]
    ours = FolderTokenizer(pair)
    assert padded == [ours.bos, *ours.encode("a"), ours.eos, ours.pad]


@pytest.mark.parametrize("form", ["!", {"content": "!", "lstrip": False}])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_pad_token_is_read_from_the_files(folder, tmp_path, form, name):
    pair = write_pair(folder, tmp_path)
    (pair / name).write_text(json.dumps({"pad_token": form}))
    assert FolderTokenizer(pair).pad == 0
    assert FolderTokenizer(folder).pad == FolderTokenizer(folder).eos


def test_a_folder_that_does_not_say_how_it_pads_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="names no pad_token; add it to tokenizer_config.json"):
        FolderTokenizer(write_pair(folder, tmp_path))


def test_a_pad_token_outside_the_vocabulary_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"no token '\[PAD\]' for its pad_token"):
        FolderTokenizer(write_pair(folder, tmp_path, pad_token="[PAD]"))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="needs tokenizer.json, or vocab.json and merges.txt"):
        FolderTokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_refused(folder, tmp_path, name):
    whole = (folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole)
    (tmp_path / name).write_text(whole[:100])
    with pytest.raises(UserError, match="again"):
        FolderTokenizer(tmp_path)


def test_training_fills_the_vocabulary_and_ends_it_with_bos_and_eos(folder):
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert len(vocab) <= 700 and list(vocab)[-2:] == [BOS, EOS]
    tokenizer = FolderTokenizer(folder)
    assert (tokenizer.bos, tokenizer.eos) == (len(vocab) - 2, len(vocab) - 1)


@pytest.mark.parametrize("size", [515, 530, 4096])
def test_training_keeps_to_the_size_asked_for(tmp_path, size):
    vocab = json.loads(train_bpe(TEXTS, size, tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert 514 < len(vocab) <= size


def test_a_vocabulary_too_small_for_every_byte_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 515"):
        train_bpe(TEXTS, 514, tmp_path / "tokenizer.json")


def test_common_words_become_one_token(folder):
    assert len(FolderTokenizer(folder).encode("quality, hair")) == 3


def test_the_same_texts_give_the_same_file_in_another_process(folder, tmp_path):
    program = (
        "import sys; from sotediffusion.text.tokenizer import train_bpe; "
        f"train_bpe({TEXTS!r}, 700, sys.argv[1])"
    )
    again = tmp_path / "tokenizer.json"
    subprocess.run([sys.executable, "-c", program, str(again)], check=True, cwd=Path(__file__).parent.parent)
    assert again.read_bytes() == (folder / "tokenizer.json").read_bytes()


@given(st.text())
def test_nothing_is_unknown_to_a_trained_vocabulary(trained, text):
    assert trained.eos not in trained.encode(text)  # which stands for the unknown


def test_reading_text_loads_no_torch():
    program = "import sys, sotediffusion.text.prompt; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)
