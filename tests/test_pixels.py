"""Fast decoding says what Pillow says: every format, mode and orientation, in sRGB on white, or one reason."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from sotediffusion.pictures.decode import open_picture
from sotediffusion.pictures.headers import FORMATS, Limits, Undecodable, read_header, sniff
from sotediffusion.pictures.pixels import decode, decode_as, on_white


def encoded(image, format="PNG", **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colours(size=(60, 40), alpha=False):
    """Smooth, so that lossy formats stay close; every corner another colour."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    planes = [200 * x + 20, 180 * y + 30, 120 * (1 - x) * y + 60] + ([255 * x] if alpha else [])
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8), "RGBA" if alpha else "RGB")


def close(one, other, most):
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).mean() <= most


FILES = {
    "jpeg": lambda image, **o: encoded(image, "JPEG", quality=95, subsampling=0, **o),
    "png": lambda image, **o: encoded(image, "PNG", **o),
    "webp": lambda image, **o: encoded(image, "WEBP", quality=95, **o),
    "avif": lambda image, **o: encoded(image, "AVIF", quality=95, **o),
    "jxl": lambda image: imagecodecs.jpegxl_encode(np.asarray(image), lossless=True),
    "bmp": lambda image, **o: encoded(image, "BMP", **o),
    "gif": lambda image, **o: encoded(image, "GIF", **o),
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_opened_by_its_content(format):
    data = FILES[format](colours())
    assert sniff(data) == format
    header = read_header(data)
    assert (header.format, header.width, header.height, header.frames) == (format, 60, 40, 1)
    assert close(decode(data), np.asarray(colours()), 0 if format in ("png", "bmp", "jxl") else 4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(colours(), format, exif=exif, quality=95)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    assert read_header(data).upright == wanted.shape[1::-1]
    assert close(decode(data), wanted, 2)


def test_the_exif_of_a_png_may_stand_behind_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(colours(), exif=exif)
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    moved = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    assert read_header(moved).upright == (40, 60)
    assert np.array_equal(decode(moved), decode(data))


@pytest.mark.parametrize("least", [0, 64])
def test_jpeg_is_what_libjpeg_gives_also_when_scaled(least):
    data = FILES["jpeg"](colours((640, 400)))
    pixels = decode_as(data, read_header(data), least)
    assert pixels.shape == ((400, 640, 3) if least == 0 else (100, 160, 3))
    wanted = np.asarray(colours((640, 400)).resize(pixels.shape[1::-1], Image.Resampling.BOX))
    assert close(pixels, wanted, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_what_pillow_says(mode):
    image = colours(alpha=True)
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert close(decode(encoded(image)), np.asarray(open_picture(encoded(image))), 0.5)


def test_a_palette_with_transparent_colours_lies_on_white():
    palette = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).quantize(4)
    data = encoded(palette)
    assert read_header(data).transparent
    assert (decode(data) == 255).all()


def test_a_colour_key_in_an_rgb_png_lies_on_white():
    data = encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert (decode(data) == 255).all()


@pytest.mark.parametrize("format", ["png", "webp", "avif", "jxl"])
def test_a_half_transparent_red_is_pink(format):
    red = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
    data = FILES[format](red) if format in ("png", "jxl") else encoded(red, format.upper(), lossless=True, quality=100)
    assert close(decode(data), np.full((16, 16, 3), (255, 127, 127), np.uint8), 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_keep_their_greys(channels):
    pixels = np.zeros((2, 3, channels), np.uint16)
    pixels[:, :, :] = np.array([0, 257 * 128, 65535])[None, :, None]
    if channels in (2, 4):
        pixels[:, :, -1] = 65535
    for data in (imagecodecs.png_encode(pixels.squeeze()), imagecodecs.jpegxl_encode(pixels.squeeze(), lossless=True)):
        assert np.abs(decode(data)[0, :, 0].astype(int) - [0, 128, 255]).max() <= 1


def test_ten_bit_avif_is_eight_bit_rgb():
    pixels = (np.asarray(colours()).astype(np.uint32) * 1023 // 255).astype(np.uint16)
    data = imagecodecs.avif_encode(pixels, level=95, bitspersample=10)
    assert close(decode(data), np.asarray(colours()), 4)


def test_cmyk_jpegs_are_not_inverted():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert read_header(data).mode == "CMYK"
    assert close(decode(data), np.full((16, 16, 3), (255, 0, 0), np.uint8), 3)


def test_a_profile_of_other_colours_is_turned_into_srgb():
    """Swapped primaries make the effect plain: a profile whose first channel is blue shows red pixels blue."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    swapped = swapped_profile()
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    for format in ("PNG", "WEBP"):
        pixel = decode(encoded(red, format, icc_profile=swapped, lossless=True))[0, 0]
        assert pixel[2] > 200 > 60 > pixel[0]
        assert close(decode(encoded(red, format, icc_profile=lab, lossless=True)), np.asarray(red), 1)  # not for RGB: left alone
        assert close(decode(encoded(red, format, icc_profile=b"junk", lossless=True)), np.asarray(red), 1)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert close(decode(encoded(red, "PNG", icc_profile=srgb)), np.asarray(red), 0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_packed_as_jpeg_xl_is_seen_as_the_jpeg_was_profile_and_turn_and_all(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = encoded(colours((61, 40)), "JPEG", quality=95, icc_profile=swapped_profile(), exif=exif)
    packed = imagecodecs.jpegxl_encode_jpeg(plain)
    assert read_header(packed).upright == read_header(plain).upright and packed != plain
    assert close(decode(packed), decode(plain), 0)
    assert decode_as(packed, read_header(packed), 16).shape == decode_as(plain, read_header(plain), 16).shape


def swapped_profile():
    """LittleCMS's sRGB with the tags rXYZ and bXYZ renamed into each other, under another description."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")


def bomb(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13000, 13000), (40000, 40000), (100000, 1000)])
def test_a_bomb_is_refused_from_its_header(size):
    with pytest.raises(Undecodable, match="^bomb: "):
        decode(bomb(*size))


def test_a_jxl_bomb_is_refused_from_its_header():
    data = bytearray(imagecodecs.jpegxl_encode(np.zeros((300, 700, 3), np.uint8), lossless=True))
    assert read_header(bytes(data)).upright == (700, 300)
    with pytest.raises(Undecodable, match="bomb: 700x300"):
        decode(bytes(data), Limits(max_pixels=1000))


def test_a_file_over_the_byte_limit_is_not_opened():
    with pytest.raises(Undecodable, match="bomb: .* MiB"):
        decode(FILES["png"](colours()), Limits(max_bytes=100))


@pytest.mark.parametrize("size", [(8, 8), (256, 256), (255, 256), (700, 300), (300, 700), (1500, 2000), (16, 9), (1024, 768)])
def test_jxl_sizes_are_read_without_decoding(size):
    for lossless in (True, False):
        data = imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8), lossless=lossless, effort=1)
        assert read_header(data).upright == size


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_called_truncated(format, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    data = FILES[format](noise)
    with pytest.raises(Undecodable, match="^truncated: "):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "truncated: the file is empty"), (b"hello", "unreadable: no known"), (b"<!DOCTYPE html><html>",
                                                                                "unreadable: a web page"),
    (b'{"error": 404}', "unreadable: a web page"), (b"<svg></svg>", "unreadable: SVG"), (b"PK\x03\x04" + b"\0" * 40,
                                                                                         "unreadable: a zip"),
    (encoded(colours(), "TIFF"), "unreadable: TIFF"), (b"8BPS" + b"\0" * 40, "unreadable: PSD"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unreadable: HEIF"), (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "unreadable: a video"),
])  # fmt: skip
def test_what_is_no_picture_says_what_it_is(data, reason):
    with pytest.raises(Undecodable, match=f"^{reason}"):
        decode(data)


