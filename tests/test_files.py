"""Picture files: whole or not there, named safely, and every setting comes out as it went in."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sotediffusion.pictures.files import (
    check_folder,
    check_template,
    choose_format,
    encode_picture,
    picture_path,
    read_settings,
    safe_name,
    save_by_template,
    save_picture,
    write_whole,
)
from sotediffusion.safety.provenance import DIGITAL_SOURCE_TYPE, stamp
from sotediffusion.types import Picture, UserError

FORMATS = {"png": "png", "webp": "webp", "jpeg": "jpg"}
SETTINGS = stamp(
    {"prompt": "1girl, <b>猫耳</b> & \"smile\"\nBREAK night", "negative": "worst quality", "steps": 30, "guidance": 7.0,
     "seed": 3, "width": 8, "height": 8, "sampler": "ddpm", "init": None},
    "miniature", "apache-2.0", {"stage_c": "ab" * 32},
)  # fmt: skip


def picture(**settings):
    pixels = np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), 3, SETTINGS | settings)


@pytest.mark.parametrize("format", FORMATS)
def test_every_setting_comes_out_as_it_went_in(format, tmp_path):
    path = tmp_path / f"a.{FORMATS[format]}"
    save_picture(picture(), path, format)
    assert read_settings(path) == SETTINGS


def test_a_png_keeps_every_pixel_and_has_the_chunks_that_others_read(tmp_path):
    save_picture(picture(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture().image))
        assert image.info["parameters"].startswith("1girl")
        assert json.loads(image.info["sotediffusion"])["hashes"] == {"stage_c": "ab" * 32}
        assert DIGITAL_SOURCE_TYPE in image.info["XML:com.adobe.xmp"]


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_webp_and_jpeg_carry_the_infotext_in_exif_and_the_source_type_in_xmp(format, tmp_path):
    path = tmp_path / "a"
    save_picture(picture(), path, format)
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        assert comment[8:].decode("utf-16-be").startswith("1girl, <b>猫耳</b>")
        assert DIGITAL_SOURCE_TYPE.encode() in image.info["xmp"]


@pytest.mark.parametrize("format", FORMATS)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_prompt_survives_the_file(format, text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"any.{format}"
    save_picture(picture(prompt=text), path, format)
    assert read_settings(path)["prompt"] == text


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_jpeg_of_the_web_ui_is_read_in_either_byte_order(order, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cat\nSteps: 20, Seed: 5, CFG scale: 7".encode(order)
    picture().image.save(tmp_path / "a.jpg", exif=exif)
    found = read_settings(tmp_path / "a.jpg")
    assert (found["prompt"], found["steps"], found["seed"], found["guidance"]) == ("a cat", 20, 5, 7.0)


def test_a_picture_without_settings_and_a_file_that_is_none_are_one_sentence(tmp_path):
    picture().image.save(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("hello")
    for name, words in (("bare.png", "carries no settings"), ("text.png", "is no readable PNG"), ("none.png", "does not exist")):
        with pytest.raises(UserError, match=words):
            read_settings(tmp_path / name)


@pytest.mark.parametrize("chunk", ["[1, 2]", "{", "[" * 100_000, "null"])
def test_a_json_chunk_that_is_no_object_is_passed_over(chunk, tmp_path):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("sotediffusion", chunk)
    info.add_text("parameters", "a cat\nSteps: 20, Seed: 5, CFG scale: 7")
    picture().image.save(tmp_path / "a.png", pnginfo=info)
    assert read_settings(tmp_path / "a.png")["steps"] == 20


def test_settings_too_long_for_a_jpeg_are_refused_and_fit_a_png():
    long = picture(prompt="\N{CAT FACE}" * 20_000)
    assert encode_picture(long, "png")
    with pytest.raises(UserError, match="choose png"):
        encode_picture(long, "jpeg")


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_picture(picture(), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device.*free space"):
        save_picture(picture(prompt="other"), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_an_interrupted_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        save_picture(picture(), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out: .*cannot be written"):
        save_picture(picture(), tmp_path / "file" / "a.png")
    with pytest.raises(UserError, match="out: .*not a folder that can be written"):
        check_template(f"{tmp_path}/file/{{seed}}.png")


@pytest.mark.parametrize("template", [
    "x" * 300, "{seed}" + "x" * 240, "{prompt}" + "猫" * 60, "x" * 300 + "/a", "{date}/" + "x" * 300,
])  # fmt: skip
def test_a_name_that_would_come_out_too_long_is_refused_beforehand(template, tmp_path):
    with pytest.raises(UserError, match="out: a name in it may come to [23][0-9]{2} bytes, and .* takes 255; choose a sh"):
        check_template(f"{tmp_path}/{template}.png")


@pytest.mark.parametrize("letter", ["x", "猫", "\N{CAT FACE}"])
def test_every_name_that_is_not_refused_can_be_written(letter, tmp_path):
    path = tmp_path / f"{letter * (244 // len(letter.encode()))}.png"
    check_folder(path)
    for number in range(2):
        save_picture(picture(), picture_path(str(path), values(), {path} if number else set()))
    assert len(os.listdir(tmp_path)) == 2


def values(prompt="x", seed=7):
    return {"seed": seed, "index": 3, "date": date(2026, 1, 2).isoformat(), "prompt": prompt}


def test_a_template_is_filled_in(tmp_path):
    path = picture_path(f"{tmp_path}/{{date}}/{{index:03}}-{{seed}}-{{prompt}}.png", values("1girl, 猫 ears!"))
    assert path == tmp_path / "2026-01-02" / "003-7-1girl-猫-ears.png"


def test_a_name_that_is_taken_is_numbered_on(tmp_path):
    template = f"{tmp_path}/{{seed}}.png"
    (tmp_path / "7.png").touch()
    assert picture_path(template, values()).name == "7-2.png"
    assert picture_path(template, values(), {tmp_path / "7-2.png"}).name == "7-3.png"


def test_a_fixed_name_is_replaced_but_not_twice_in_one_run_nor_a_file_that_nobody_named(tmp_path):
    fixed = tmp_path / "a.png"
    fixed.touch()
    assert picture_path(str(fixed), values()) == fixed
    assert picture_path(str(fixed), values(), {fixed}) == tmp_path / "a-2.png"
    (tmp_path / "a-2.png").touch()
    assert picture_path(str(fixed), values(), {fixed}) == tmp_path / "a-3.png"


def test_many_who_write_by_one_template_lose_no_picture(tmp_path):
    """As many runs in one folder would: threads share nothing here but the disk."""
    template, ready = f"{tmp_path}/{{index}}.png", threading.Barrier(8)

    def run(seed):
        ready.wait()
        return [save_by_template(picture(), template, values(seed=seed)) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        paths = [path for found in pool.map(run, range(8)) for path in found]
    assert len(set(paths)) == 40 and {tmp_path / name for name in os.listdir(tmp_path)} == set(paths)


def test_a_file_in_the_place_of_the_templates_folder_is_one_sentence(tmp_path):
    (tmp_path / "cat").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_by_template(picture(), f"{tmp_path}/{{prompt}}/{{seed}}.png", values("cat"))


def test_on_a_file_system_without_links_a_name_that_is_there_is_not_taken_either(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a.png", b"other", over=False)
    write_whole(tmp_path / "b.png", b"other", over=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"mine", "b.png": b"other"}


@pytest.mark.parametrize("template", ["", ".", "..", "p/", "a/b/", ".png", "p/.WEBP"])
def test_what_names_no_file_is_refused_before_a_suffix_is_put_to_it(template):
    with pytest.raises(UserError, match="names no file"):
        choose_format(template, "webp")


def test_a_folder_is_no_name_of_a_picture(tmp_path):
    (tmp_path / "a.png").mkdir()
    for template, format in ((str(tmp_path), None), (f"{tmp_path}/a.png", None)):
        with pytest.raises(UserError, match="is a folder; write for example"):
            choose_format(template, format)


@given(st.text(max_size=300))
def test_no_prompt_leaves_its_place_in_the_template(prompt):
    name = safe_name(prompt)
    assert 0 < len(name.encode()) <= 82
    assert not set(name) & set('/\\:*?"<>|.\0\n')
    assert picture_path("pictures/{prompt}.png", values(prompt)).parent.name == "pictures"


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "...", ""])
def test_names_that_a_system_keeps_for_itself_are_changed(name):
    assert safe_name(name).startswith("_")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{sead}.png", r"nearest first, \{seed\}"),
        ("{prompt.__class__}.png", "is not known"),
        ("{0}.png", "is not known"),
        ("{seed", "is not a template"),
        ("{seed:zz}.png", "is not a template"),
        ("{seed:c}.png", "is not a template"),
        ("{seed:/>3}.png", "is not a template"),
        ("{seed:1000000000}.png", "is not a template"),
        ("{seed!r}.png", "is not a template .of {seed} only"),
        ("{prompt:.3}.png", "is not a template .of {prompt} only a number"),
        ("{date:%Y}.png", "is not a template"),
        ("pictures/", "names no file"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template, words):
    with pytest.raises(UserError, match=words):
        check_template(template)


@pytest.mark.parametrize(
    ("template", "format", "wanted"),
    [
        ("a", None, ("a.png", "png")),
        ("a.webp", None, ("a.webp", "webp")),
        ("a.JPG", None, ("a.JPG", "jpeg")),
        ("a.b", "jpeg", ("a.b.jpg", "jpeg")),
        ("a.jpeg", "jpeg", ("a.jpeg", "jpeg")),
    ],
)
def test_the_format_goes_by_the_option_then_the_suffix(template, format, wanted):
    assert choose_format(template, format) == wanted


def test_a_format_that_is_unknown_or_against_the_suffix_is_refused():
    with pytest.raises(UserError, match="nearest first, png"):
        choose_format("a.png", "pgn")
    with pytest.raises(UserError, match=r"does not go with the suffix \.png"):
        choose_format("a.png", "webp")
    with pytest.raises(UserError, match="is not known"):
        save_picture(picture(), "a.gif", "gif")
