"""Marks of provenance and ratings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion import __version__
from sotediffusion.safety.provenance import stamp
from sotediffusion.safety.rating import rating_of


def test_a_stamp_says_that_it_was_ai_by_what_and_from_which_weights():
    marked = stamp({"prompt": "x"}, "miniature", "apache-2.0", {"stage_c": "ab"})
    assert marked == {
        "prompt": "x",
        "model": "miniature",
        "license": "apache-2.0",
        "hashes": {"stage_c": "ab"},
        "ai_generated": True,
        "digital_source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "software": "SoteDiffusion",
        "version": __version__,
    }


def test_settings_cannot_deny_the_stamp_and_are_not_changed_by_it():
    settings = {"ai_generated": False, "software": "camera", "model": "kept"}
    assert stamp(settings)["ai_generated"] is True
    assert stamp(settings)["software"] == "SoteDiffusion"
    assert stamp(settings)["model"] == "kept"
    assert settings == {"ai_generated": False, "software": "camera", "model": "kept"}


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1))
def test_the_rating_is_the_likeliest_and_on_a_tie_the_milder(pictures):
    assert rating_of(pictures).tolist() == [one.index(max(one)) for one in pictures]


@pytest.mark.parametrize("probabilities", [[], [1.0] * 4, [[1.0] * 3], [[0.1, 0.2, float("nan"), 0.3]]])
def test_a_head_of_another_shape_is_refused(probabilities):
    with pytest.raises(ValueError, match="four|4 finite"):
        rating_of(probabilities)
