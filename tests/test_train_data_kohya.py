"""Claims about kohya's data sets: folders, dataset.toml and metadata JSON are read as kohya's trainer reads them, or refused."""

import json

import numpy as np
import pytest
from PIL import Image
from training_pictures import catalogue_of, paint
from training_run import PRESETS

from sotediffusion.buckets import BucketSettings
from sotediffusion.curate.scan.sources import PictureSource
from sotediffusion.train.opening import DataSettings, read_data
from sotediffusion.train.readers.kohya import evened
from sotediffusion.train.settings import resolve
from sotediffusion.types import UserError

SETTINGS = DataSettings(buckets=BucketSettings(128, scale=1.0, shortest=64, longest=256))
KOHYA = DataSettings(buckets=BucketSettings(128, "kohya", scale=1.0, shortest=64, longest=256))


def captioned(path, number, text, size=None):
    paint(path, number, size)
    path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def read(place, tmp_path, settings=SETTINGS):
    return read_data(str(place), settings, str(tmp_path / "memory"))


def rows_of(samples):
    return {samples.path(row): (samples.text(row), int(samples.column("repeats")[row])) for row in range(len(samples))}


def test_a_folder_of_pictures_and_captions_is_one_subset_and_not_searched_below(tmp_path):
    captioned(tmp_path / "set" / "a.png", 0, " 1girl, solo \nsecond line\n")
    captioned(tmp_path / "set" / "b.JPG", 1, "\ufeff1boy")
    captioned(tmp_path / "set" / "below" / "c.png", 2, "hidden")
    paint(tmp_path / "set" / "d.png", 3)
    (tmp_path / "set" / "d.caption").write_text("a sentence")
    data = read(tmp_path / "set", tmp_path)
    assert rows_of(data.samples) == {"a.png": ("1girl, solo", 1), "b.JPG": ("1boy", 1), "d.png": ("a sentence", 1)}
    assert data.samples.column("width").tolist() == [128, 96, 128] and (data.fits[:, 0] > 0).all()


@pytest.mark.parametrize("inside", [".", "img"])
def test_numbered_folders_say_how_often_they_are_seen_and_give_words_to_pictures_without(tmp_path, inside):
    captioned(tmp_path / "set" / inside / "10_sks girl" / "a.png", 0, "1girl")
    paint(tmp_path / "set" / inside / "10_sks girl" / "b.png", 1)
    captioned(tmp_path / "set" / inside / "2_other" / "c.png", 2, "solo")
    captioned(tmp_path / "set" / inside / "drafts" / "d.png", 3, "no")
    samples = read(tmp_path / "set", tmp_path).samples
    found = {path.rpartition("/")[2]: row for path, row in rows_of(samples).items()}
    assert found == {"a.png": ("1girl", 10), "b.png": ("sks girl", 10), "c.png": ("solo", 2)}
    assert samples.notes == ("drafts: passed over, as only folders called like 10_name are read",)
    assert [part.name for part in samples.parts] == ["10_sks girl", "2_other"]


def test_pictures_of_regularisation_are_seen_as_often_as_the_others_together(tmp_path):
    for number in range(3):
        captioned(tmp_path / "set" / "img" / "4_sks" / f"{number}.png", number, "sks")
    for number in range(5):
        captioned(tmp_path / "set" / "reg" / "1_girl" / f"r{number}.png", number + 10, "girl")
    settings = DataSettings(prior_loss_weight=0.5, buckets=SETTINGS.buckets)
    samples = read(tmp_path / "set", tmp_path, settings).samples
    weights, repeats = samples.column("weight"), samples.column("repeats")
    assert (
        repeats[weights == 0.5].tolist() == [3, 3, 2, 2, 2] and repeats[weights == 1].sum() == repeats[weights == 0.5].sum() == 12
    )


@pytest.mark.parametrize(
    ("repeats", "wanted"), [([1, 1, 1], 7), ([2, 2, 2, 2], 3), ([5], 12), ([3, 1, 4], 100), ([1, 1], 2), ([4], 1)]
)
def test_times_of_regularisation_are_those_of_going_round_one_by_one(repeats, wanted):
    times, seen, first = [0] * len(repeats), 0, True
    while seen < wanted:
        for place, own in enumerate(repeats):
            more = own if first else 1
            times[place] += more
            seen += more
            if seen >= wanted:
                break
        first = False
    assert evened(repeats, wanted) == times


