"""The first look at every file: measured, told apart, quarantined by name; whatever the bytes, a row comes out."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sotediffusion.curate.dedupe.phash import distance
from sotediffusion.curate.policy import PolicyStep
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.curate.scan.step import SCANNED, ScanSettings, ScanStep, measures
from sotediffusion.types import UserError


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def scan(folder, settings=ScanSettings(), give_up=None):
    source = open_source(str(folder))
    step = ScanStep(source, settings)
    step.setup()
    rows = pa.Table.from_batches(source.listing()).combine_chunks().to_batches()[0]
    found = step.process(rows) if give_up is None else step.give_up(rows, give_up)
    assert found.schema == SCANNED
    return dict(zip(rows.column("path").to_pylist(), found.to_pylist(), strict=True))


def picture(seed=0, size=(300, 200)):
    """Flat shapes with hard edges, as drawn art has them."""
    random = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(40):
        (left, right), (top, bottom) = (np.sort(random.integers(0, side, 2)) for side in size)
        pixels[top:bottom, left:right] = random.integers(0, 255, 3)
    return Image.fromarray(pixels)


def moving(format):
    return encoded(picture(0), format, save_all=True, append_images=[picture(1), picture(2)], duration=50)


def zipped(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


QUARANTINED = {
    "empty.jpg": (b"", "truncated: the file is empty"),
    "cut.png": (encoded(picture())[:-20], "truncated: the end of the png file is missing"),
    "cut.jpg": (encoded(picture(), "JPEG")[:1500], "truncated: the end of the jpeg file is missing"),
    "broken.png": (encoded(picture()).replace(b"IDAT", b"IDAX"), "unreadable"),
    "page.jpg": (b"<!DOCTYPE html><title>404</title>", "unreadable: a web page or text, no picture"),
    "tiff.jpg": (encoded(picture(), "TIFF"), "unreadable: TIFF is not taken"),
    "big.png": (encoded(Image.new("1", (9000, 9000))), "bomb: 9000x9000, at most 80 million pixels are opened"),
    "gif.png": (moving("GIF"), "animation: 3 frames of gif"),
    "webp.jpg": (moving("WEBP"), "animation: 3 frames of webp"),
    "apng.png": (moving("PNG"), "animation: 3 frames of png"),
    "film.jpg": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0" * 100, "video"),
    "film.webm": (b"\x1aE\xdf\xa3" + b"\0" * 100, "video"),
    "moving.zip": (zipped(["000000.jpg", "000001.jpg", "animation.json"]), "ugoira"),
    "comic.zip": (zipped(["a.pdf", "b.jpg"]), "unreadable: a zip archive, no picture"),
}


def test_what_gives_no_picture_is_quarantined_by_name_with_its_hash(tmp_path):
    fill(tmp_path, {name: content for name, (content, _) in QUARANTINED.items()} | {"good.png": encoded(picture())})
    found = scan(tmp_path)
    for name, (content, reason) in QUARANTINED.items():
        assert found[name]["drop_scan"].startswith(reason), name
        assert found[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert found[name]["phash"] is None
    assert found["good.png"]["drop_scan"] is None


def test_with_first_frame_animations_stay(tmp_path):
    fill(tmp_path, {name: QUARANTINED[name][0] for name in ("gif.png", "webp.jpg", "apng.png", "film.jpg", "moving.zip")})
    found = scan(tmp_path, ScanSettings(first_frame=True))
    assert {name: row["drop_scan"] for name, row in found.items()} == {
        "gif.png": None, "webp.jpg": None, "apng.png": None, "film.jpg": "video", "moving.zip": "ugoira"}  # fmt: skip
    assert {row["frames"] for row in found.values()} == {3, None}
    assert distance(found["webp.jpg"]["phash"], found["apng.png"]["phash"]) <= 6


def test_a_file_too_large_to_open_is_never_read(tmp_path):
    (tmp_path / "huge.png").touch()
    with open(tmp_path / "huge.png", "r+b") as file:
        file.truncate(2**21)
    assert scan(tmp_path, ScanSettings(max_megabytes=1))["huge.png"]["drop_scan"] == "bomb: the file is larger than 1 MiB"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "BMP"])
def test_facts_are_of_the_upright_picture(format, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if format == "BMP" else {"exif": exif}
    fill(tmp_path, {"a": encoded(picture(), format, **options)})
    row = scan(tmp_path)["a"]
    assert (row["width"], row["height"]) == ((300, 200) if format == "BMP" else (200, 300))
    assert (row["format"], row["mode"], row["frames"], row["drop_scan"]) == (format.lower(), "RGB", 1, None)


def test_copies_in_other_formats_sizes_and_orientations_hash_alike(tmp_path):
    large = picture(3, (900, 600))
    exif = Image.Exif()
    exif[0x0112] = 3
    fill(tmp_path, {
        "a.png": encoded(large), "b.jpg": encoded(large, "JPEG", quality=70), "c.webp": encoded(large.resize((660, 440)),
                                                                                                "WEBP", quality=80),
        "d.jpg": encoded(large.rotate(180), "JPEG", quality=90, exif=exif), "e.avif": encoded(large.resize((500, 333)), "AVIF"),
        "other.png": encoded(picture(4, (900, 600))),
    })  # fmt: skip
    found = scan(tmp_path)
    first = found.pop("a.png")["phash"]
    assert distance(first, found.pop("other.png")["phash"]) > 60
    assert {name: d for name, row in found.items() if (d := distance(first, row["phash"])) > 6} == {}


@pytest.mark.parametrize("size", [(1, 1), (1, 70000), (70000, 1), (3, 2), (64, 64), (513, 256)])
def test_the_oddest_shapes_are_measured(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    found = measures(pixels)
    assert len(found["phash"]) == 32 and 0 <= found["luma_mean"] <= 255
    small = np.asarray(pixels, np.float64) @ (0.299, 0.587, 0.114)
    assert abs(found["luma_mean"] - small.mean()) < (12 if min(size) < 64 else 1.5)


def test_light_colour_blank_and_monochrome(tmp_path):
    sketch = np.asarray(picture(5).convert("L").convert("RGB"))
    spot = sketch.copy()
    spot[50:90, 50:90] = (255, 0, 0)
    text = np.full((200, 300, 3), 255, np.uint8)
    text[90:110, 100:200] = 0
    fill(tmp_path, {
        "colour.png": encoded(picture(5)), "sketch.jpg": encoded(Image.fromarray(sketch), "JPEG"),
        "spot.png": encoded(Image.fromarray(spot)),
        "white.png": encoded(Image.new("RGB", (300, 200), "white")), "red.jpg": encoded(Image.new("RGB", (300, 200), "red"),
                                                                                        "JPEG"),
        "text.png": encoded(Image.fromarray(text)), "clear.png": encoded(Image.new("RGBA", (300, 200), (9, 9, 9, 0))),
    })  # fmt: skip
    found = scan(tmp_path)
    assert {name: (row["blank"], row["monochrome"]) for name, row in found.items()} == {
        "colour.png": (False, False), "sketch.jpg": (False, True), "spot.png": (False, False), "white.png": (True, True),
        "red.jpg": (True, False), "text.png": (False, True), "clear.png": (True, True)}  # fmt: skip
    assert found["white.png"]["luma_mean"] == found["clear.png"]["luma_mean"] == 255
    assert found["colour.png"]["luma_std"] > 10 < found["colour.png"]["chroma"]


def test_sidecars_and_the_users_table_become_columns(tmp_path):
    fill(
        tmp_path / "pile",
        {"a.png": encoded(picture()), "a.txt": b"1girl, solo", "a.png.json": b'{"rating": "general", "tags_artist": ["x"]}'},
    )
    fill(tmp_path, {"t.csv": b"path,score\na.png,7\n"})
    row = scan(tmp_path / "pile", ScanSettings(sidecar_table=tmp_path / "t.csv"))["a.png"]
    assert (row["side_tags"], row["side_rating"], row["side_artist"], row["side_score"]) == (["1girl", "solo"], "g", ["x"], 7)


def test_the_identity_follows_the_tables_content_and_not_its_place(tmp_path):
    fill(tmp_path, {"t.csv": b"path,score\na.png,7\n", "u.csv": b"path,score\na.png,7\n", "v.csv": b"path,score\na.png,8\n"})
    source = open_source(str(tmp_path))
    one, same, other = (ScanStep(source, ScanSettings(sidecar_table=tmp_path / f"{name}.csv")).identity() for name in "tuv")
    assert one == same != other
    json.dumps(one)
    with pytest.raises(UserError, match="scan.sidecar_table"):
        ScanStep(source, ScanSettings(sidecar_table=tmp_path / "none.csv")).identity()


REFUSED = {"loli.png": None, "a.png": b"1girl, loli", "b.png": b"child, nude", "cut.png": b"child, rating:explicit"}


def test_a_picture_the_policy_refuses_leaves_its_hash_and_nothing_else(tmp_path):
    fill(tmp_path, {name: encoded(picture(at))[: 90 if name == "cut.png" else None] for at, name in enumerate(REFUSED)})
    fill(tmp_path, {name.replace("png", "txt"): text for name, text in REFUSED.items() if text})
    fill(tmp_path, {"child.png": encoded(picture(9)), "child.txt": b"child, smile, general"})
    found = scan(tmp_path)
    assert found.pop("child.png")["drop_scan"] is None
    for row in found.values():
        assert {name for name, value in row.items() if value is not None} == {"sha256", "drop_scan"}
        assert row["drop_scan"] == "policy"
    rows = [{"path": path, **row} for path, row in scan(tmp_path).items()]
    names = PolicyStep().reads
    batch = pa.RecordBatch.from_pylist([{n: row[n] for n in names} for row in rows],
                                       schema=pa.schema([("path", pa.string()),
                                                         *(SCANNED.field(n) for n in names[1:])]))  # fmt: skip
    assert PolicyStep().process(batch).column(0).to_pylist() == [None if row["path"] == "child.png" else "policy" for row in rows]


def test_what_killed_its_decoder_keeps_hash_and_sidecars(tmp_path):
    fill(tmp_path, {"a.png": encoded(picture()), "a.txt": b"1girl", "b.png": encoded(picture()), "b.txt": b"loli"})
    found = scan(tmp_path, give_up="kills the decoder")
    assert (found["a.png"]["drop_scan"], found["a.png"]["side_tags"], found["a.png"]["width"]) == (
        "kills the decoder",
        ["1girl"],
        None,
    )
    assert (found["b.png"]["drop_scan"], found["b.png"]["side_tags"]) == ("policy", None)


def test_the_source_is_left_as_it_was(tmp_path):
    fill(
        tmp_path, {name: content for name, (content, _) in QUARANTINED.items()} | {"a.png": encoded(picture()), "a.txt": b"loli"}
    )
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}
    scan(tmp_path)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")} == before


@given(st.binary(max_size=300), st.sampled_from(list(QUARANTINED)), st.integers(0, 2000), st.binary(max_size=60))
def test_whatever_the_bytes_a_row_comes_out(tmp_path_factory, junk, like, place, note):
    folder = tmp_path_factory.mktemp("any")
    whole = QUARANTINED[like][0] if like != "big.png" else encoded(picture())
    fill(folder, {"a.png": whole[:place] + junk + whole[place + len(junk) :], "b": junk, "a.txt": note, "a.json": note})
    for row in scan(folder).values():
        assert row["sha256"] and (row["phash"] is None) == (row["drop_scan"] is not None)
