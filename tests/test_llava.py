"""Claims about LLaVA and OCR as readers: the card's prompt word for word, whole answers, the same alone and in a batch."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from sotediffusion.curate.text.answers import Answer, TextSettings
from sotediffusion.curate.text.llava import Llava, model_digest, model_folder, prompt_of
from sotediffusion.curate.text.ocr import joined
from sotediffusion.curate.text.step import TextStep
from sotediffusion.types import UserError

SIDE, PATCH = 28, 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA of random weights and bytes as tokens, as transformers would save the published one."""
    place = tmp_path_factory.mktemp("llava")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", bos_token="<s>",
                                      extra_special_tokens={"image_token": "<image>"})  # fmt: skip
    image_processor = LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(image_processor, wrapped, patch_size=PATCH, vision_feature_select_strategy="default",
                   num_additional_image_tokens=1).save_pretrained(place)  # fmt: skip
    torch.manual_seed(3)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
                              patch_size=PATCH, projection_dim=32)  # fmt: skip
    words = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(wrapped),
                        max_position_embeddings=512, eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id,
                        bos_token_id=wrapped.bos_token_id)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=words, image_token_index=wrapped.convert_tokens_to_ids("<image>"),
                         vision_feature_layer=-1, image_seq_length=4)  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    model.generation_config.eos_token_id = wrapped.eos_token_id
    model.generation_config.pad_token_id = wrapped.pad_token_id
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def settings(folder):
    return TextSettings(backend="llava", model=str(folder), dtype="float32", max_new_tokens=12, batch=3)


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), np.uint8)


def asked(*numbers):
    return [(str(n), lambda n=n: picture(n)) for n in numbers]


def test_the_prompt_is_the_cards():
    assert prompt_of(TextSettings().question) == "<image>\nuser: what does the text say?\nassistant:"


def test_an_answer_is_greedy_and_the_same_alone_as_in_a_batch(settings):
    reader = Llava(settings)
    together = dict(reader.read(asked(*range(5))))
    assert list(together) == list("01234") and all(0 <= answer.confidence <= 1 for answer in together.values())
    for n in range(5):
        ((_, alone),) = reader.read(asked(n))
        assert alone.words == together[str(n)].words
        assert alone.confidence == pytest.approx(together[str(n)].confidence, rel=1e-4)


def test_the_answer_is_what_the_model_says_token_by_token(settings):
    reader = Llava(settings)
    ((_, answer),) = reader.read(asked(1))
    from PIL import Image

    inputs = reader.processor(images=[Image.fromarray(picture(1))], text=[prompt_of(settings.question)], return_tensors="pt")
    ids, chances = inputs["input_ids"], []
    for _ in range(settings.max_new_tokens):
        seen = {"attention_mask": torch.ones_like(ids), "pixel_values": inputs["pixel_values"]}
        logits = reader.model(input_ids=ids, **seen).logits[0, -1]
        chances.append(logits.log_softmax(0).max().item())
        ids = torch.cat([ids, logits.argmax().view(1, 1)], 1)
        if ids[0, -1] == reader.model.generation_config.eos_token_id:
            break
    said = reader.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.words == said and "assistant" not in said
    assert answer.confidence == pytest.approx(np.exp(np.mean(chances)), rel=1e-3)


def test_the_step_reads_and_survives_a_picture_that_is_gone(settings, tmp_path):
    def see(path):
        if path == "1":
            raise ValueError("truncated")
        return picture(int(path))

    step = TextStep(settings, see, tmp_path)
    step.setup()
    table = [{"path": str(i), "sha256": str(i), "rating": "general", "general": ["english text"]} for i in range(3)]
    found = step.process(pa.RecordBatch.from_pylist(table)).to_pylist()
    assert [row["text_error"] for row in found] == [None, "unreadable: truncated", None]
    assert found[0]["text"] is not None and found[0]["text_confidence"] > 0


def test_a_model_that_is_not_here_says_how_to_get_it_and_another_one_is_another_identity(settings, folder, tmp_path):
    with pytest.raises(UserError, match="sote curate models download.* or go on with --skip text"):
        TextStep(TextSettings(backend="llava", model="nobody/nothing"), picture, tmp_path)
    with pytest.raises(UserError, match="text.dtype"):
        TextStep(TextSettings(backend="llava", model=folder.name, dtype="int4"), picture, tmp_path, None, folder.parent)
    assert model_folder(folder.name, folder.parent) == folder
    before = model_digest(folder)
    (folder / "extra.json").write_text("{}")
    assert model_digest(folder) != before
    (folder / "extra.json").unlink()
    assert model_digest(folder) == before


def test_lines_of_ocr_are_joined_and_doubtful_ones_left_out():
    answer = joined([("Hello,", 0.9), ("world", 0.6), ("xx", 0.2), ("***", 0.99)], 0.5)
    assert answer == Answer("Hello, world", pytest.approx((6 * 0.9 + 5 * 0.6) / 11), exact=True)
    assert joined([], 0.5) == Answer("", None, exact=True)


def test_ocr_reads_words(tmp_path):
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    from PIL import Image, ImageDraw, ImageFont

    def see(path):
        sheet = Image.new("RGB", (320, 120), "white")
        ImageDraw.Draw(sheet).text((30, 30), "HELLO", fill="black", font=ImageFont.load_default(56))
        return np.asarray(sheet)

    step = TextStep(TextSettings(backend="ocr", long_side=320), see, tmp_path)
    step.setup()
    row = {"path": "x", "sha256": "x", "rating": None, "general": ["comic"]}
    found = step.process(pa.RecordBatch.from_pylist([row])).to_pylist()
    assert found[0]["text"] == "HELLO" and found[0]["text_confidence"] > 0.5
