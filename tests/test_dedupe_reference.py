"""Reference sets for deduplication: folders, and what catalogues have kept."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from sotediffusion.cli.curate import read_preset
from sotediffusion.curate import pipeline
from sotediffusion.curate.dedupe.reference import Reading, hashed, read_reference, scanned
from sotediffusion.curate.engine.shelves import Folder
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.scan.sources import PictureSource
from sotediffusion.types import UserError


def picture(seed, size):
    blocks = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8)
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST)


def test_of_a_catalogue_only_what_it_kept_is_a_reference(tmp_path):
    (tmp_path / "src").mkdir()
    picture(1, 900).save(tmp_path / "src" / "kept.png")
    picture(2, 300).save(tmp_path / "src" / "too small.png")
    settings = read_preset("card", ('text.backend="none"',))
    skip = ("score", "tag", "dedupe")
    pipeline.run(pipeline.Order(str(tmp_path / "src"), str(tmp_path / "cat"), settings, tmp_path, 1, skip), lambda _: None)
    assert read_reference([str(tmp_path / "cat")]).paths == [f"{tmp_path}/cat/kept.png"]
    assert len(read_reference([str(tmp_path / "src")]).paths) == 2


class Killers(PictureSource):
    """Kills the process that reads a picture so called, and counts what is read."""

    def read_all(self, paths):
        with open(f"{self.shelf.root}.log", "a") as log:
            log.writelines(f"{path}\n" for path in paths)
        if any("kills" in path for path in paths):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().read_all(paths)


def read_of(log):
    """What was read since the last time this was asked."""
    found = sorted(log.read_text().splitlines()) if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_a_folder_is_compared_though_one_of_its_pictures_kills_its_decoder(tmp_path):
    place = tmp_path / "held"
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png", "kills.png")):
        picture(number, 300).save(place / name)
    told = []
    table = scanned(Killers(Folder(str(place))), told=told.append).select(["row", "path", "format", "drop_scan"])
    assert [list(row.values()) for row in table.to_pylist()] == [
        [0, "a.png", "png", None], [1, "b.png", "png", None], [2, "kills.png", None, "kills the decoder"],
    ]  # fmt: skip
    assert told == [3]


def test_a_reference_folder_is_read_once_and_a_picture_that_kills_its_decoder_is_left_out_and_named(tmp_path):
    place, log, store, said = tmp_path / "held", tmp_path / "held.log", Store(tmp_path / "cat"), []
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png", "kills.png")):
        picture(number, 300).save(place / name)
    (place / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(40))
    source = Killers(Folder(str(place)))
    how = Reading(0, store, said.append)
    first = hashed(str(place), source, how).to_pylist()
    assert [row["path"] for row in first if row["phash"]] == ["a.png", "b.png"]
    assert said == [f"1 files of {place} kill the decoder and do not count: kills.png"]
    assert read_of(log) == ["a.png", "b.png", "film.mp4", "kills.png", "kills.png"]
    (place / "kills.png").unlink()
    assert hashed(str(place), source, how).to_pylist() == [row for row in first if row["path"] != "kills.png"]
    assert not read_of(log), "not even what is no picture"
    picture(9, 320).save(place / "b.png")
    changed = {row["path"]: row["phash"] for row in hashed(str(place), source, how).to_pylist()}
    assert read_of(log) == ["b.png"] and changed["b.png"] not in (None, first[1]["phash"]) and len(said) == 1
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cat" / "references").iterdir())
    assert b"a.png" not in kept, "no names"


def test_a_catalogue_that_was_never_finished_is_told_of(tmp_path):
    (tmp_path / "catalogue.lance").mkdir()
    with pytest.raises(UserError, match="no finished catalogue"):
        read_reference([str(tmp_path)])
