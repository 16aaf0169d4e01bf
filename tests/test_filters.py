"""Why a measured picture is left out: one example per reason, at the limit and beyond it."""

import pyarrow as pa
import pytest

from sotediffusion.config import build
from sotediffusion.curate.filters import FilterSettings, FilterStep, judge
from sotediffusion.types import UserError

GOOD = {"width": 1280, "height": 600, "bytes": 300_000, "format": "jpeg", "blank": False, "luma_std": 40.0, "chroma": 30.0,
        "side_tags": ["1girl"], "side_general": None, "side_character": None, "side_series": None, "side_artist": None,
        "side_meta": ["official_art"]}  # fmt: skip


@pytest.mark.parametrize(("change", "settings", "reason"), [
    ({}, {}, None),
    ({"width": 1279}, {}, "too small: 1279x600"),
    ({"width": 10}, {"min_area": 0, "max_aspect": 0}, None),
    ({"width": 4001, "height": 1000}, {}, "too long: 4001x1000"),
    ({"width": 1000, "height": 4000}, {}, None),
    ({"width": 1000, "height": 4001}, {}, "too long: 1000x4001"),
    ({"bytes": 23_000}, {}, "too compressed: 0.0299 bytes per pixel"),
    ({"bytes": 23_000, "format": "png"}, {}, None),
    ({"bytes": 23_000}, {"min_bytes_per_pixel": {}}, None),
    ({"blank": True, "luma_std": 0.1, "chroma": 0.0}, {}, "blank"),
    ({"blank": True, "luma_std": 0.1, "chroma": 0.0}, {"blank": False}, "too flat: contrast 0.10"),
    ({"luma_std": 1.5, "chroma": 3.0}, {}, "too flat: contrast 1.50"),
    ({"luma_std": 1.5, "chroma": 60.0}, {}, None),
    ({}, {"drop_tags": ["official art"]}, "unwanted tag: official art"),
    ({}, {"drop_tags": ["1girls", "art"]}, None),
])  # fmt: skip
def test_one_example_of_every_reason(change, settings, reason):
    assert judge(GOOD | change, build(FilterSettings, settings)) == reason


def test_the_step_answers_row_by_row():
    rows = [GOOD, GOOD | {"width": 100}, GOOD | {"blank": True}]
    for settings in (FilterSettings(), FilterSettings(drop_tags=("1girl",))):
        step = FilterStep(settings)
        batch = pa.RecordBatch.from_pylist([{name: row[name] for name in step.reads} for row in rows])
        wanted = [judge(row, settings) for row in rows]
        assert step.process(batch).to_pydict() == {"drop_filter": wanted}


@pytest.mark.parametrize(("field", "value"), [("min_area", -1), ("max_aspect", 0.5), ("max_aspect", -2.0)])
def test_limits_that_cannot_be_meant(field, value):
    with pytest.raises(UserError, match=f"^filter.{field}"):
        FilterStep(FilterSettings(**{field: value}))
