"""Claims about packing: a user's pictures become a data folder, and parts of a cascade are trained on it."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from training_pictures import catalogue_of, paint
from training_run import picture_folder

from sotediffusion.cli.main import sote as program
from sotediffusion.train.data import Folder
from sotediffusion.train.fit import Faults
from sotediffusion.train.pack import pack
from sotediffusion.types import UserError

AREA = 128 * 128


def packed(place, out, skip=0):
    faults = Faults(skip)
    done = list(pack(str(place), out, AREA, faults))
    return Folder(out, {"pictures": "pictures"}), done, faults


def test_a_kohya_folder_and_a_catalogue_are_packed_with_their_tags(tmp_path):
    picture_folder(tmp_path / "set", 5)
    catalogue_of(tmp_path / "pictures", tmp_path / "cat", 5)
    for place, groups in ((tmp_path / "set", {"rest"}), (tmp_path / "cat", {"quality", "custom", "rest"})):
        folder, done, _ = packed(place, tmp_path / f"{place.name}-packed")
        assert done == [(len(folder), len(folder))] and len(folder) == 4  # the fifth is 64 x 256, longer than any size
        for number, entry in enumerate(folder.entries):
            assert set(entry.tags) == groups and entry.tags["rest"][:2] == ["1girl", f"thing {number}"]
            (picture,) = folder.read([number], 0, 0).fields["pictures"]
            width, height = map(int, entry.bucket.split("x"))
            assert picture.shape == (height, width, 3) and width * height <= AREA and width % 32 == height % 32 == 0


def test_pictures_are_those_that_were_given(tmp_path):
    from PIL import Image

    path = paint(tmp_path / "set" / "0.png", 3, (128, 128))
    path.with_suffix(".txt").write_text("1girl")
    folder, _, _ = packed(tmp_path / "set", tmp_path / "packed")
    with Image.open(path) as image:
        assert np.array_equal(folder.read([0], 0, 0).fields["pictures"][0].numpy(), np.asarray(image))


def test_a_second_packing_makes_nothing_again_and_other_pictures_are_refused(tmp_path):
    picture_folder(tmp_path / "set", 4)
    packed(tmp_path / "set", tmp_path / "packed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed" / "pictures").iterdir()}
    packed(tmp_path / "set", tmp_path / "packed")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "packed" / "pictures").iterdir()}
    (tmp_path / "set" / "00.txt").write_text("another caption")
    with pytest.raises(UserError, match="out: .* choose another folder"):
        packed(tmp_path / "set", tmp_path / "packed")


def test_a_picture_that_cannot_be_opened_is_left_out_and_named(tmp_path):
    picture_folder(tmp_path / "set", 4)
    data = (tmp_path / "set" / "01.png").read_bytes()
    (tmp_path / "set" / "01.png").write_bytes(data[: len(data) // 2])
    folder, _, faults = packed(tmp_path / "set", tmp_path / "packed", skip=1)
    assert len(folder) == 3 and list(faults.found) == ["01.png"]


@pytest.mark.parametrize(("part", "prefixes"), [("stage-a", {"stage_a"}), ("effnet", {"effnet", "previewer"})])
def test_parts_are_trained_on_ones_own_pictures(tmp_path, part, prefixes):
    picture_folder(tmp_path / "set", 8)
    sote("train", "pack", tmp_path / "set", "--out", tmp_path / "packed", "--area", AREA)
    said = sote("train", "miniature", part, "--data", tmp_path / "packed", "--out", tmp_path / "runs", "--size", "tiny",
                "--images", 8, "--batch", 4)  # fmt: skip
    assert f"{part} finished at" in said
    weights = load_file(tmp_path / "runs" / part / "weights.safetensors")
    assert {key.split(".")[0] for key in weights} == prefixes


def sote(*arguments):
    done = CliRunner().invoke(program, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output