def toml(tmp_path, text):
    (tmp_path / "dataset.toml").write_text(text)
    return tmp_path / "dataset.toml"


FULL = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"

[[datasets]]
resolution = [128, 128]
batch_size = 4
enable_bucket = true
min_bucket_reso = 64
max_bucket_reso = 192
bucket_reso_steps = 64

[[datasets.subsets]]
image_dir = "one"
num_repeats = 3

[[datasets.subsets]]
image_dir = "two"
keep_tokens = 2
caption_dropout_rate = 0.1

[[datasets]]
resolution = 64
enable_bucket = true
bucket_no_upscale = true

[[datasets.subsets]]
image_dir = "one/small"
class_tokens = "tiny"
"""


def test_a_dataset_toml_gives_subsets_with_their_own_captions_and_buckets(tmp_path):
    for folder, number, size in (("one", 0, (256, 96)), ("two", 1, (96, 256)), ("one/small", 2, (128, 64))):
        paint(tmp_path / folder / "p.png", number, size)
        if folder != "one/small":
            (tmp_path / folder / "p.txt").write_text("a, b, c")
    data = read(toml(tmp_path, FULL), tmp_path, KOHYA)
    assert rows_of(data.samples) == {"one/p.png": ("a, b, c", 3), "two/p.png": ("a, b, c", 1), "one/small/p.png": ("tiny", 1)}
    assert [dict(part.captions) for part in data.samples.parts] == [
        {"shuffle_caption": True, "keep_tokens": 1}, {"shuffle_caption": True, "keep_tokens": 2, "caption_dropout_rate": 0.1},
        {"shuffle_caption": True, "keep_tokens": 1}]  # fmt: skip
    assert data.fits[:, :2].tolist() == [[192, 64], [64, 192], [64, 32]]  # the last one only shrunk


def test_under_our_own_rule_a_dataset_toml_decides_resolution_only(tmp_path):
    paint(tmp_path / "one" / "p.png", 0, (256, 256))
    (tmp_path / "one" / "p.txt").write_text("a")
    text = '[[datasets]]\nresolution = 192\n[[datasets.subsets]]\nimage_dir = "one"\n'
    assert read(toml(tmp_path, text), tmp_path).fits[0, :2].tolist() == [192, 192]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("flip_agu = true", "flip_aug"),
        ("flip_aug = true", r"data\.fit\.flip=true"),
        ("color_aug = true", "colours"),
        ("random_crop = true", r"data\.online=true"),
        ("num_repeats = 0", "1 or more"),
        ("token_warmup_step = 0.3", "number of steps"),
        ("resolution = 'big'", "no size"),
        ("bucket_reso_steps = 48", "multiple of 32"),
        ("keep_tokens = 'two'", "keep_tokens"),
        ("conditioning_data_dir = 3", "data.conditioning_data_dir: 3 is no path"),
    ],
)
def test_what_a_dataset_toml_cannot_mean_is_refused_by_name(tmp_path, line, words):
    captioned(tmp_path / "one" / "p.png", 0, "a")
    text = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "one"\n{line}\n'
    with pytest.raises(UserError, match=words):
        samples = read(toml(tmp_path, text), tmp_path).samples
        from sotediffusion.train.wording import part_settings

        part_settings(SETTINGS.captions, samples.parts[0].captions)


def test_options_that_are_off_do_no_harm(tmp_path):
    captioned(tmp_path / "one" / "p.png", 0, "a")
    text = '[general]\nflip_aug = false\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "one"\nrandom_crop = false\n'
    assert len(read(toml(tmp_path, text), tmp_path).samples) == 1


def test_metadata_names_pictures_by_path_or_name_and_joins_caption_and_tags(tmp_path):
    folder = tmp_path / "set"
    for name in ("a.png", "b.png", "6_card/c.png", "untold.png"):
        paint(folder / name, 0)
    told = {
        str(folder / "a.png"): {"tags": "1girl, solo"},
        "b": {"caption": "a girl", "tags": "smile", "train_resolution": [64, 64]},
        "6_card/c": {"caption": "below"},
    }
    (folder / "meta.json").write_text(json.dumps(told))
    samples = read(folder / "meta.json", tmp_path).samples
    assert rows_of(samples) == {"a.png": ("1girl, solo", 1), "b.png": ("a girl, smile", 1), "6_card/c.png": ("below", 1)}


def test_metadata_may_lie_elsewhere_where_it_names_pictures_by_their_full_path(tmp_path):
    for name in ("a.png", "below/b.png"):
        paint(tmp_path / "set" / name, 0)
    told = {str(tmp_path / "set" / "a.png"): {"tags": "1girl"}, str(tmp_path / "set" / "below" / "b.png"): {"tags": "1boy"}}
    (tmp_path / "meta.json").write_text(json.dumps(told))
    assert rows_of(read(tmp_path / "meta.json", tmp_path).samples) == {"a.png": ("1girl", 1), "below/b.png": ("1boy", 1)}
    (tmp_path / "stems.json").write_text(json.dumps({"a": {"tags": "1girl"}}))
    with pytest.raises(UserError, match=r"1 of 1 pictures .* are not there: a; .* or say in a dataset\.toml by image_dir"):
        read(tmp_path / "stems.json", tmp_path)


@pytest.mark.parametrize("gone", ["gone", "gone.png", "below/gone.png", "a.png/gone"])
def test_pictures_that_metadata_names_and_that_are_not_there_are_named_and_counted(tmp_path, gone):
    paint(tmp_path / "set" / "a.png", 0)
    told = {name: {"tags": "1girl"} for name in ("a", gone, "u.png", "v.png", "w.png")}
    (tmp_path / "set" / "meta.json").write_text(json.dumps(told))
    words = rf"4 of 5 pictures that .*meta\.json names are not there: {gone}, u\.png, v\.png and 1 more; bring"
    with pytest.raises(UserError, match=words):
        read(tmp_path / "set" / "meta.json", tmp_path)


@pytest.mark.parametrize("line", ['image_dir = "two"', 'image_dir = "one"\nconditioning_data_dir = "two"'])
def test_folders_that_are_not_there_are_named_and_counted(tmp_path, line):
    captioned(tmp_path / "one" / "p.png", 0, "a")
    text = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "one"\n[[datasets.subsets]]\n{line}\n'
    with pytest.raises(UserError, match=r"1 of 2 folders of pictures or masks are not there: \S*/two; mend image_dir or condit"):
        read(toml(tmp_path, text), tmp_path)


def test_masks_are_found_by_name_in_their_own_folder(tmp_path):
    captioned(tmp_path / "one" / "p.png", 0, "a")
    captioned(tmp_path / "one" / "q.png", 1, "b")
    paint(tmp_path / "masks" / "q.png", 2)
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "one"\nconditioning_data_dir = "masks"\n'
    samples = read(toml(tmp_path, text), tmp_path).samples
    assert [samples.mask(row) for row in range(2)] == [None, "masks/q.png"]
    samples = read(toml(tmp_path, "[general]\nalpha_mask = true\n" + text), tmp_path).samples
    assert [samples.mask(row) for row in range(2)] == ["one/p.png", "masks/q.png"]  # transparency, where there is no other


def test_a_second_start_reads_no_picture_but_the_changed_one(tmp_path, monkeypatch):
    for number in range(5):
        captioned(tmp_path / "set" / f"{number}.png", number, "a")
    first = read(tmp_path / "set", tmp_path).samples
    asked = []
    read_all = PictureSource.read_all
    monkeypatch.setattr(PictureSource, "read_all", lambda self, paths: (asked.extend(paths), read_all(self, paths))[1])
    assert read(tmp_path / "set", tmp_path).samples.identity == first.identity and asked == []
    paint(tmp_path / "set" / "3.png", 33, (96, 160))
    assert read(tmp_path / "set", tmp_path).samples.identity != first.identity and asked == ["3.png"]


def test_pictures_lie_upright_whatever_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "set").mkdir()
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(tmp_path / "set" / "a.jpg", exif=exif)
    (tmp_path / "set" / "a.txt").write_text("a")
    samples = read(tmp_path / "set", tmp_path).samples
    assert (samples.column("width")[0], samples.column("height")[0]) == (64, 128)


def test_empty_captions_are_named_unless_they_are_wanted(tmp_path):
    captioned(tmp_path / "set" / "a.png", 0, "a")
    captioned(tmp_path / "set" / "b.png", 1, "")
    paint(tmp_path / "set" / "c.png", 2)
    with pytest.raises(UserError, match=r"2 of 3 pictures have no caption: b\.png, c\.png; .*data\.empty_captions=true"):
        read(tmp_path / "set", tmp_path)
    assert len(read(tmp_path / "set", tmp_path, DataSettings(empty_captions=True, buckets=SETTINGS.buckets)).samples) == 3


def test_a_file_that_is_no_picture_is_named_and_counted_up_to_the_limit(tmp_path):
    captioned(tmp_path / "set" / "a.png", 0, "a")
    for name in ("b.png", "c.png"):
        (tmp_path / "set" / name).write_bytes(b"<html>")
    samples = read(tmp_path / "set", tmp_path).samples
    assert len(samples) == 1 and "2 pictures cannot be read: b.png" in samples.notes[0]
    with pytest.raises(UserError, match="1 may be skipped"):
        read(tmp_path / "set", tmp_path, DataSettings(skip=1, buckets=SETTINGS.buckets))


def test_a_caption_that_is_no_utf_8_is_named(tmp_path):
    captioned(tmp_path / "set" / "a.png", 0, b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt is no UTF-8"):
        read(tmp_path / "set", tmp_path)


def test_what_the_policy_refuses_is_left_out_and_only_counted(tmp_path):
    captioned(tmp_path / "set" / "a.png", 0, "1girl")
    captioned(tmp_path / "set" / "b.png", 1, "loli, nude")
    samples = read(tmp_path / "set", tmp_path).samples
    assert list(rows_of(samples)) == ["a.png"] and samples.notes == ("1 picture is left out by the policy",)


@pytest.mark.parametrize(("make", "words"), [
    (lambda p: p / "nothing", "no catalogue, folder, dataset.toml"),
    (lambda p: (p / "empty").mkdir() or p / "empty", "no pictures directly in it"),
    (lambda p: (p / "bad.json").write_text("[1]") and p / "bad.json", "maps no pictures"),
    (lambda p: (p / "bad.json").write_text("{") and p / "bad.json", "no readable JSON"),
    (lambda p: (p / "none.toml").write_text("[general]") and p / "none.toml", r"no \[\[datasets\.subsets\]\]"),
])  # fmt: skip
def test_a_place_without_data_is_one_sentence(tmp_path, make, words):
    with pytest.raises(UserError, match=words):
        read(make(tmp_path), tmp_path)


def test_settings_that_contradict_are_refused_before_anything_is_read(tmp_path):
    from dataclasses import replace

    from sotediffusion.train.fit import FitSettings

    for settings, words in (
        (replace(SETTINGS, where="width > 1"), r"data\.where"),
        (replace(SETTINGS, version="v1"), r"data\.version"),
        (replace(SETTINGS, fit=FitSettings(crop="random")), r"data\.online=true"),
        (replace(SETTINGS, held_out=1.0), "held_out"),
        (replace(SETTINGS, fit=FitSettings(alpha="black")), "white"),
    ):
        with pytest.raises(UserError, match=words):
            read(tmp_path, tmp_path, settings)


@pytest.mark.parametrize("preset", ["card-final", "miniature-final"])
def test_a_preset_that_chooses_from_a_catalogue_says_how_to_train_on_all_of_a_folder(tmp_path, preset):
    captioned(tmp_path / "set" / "p.png", 0, "a")
    with pytest.raises(UserError, match=r"data\.where: .*set is no catalogue .* train on all of it with -s data\.where=''"):
        read(tmp_path / "set", tmp_path, resolve(preset, [], PRESETS).data)
    assert len(read(tmp_path / "set", tmp_path, resolve(preset, ["data.where=''"], PRESETS).data).samples) == 1


def test_our_own_export_reads_as_the_catalogue_that_it_was_made_of(tmp_path):
    from sotediffusion.curate.exports.entries import Done, ExportSettings
    from sotediffusion.curate.exports.run import Wish, export

    place = catalogue_of(tmp_path / "pictures", tmp_path / "cat", 6, repeats=lambda n: 6 if n == 2 else 1, format=lambda n: "png")
    export(Wish(str(place), settings=ExportSettings("card")), tmp_path / "out", Done())
    wanted = read(place, tmp_path).samples
    for way in ("out", "out/dataset.toml"):
        found = read(tmp_path / way, tmp_path / way.replace("/", "-")).samples
        rows = [int(np.flatnonzero((found.content == digest).all(1))[0]) for digest in wanted.content]
        assert found.column("repeats")[rows].tolist() == wanted.column("repeats").tolist()
        for row, other in enumerate(rows):
            assert found.text(other) == ", ".join(tag for tags in wanted.groups(row).values() for tag in tags)