def test_a_jpeg_with_bytes_too_many_between_its_parts_is_whole():
    data = FILES["jpeg"](colours())
    at = data.index(b"\xff\xdb")
    assert close(decode(data[:at] + b"\0\x12\x34" + data[at:]), decode(data), 1)


def test_junk_behind_a_picture_does_no_harm():
    for format in ("jpeg", "png", "webp", "bmp", "gif"):
        assert decode(FILES[format](colours()) + b"junk" * 100).shape == (40, 60, 3)


def test_of_a_moving_picture_the_first_frame_is_decoded():
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "green", "blue")]
    for format in ("GIF", "WEBP", "PNG", "AVIF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
        assert read_header(data).frames == 3
        assert close(decode(data), np.full((16, 24, 3), (255, 0, 0), np.uint8), 3)
    moving = imagecodecs.jpegxl_encode(np.stack([np.asarray(frame) for frame in frames]), lossless=True)
    assert read_header(moving).frames > 1
    assert close(decode(moving), np.full((16, 24, 3), (255, 0, 0), np.uint8), 3)


@given(st.sampled_from(FORMATS), st.integers(0, 600), st.binary(max_size=24), st.booleans())
def test_damage_anywhere_gives_a_picture_or_a_reason(format, place, junk, cut):
    data = _WHOLE[format]
    data = data[:place] + junk + (b"" if cut else data[place + len(junk) :])
    try:
        pixels = decode(data, Limits(max_pixels=10_000_000))
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.flags.c_contiguous
    except Undecodable as error:
        assert str(error).partition(":")[0] in ("truncated", "unreadable", "bomb")
        assert "\n" not in str(error)


_WHOLE = {format: FILES[format](colours((16, 16))) for format in FORMATS}


@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\x0a", b"GIF89a", b"BM",
                                                 b"RIFF\0\0\0\0WEBP",
                                                 b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x18ftypavif"]))  # fmt: skip
def test_any_bytes_give_a_picture_or_a_reason(data, start):
    try:
        decode(start + data, Limits(max_pixels=1_000_000))
    except Undecodable:
        pass


@given(st.integers(0, 255), st.integers(0, 255))
def test_alpha_is_mixed_to_the_nearest_grey(grey, alpha):
    mixed = on_white(np.array([[[grey, alpha]]], np.uint8))
    assert abs(int(mixed[0, 0, 0]) - (grey * alpha + 255 * (255 - alpha)) / 255) <= 0.5
