"""Pictures from strangers: the right way up in RGB, or one sentence; never a bomb."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sotediffusion.pictures.decode import open_picture
from sotediffusion.types import UserError


def encoded(image, format="PNG", **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colours(size=(6, 4)):
    return Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3))


def bomb(width, height):
    """A PNG of a few hundred bytes whose header promises width x height one-bit pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_a_png_is_opened_from_bytes_and_from_a_path(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(colours()))
    for source in (encoded(colours()), tmp_path / "a.png", str(tmp_path / "a.png")):
        image = open_picture(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(colours()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_the_other_formats_are_opened_by_content_not_by_name(format, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(colours(), format))
    assert open_picture(tmp_path / "a.png").size == (6, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = open_picture(encoded(colours(), "PNG", exif=exif))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL's Transpose numbers
    wanted = colours().transpose(Image.Transpose(undo[orientation])) if orientation > 1 else colours()
    assert np.array_equal(np.asarray(turned), np.asarray(wanted))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_what_is_transparent_is_white(mode):
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    image = clear.convert(mode) if mode != "P" else clear.quantize(2)
    data = encoded(image) if mode != "PA" else encoded(clear.convert("LA"))
    assert open_picture(data).getpixel((1, 1)) == (255, 255, 255)


def test_a_half_transparent_red_is_pink():
    assert open_picture(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))).getpixel((0, 0)) == (255, 127, 127)


def test_sixteen_bit_grey_keeps_its_greys():
    grey = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    assert [open_picture(encoded(grey)).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("size", [(13000, 13000), (40000, 40000), (100000, 400)])
def test_a_bomb_is_refused_from_its_header(size):
    with pytest.raises(UserError, match="million pixels"):
        open_picture(bomb(*size))


def test_a_picture_just_over_the_limit_is_refused_with_its_size():
    with pytest.raises(UserError, match="init: .*is 6x4; at most 2e-05 million pixels"):
        open_picture(encoded(colours()), max_pixels=20, field="init")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(format, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    with pytest.raises(UserError):
        open_picture(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", encoded(colours(), "GIF"), encoded(colours(), "BMP"),
                                  encoded(colours(), "TIFF")])  # fmt: skip
def test_anything_but_the_three_formats_is_refused(data):
    with pytest.raises(UserError, match="not a PNG, JPEG or WebP"):
        open_picture(data)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be read"):
        open_picture(tmp_path)


@given(st.binary(max_size=40), st.integers(0, 200))
def test_damage_anywhere_gives_a_picture_or_a_sentence(junk, place):
    for format in ("PNG", "JPEG", "WEBP"):
        data = encoded(colours((16, 16)), format)
        try:
            assert open_picture(data[:place] + junk + data[place + len(junk) :]).mode == "RGB"
        except UserError as error:
            assert "\n" not in error.message
