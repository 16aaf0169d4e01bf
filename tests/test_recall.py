"""Settings come out of pictures of ours and of the programs people come from, and what is not understood is said."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sotediffusion.pictures.comfyui import read_comfyui
from sotediffusion.pictures.files import encode_picture
from sotediffusion.pictures.recall import TAKEN, Recalled, recall
from sotediffusion.types import Picture, UserError

GOLDEN = json.loads((Path(__file__).parent / "data" / "recall.json").read_text())
few = settings(max_examples=40)


def png(**chunks: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in chunks.items():
        info.add_text(key.replace("__", "-"), value)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def jpeg(comment: bytes, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, format, exif=exif.tobytes())
    return file.getvalue()


OURS: dict[str, Any] = {
    "prompt": "1girl, (cat ears:1.2)", "negative": "worst quality", "width": 1024, "height": 1536, "steps": 28, "guidance": 6.5,
    "decoder_steps": 12, "decoder_guidance": 1.5, "sampler": "dpmpp_2m", "decoder_sampler": "euler_ancestral",
    "schedule": "karras", "decoder_schedule": "default", "shift": 2.0, "decoder_shift": 1.0, "rescale": 0.3,
    "compression": 42.0, "seed": 7,
}  # fmt: skip
MARKS = {"model": "miniature", "software": "SoteDiffusion", "version": "0.1.0", "ai_generated": True}


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_picture_of_ours_gives_back_every_setting(format):
    found = recall(encode_picture(Picture(Image.new("RGB", (16, 16)), 7, {**OURS, **MARKS, "count": 1, "strength": 0.6}), format))
    assert found.origin == "sote"
    assert found.settings == {**OURS, "model": "miniature"}
    assert found.notes == ()


def test_one_of_ours_that_started_from_a_picture_says_so():
    found = recall(encode_picture(Picture(Image.new("RGB", (8, 8)), 7, {**OURS, **MARKS, "init": "sha256", "strength": 0.4})))
    assert found.settings["strength"] == 0.4
    assert "drawn from another picture" in found.notes[0]


A1111 = (
    "a cat <lora:ink:0.7>, (sitting:1.3)\nNegative prompt: bad\nworse\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, "
    "Seed: 1, Size: 512x768, Model hash: abc, Model: x, Denoising strength: 0.4, Clip skip: 2, Version: v1.10.1"
)


@pytest.mark.parametrize("content", [png(parameters=A1111), jpeg(b"UNICODE\0" + A1111.encode("utf-16-be")),
                                     jpeg(b"UNICODE\0" + A1111.encode("utf-16-be"), "WEBP")])  # fmt: skip
def test_a1111(content):
    found = recall(content)
    assert found.origin == "a1111"
    assert found.text == A1111
    assert found.settings == {
        "prompt": "a cat, (sitting:1.3)", "negative": "bad\nworse", "steps": 20, "sampler": "dpmpp_2m", "schedule": "karras",
        "guidance": 7.5, "seed": 1, "width": 512, "height": 768, "strength": 0.4, "model": "x",
        "loras": [{"name": "ink", "weight": 0.7}],
    }  # fmt: skip
    assert "drawn from another picture" in found.notes[0]
    assert found.notes[1] == "Not taken over: Clip skip."


def test_sd_next_keeps_the_decoder():
    text = ("newest, 1girl\nNegative prompt: oldest\nSteps: 40, Size: 1024x1536, Sampler: Default, Seed: 5, CFG scale: 7, "
            "Image CFG scale: 1.5, Refiner steps: 12, App: SD.Next, Version: abc, Pipeline: StableCascadeCombinedPipeline, "
            "Operations: txt2img")  # fmt: skip
    found = recall(png(parameters=text))
    assert found.origin == "sdnext"
    assert found.settings == {"prompt": "newest, 1girl", "negative": "oldest", "steps": 40, "width": 1024, "height": 1536,
                              "sampler": "ddpm", "seed": 5, "guidance": 7.0, "decoder_steps": 12,
                              "decoder_guidance": 1.5}  # fmt: skip
    assert found.notes == ()


CASCADE = GOLDEN["comfyui"]  # the graph of the card's ComfyUI guide: Stage C, then Stage B on what it drew
CASCADE_SETTINGS = {
    "prompt": "newest, 1girl, \\[cat\\]", "negative": "very displeasing, oldest", "width": 1024, "height": 1536,
    "compression": 42, "steps": 30, "guidance": 7, "sampler": "dpmpp_2m", "schedule": "sgm_uniform", "shift": 2.0, "seed": 99,
    "decoder_steps": 10, "decoder_guidance": 1.1, "decoder_sampler": "euler_ancestral", "model": "sote_stage_c.safetensors",
    "loras": [{"name": "ink.safetensors", "weight": 0.8}],
}  # fmt: skip


def test_comfyui_tells_both_stages():
    found = recall(png(prompt=json.dumps(CASCADE), workflow="{}"))
    assert found.origin == "comfyui"
    assert found.settings == CASCADE_SETTINGS
    assert found.notes == ("Not taken over: schedule simple.",)


def test_comfyui_of_the_newer_samplers():
    found = recall(png(prompt=json.dumps(GOLDEN["comfyui_custom_sampler"])))
    assert found.settings == {"prompt": "a fox", "negative": "", "steps": 24, "guidance": 5.5, "seed": 12, "sampler": "euler",
                              "schedule": "karras", "strength": 0.5, "model": "any.safetensors"}  # fmt: skip
    assert "drawn from another picture" in found.notes[0]


def test_comfyui_from_the_editors_own_file():
    found = recall(png(workflow=json.dumps(GOLDEN["comfyui_editor"])))
    assert found.settings == {"prompt": "a fox", "negative": "bad", "steps": 18, "guidance": 6, "seed": 4, "sampler": "ddim",
                              "schedule": "exponential", "width": 640, "height": 960, "model": "any.safetensors"}  # fmt: skip


def test_comfyui_in_a_webp():
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(CASCADE)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP", exif=exif.tobytes())
    assert recall(file.getvalue()).settings == CASCADE_SETTINGS


def test_a_graph_that_bites_its_tail_ends():
    graph = {**CASCADE, "4": {"class_type": "ConditioningConcat", "inputs": {"a": ["8", 0], "b": ["4", 0]}},
             "1": {"class_type": "ModelPatch", "inputs": {"model": ["3", 0]}}}  # fmt: skip
    found = read_comfyui(graph)
    assert found is not None and found.settings["prompt"] == ""


def test_invokeai():
    found = recall(png(invokeai_metadata=json.dumps(GOLDEN["invokeai"]), invokeai_graph="{}"))
    assert found.origin == "invokeai"
    assert found.settings == {"prompt": "a (red fox:1.2), snow", "negative": "bad", "width": 832, "height": 1216, "seed": 3,
                              "guidance": 7.5, "rescale": 0.2, "steps": 30, "sampler": "dpmpp_2m", "schedule": "karras",
                              "model": "any", "loras": [{"name": "ink", "weight": 0.75}]}  # fmt: skip


def test_invokeai_of_the_second_version():
    found = recall(png(sd__metadata=json.dumps(GOLDEN["invokeai_2"])))
    assert found.origin == "invokeai"
    assert (found.settings["prompt"], found.settings["negative"], found.settings["seed"]) == ("a fox", "bad", 9)
    assert found.notes == ("Not taken over: sampler k_lms.",)


FOOOCUS = GOLDEN["fooocus"]


def test_fooocus():
    found = recall(png(parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"))
    assert found.origin == "fooocus"
    assert found.settings == {"prompt": "a fox", "negative": "bad", "guidance": 4, "steps": 30, "seed": 123, "width": 896,
                              "height": 1152,
                              "sampler": "dpmpp_2m_sde", "schedule": "karras", "model": "any",
                              "loras": [{"name": "ink", "weight": 0.5}]}  # fmt: skip
    assert found.notes == ("Not taken over: styles, sharpness.",)


def test_swarmui_and_not_a_prompt_full_of_json():
    text = json.dumps(GOLDEN["swarmui"])
    for content in (png(parameters=text), jpeg(b"UNICODE\0" + text.encode("utf-16-le"))):
        found = recall(content)
        assert found.origin == "swarmui"
        assert found.settings == {"prompt": "a fox", "negative": "bad", "seed": 5, "steps": 20, "guidance": 7.0, "width": 1024,
                                  "height": 1024, "sampler": "euler_ancestral", "model": "any",
                                  "loras": [{"name": "ink", "weight": 0.8}]}  # fmt: skip
        assert found.notes == ("Not taken over: schedule normal.",)


def test_what_is_out_of_range_is_told_and_not_taken():
    found = recall(png(parameters="x\nSteps: 5000, Sampler: UniPC, CFG scale: 7, Seed: 1, Size: 1001x512"))
    assert found.settings == {"prompt": "x", "negative": "", "guidance": 7.0, "seed": 1, "height": 512}
    assert len(found.notes) == 3
    assert "1001 is not a multiple of 8; nearest are 1000 and 1008" in " ".join(found.notes)
    assert "5000 is out of range" in " ".join(found.notes)
    assert "Sampler" in found.notes[-1]


@pytest.mark.parametrize("content", [png(), png(Comment="holiday"), jpeg(b"ASCII\0\0\0a nice day")])
def test_a_picture_without_settings_is_no_error(content):
    found = recall(content)
    assert (found.origin, found.settings, found.notes) == (None, {}, ())


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", png()[:20], b"<svg/>"])
def test_what_is_no_picture_is_one_sentence(content):
    with pytest.raises(UserError, match="^file: it .*; give "):
        recall(content, field="file")


def sound(found: Recalled) -> None:
    json.dumps([found.text, found.settings, found.notes], allow_nan=False).encode()
    json.dumps([found.text, found.settings, found.notes], ensure_ascii=False).encode("utf-8")
    assert set(found.settings) <= TAKEN | {"model", "loras"}
    assert all(len(note) < 1000 for note in found.notes)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.sampled_from([["1", 0], "\ud800", 1e999]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@few
@given(st.sampled_from([CASCADE, FOOOCUS]), st.data())
def test_no_stranger_breaks_the_reader(base, data):
    """Any value in any place: at most less is taken."""
    changed = json.loads(json.dumps(base))
    for key in data.draw(st.lists(st.sampled_from(sorted(changed)), max_size=4)):
        inner = changed[key].get("inputs") if isinstance(changed[key], dict) else None
        target = inner if isinstance(inner, dict) and inner and data.draw(st.booleans()) else changed
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES)
    chunk = "prompt" if base is CASCADE else "parameters"
    sound(recall(png(**{chunk: json.dumps(changed)})))


KEYS = ["positive_prompt", "image", "sui_image_params", "nodes", "full_prompt", "loras", "seed"]
CHUNKS = ["invokeai_metadata", "sd__metadata", "parameters", "prompt", "workflow", "sotediffusion"]


@few
@given(VALUES, st.sampled_from(CHUNKS), st.sampled_from(KEYS))
def test_no_odd_json_breaks_it(value, chunk, key):
    sound(recall(png(**{chunk: json.dumps({key: value, "prompt": value, "loras": value, "model": value})})))


@few
@given(st.text(alphabet="Steps:, Negative prompt<lora>0123456789\nSize x\"\\", max_size=120))
def test_no_text_breaks_it(text):
    sound(recall(png(parameters=text)))
