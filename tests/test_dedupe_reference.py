"""Reference sets for deduplication: folders, and what catalogues have kept."""

import numpy as np
import pytest
from PIL import Image

from sotediffusion.cli.curate import read_preset
from sotediffusion.curate import pipeline
from sotediffusion.curate.dedupe.reference import read_reference
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


def test_a_catalogue_that_was_never_finished_is_told_of(tmp_path):
    (tmp_path / "catalogue.lance").mkdir()
    with pytest.raises(UserError, match="no finished catalogue"):
        read_reference([str(tmp_path)])
