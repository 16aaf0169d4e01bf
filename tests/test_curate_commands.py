"""The commands of `sote curate` on one small catalogue: what they say, and what the next run makes of what they were told."""

import csv
import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sotediffusion.cli.main import sote as program
from sotediffusion.curate import catalogue
from sotediffusion.curate.dedupe.verdicts import FORMAT
from sotediffusion.types import UserError

NO_MODELS = ("--skip", "score", "--skip", "tag", "-s", 'text.backend="none"', "--workers", 1)


def sote(*arguments):
    """The output of a command that must succeed."""
    done = CliRunner().invoke(program, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def blocks(seed):
    cells = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8)
    return Image.fromarray(cells).resize((900, 900), Image.Resampling.NEAREST)


def fill(place):
    """Two pictures, a copy of the first, one too small, and two files that are none."""
    place.mkdir()
    for name, seed, quality, tags in (("first.jpg", 1, 95, "1girl long_hair"), ("again.jpg", 1, 60, "1girl"),
                                      ("other.jpg", 2, 90, "1girl very_long_hair smile")):  # fmt: skip
        blocks(seed).save(place / name, quality=quality)
        (place / f"{name}.json").write_text(json.dumps({"tag_string_general": tags, "rating": "g"}))
    blocks(3).resize((90, 90)).save(place / "small.png")
    for name in ("a.part", "b.part"):
        (place / name).write_bytes(b"half")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A catalogue beside its source; what a test changes is of no matter to the others."""
    place = tmp_path_factory.mktemp("commands")
    fill(place / "src")
    said = run(place)
    assert "passed over: 2, by name no pictures: 2 .part" in said and "2 of 4 pictures kept; version v1" in said
    return place


def run(place, *more):
    return sote("curate", "run", place / "src", "--out", place / "cat", *NO_MODELS, *more)


def captions(place):
    rows = catalogue.read(place / "cat").to_table().to_pylist()
    return {row["path"]: [tag for part in row["caption"] or () for tag in part["tags"]] for row in rows if not row["dropped"]}


def test_status_versions_and_explain_tell_what_there_is(place):
    assert "nobody is writing to it" in sote("curate", "status", place / "cat")
    said = sote("curate", "versions", place / "cat")
    assert said.startswith("v1 ") and "2 of 4 pictures kept" in said and "1 too small" in said
    story = sote("curate", "explain", place / "cat", "again.jpg")
    assert "left out: duplicate: of first.jpg" in story and "with first.jpg (the keeper)" in story
    story = sote("curate", "explain", place / "cat", "first.jpg")
    assert "kept" in story and "long hair" in story.splitlines()[-1]
    with pytest.raises(UserError, match="there is first.jpg"):
        sote("curate", "explain", place / "cat", "frist.jpg")


def test_tags_are_found_renamed_merged_and_written_for_editors(place, tmp_path):
    found = [line.split(maxsplit=2) for line in sote("curate", "tags", "search", place / "cat", "long hair").splitlines()]
    assert {line[2]: line[0] for line in found} == {"long hair": "1", "very long hair": "1"}
    assert "no tag holds" in sote("curate", "tags", "search", place / "cat", "nothing so called")
    sote("curate", "tags", "rename", place / "cat", "smile", "happy")
    sote("curate", "tags", "merge", place / "cat", "very long hair", "--into", "long hair")
    run(place)
    assert set(captions(place)["other.jpg"]) >= {"happy", "long hair"}
    assert not {"smile", "very long hair"} & set(captions(place)["other.jpg"])
    assert "tags in" in sote("curate", "tags", "autocomplete", place / "cat", "--out", tmp_path / "tags.csv")
    rows = {row[0]: row[1:] for row in csv.reader((tmp_path / "tags.csv").read_text().splitlines())}
    assert rows["long_hair"][1] == "2" and "very_long_hair" in rows["long_hair"][2]


@pytest.mark.parametrize("command", ["report", "review"])
def test_no_picture_is_opened_in_the_process_that_writes_a_page(place, tmp_path, monkeypatch, command):
    monkeypatch.setattr("sotediffusion.curate.scan.sources.PictureSource.decode", None)
    sote("curate", command, place / "cat", "--out", tmp_path / "page.html", *(["--all"] if command == "review" else []))
    assert "data:image/webp" in (tmp_path / "page.html").read_text()


def test_a_review_is_written_and_what_was_decided_on_it_counts_in_the_next_run(place, tmp_path):
    assert "1 of 1 undecided groups" in sote("curate", "review", place / "cat", "--out", tmp_path / "groups.html")
    assert "again.jpg" in (tmp_path / "groups.html").read_text()
    shas = {row["path"]: row["sha256"] for row in catalogue.read(place / "cat").to_table().to_pylist()}
    apart = sorted((shas["first.jpg"], shas["again.jpg"]))
    verdicts = {"format": FORMAT, "same": [], "different": [apart], "keep": []}
    (tmp_path / "verdicts.json").write_text(json.dumps(verdicts))
    assert "1 new verdicts, 1 in all" in sote("curate", "review", place / "cat", "--apply", tmp_path / "verdicts.json")
    run(place)
    assert set(captions(place)) == {"first.jpg", "again.jpg", "other.jpg"}
    with pytest.raises(UserError, match="does not exist"):
        sote("curate", "review", place / "cat", "--apply", tmp_path / "nothing.json")


def test_what_a_killed_writer_left_half_is_removed(place):
    halves = [place / "cat" / name for name in ("work/scan/.0000000-0000.arrow.0a1b2c3d.part", "versions/.v1.json.00000000.part")]
    for half in halves:
        half.write_bytes(b"a path")
    run(place)
    assert not any(half.exists() for half in halves)


def test_the_report_says_which_files_were_passed_over(place, tmp_path):
    sote("curate", "report", place / "cat", "--out", tmp_path / "report.html")
    assert "2, by name no pictures: 2 .part" in (tmp_path / "report.html").read_text()


def test_the_command_that_an_import_prints_can_be_pasted_whatever_folders_are_called(tmp_path):
    old = tmp_path / "my set; $(rm -r old)"
    old.mkdir()
    blocks(1).save(old / "a.png")
    (old / "metadata.json").write_text(json.dumps({"a": {"tags": "smile"}}))
    said = sote("curate", "import", old, "--out", tmp_path / "made of it").splitlines()[-1]
    table = f"scan.sidecar_table={next((tmp_path / 'made of it').iterdir())}"
    assert shlex.split(said) == ["sote", "curate", "run", str(old), "--out", "CATALOGUE", "-s", table]
