"""Scores and probabilities become tags late, by the card's tables and thresholds; sidecars join in without duplicates."""

import compose_plainly
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.curate.compose.cuts import READS, AestheticTable, Cut, CutSettings, QualityTable, check_table, cut, tags_of
from sotediffusion.curate.compose.vocabulary import word
from sotediffusion.curate.tag.taglist import TagList
from sotediffusion.types import UserError

NAMES = [
    "general",
    "sensitive",
    "questionable",
    "explicit",
    "1girl",
    "long_hair",
    "^_^",
    "(o)_(o)",
    "hatsune_miku",
    "saber_(fate)",
    "artoria_pendragon_(swimsuit_archer)_(fate)",
    "kaname_madoka_(ultimate)",
]
LIST = TagList(tuple(NAMES), ("9",) * 4 + ("0",) * 4 + ("4",) * 4, (1,) * 12, "0" * 64)


def rows(*pictures: dict) -> pa.RecordBatch:
    halves = [{**p, "tag_probs": [np.float16(v) for v in p["tag_probs"]]} if p.get("tag_probs") else p for p in pictures]
    return pa.record_batch([pa.array([p.get(f.name) for p in halves], f.type) for f in READS], schema=READS)


def told(*pictures: dict, **settings) -> list[dict]:
    step = Cut(CutSettings(**settings), LIST)
    step.setup()
    return step.process(rows(*pictures)).to_pylist()


@pytest.mark.parametrize("table", [AestheticTable(), QualityTable()])
def test_a_score_at_a_cut_is_not_above_it_and_the_next_number_is(table):
    bounds = np.array([bound for bound, _ in table.cuts], np.float32)
    above = np.nextafter(bounds, np.float32(2))
    names = tags_of(table)
    assert cut(pa.array(bounds), table).to_pylist() == names[1:]
    assert cut(pa.array(above), table).to_pylist() == names[:-1]


def test_the_card_has_nine_aesthetic_and_eight_quality_tags_and_no_score_has_no_tag():
    assert len(tags_of(AestheticTable())) == 9 and len(tags_of(QualityTable())) == 8
    assert cut(pa.array([None, float("nan"), -5.0, 5.0], pa.float32()), AestheticTable()).to_pylist() == [
        None,
        None,
        "very displeasing",
        "extremely aesthetic",
    ]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_cutting_all_at_once_is_cutting_one_by_one(scores):
    table = QualityTable()
    one_by_one = [next((tag for bound, tag in table.cuts if np.float32(s) > np.float32(bound)), table.rest) for s in scores]
    assert cut(pa.array(scores, pa.float32()), table).to_pylist() == one_by_one


def test_cuts_out_of_order_or_with_one_tag_twice_are_refused():
    with pytest.raises(UserError, match="do not descend"):
        check_table(AestheticTable(cuts=((0.5, "a"), (0.6, "b"))), "compose.aesthetic")
    with pytest.raises(UserError, match="same tag"):
        check_table(AestheticTable(cuts=((0.5, "a"), (0.4, "a"))), "compose.aesthetic")


def test_thresholds_take_what_reaches_them_and_characters_bring_their_series():
    (picture,) = told(
        {
            "tag_ids": [4, 5, 6, 7, 8, 9, 10],
            "tag_probs": [0.9, 0.3, 0.375, 0.6, 0.49, 0.5, 0.9],
            "rating_probs": [0.1, 0.8, 0.05, 0.02],
        },
        general=0.375,
    )
    assert picture == {
        "rating": "sensitive",
        "character": ["saber", "artoria pendragon (swimsuit archer)"],
        "series": ["fate"],
        "general": ["1girl", "^_^", "(o)_(o)"],
    }


def test_a_moved_threshold_brings_other_tags_from_the_same_numbers():
    picture = {"tag_ids": [4, 5], "tag_probs": [0.9, 0.2]}
    assert told(picture)[0]["general"] == ["1girl"]
    assert told(picture, general=0.1)[0]["general"] == ["1girl", "long hair"]
    assert told(picture, thresholds={"long hair": 0.15})[0]["general"] == ["1girl", "long hair"]


def test_last_brackets_that_are_no_series_stay_with_the_name():
    assert told({"tag_ids": [11], "tag_probs": [0.9]})[0]["character"] == ["kaname madoka (ultimate)"]
    assert word("a_(b)c)", "character") == ("character", "a (b)c)", None)
    assert word("fate_(series)", "series").name == "fate"


def test_sidecars_and_the_tagger_say_each_tag_once_and_kinds_come_from_whoever_knows():
    side = {"side_tags": ["1girl", "saber", "fate", "my_tag"]}
    (picture,) = told({**side, "tag_ids": [4, 9], "tag_probs": [0.9, 0.9]})
    assert picture["general"] == ["1girl", "my tag"] and picture["character"] == ["saber"] and picture["series"] == ["fate"]


def test_tags_that_a_booru_names_as_artist_or_meta_are_no_tags_of_the_rest():
    picture = {
        "side_tags": ["1girl", "highres", "cool_artist", "a_(b)"],
        "side_meta": ["highres"],
        "side_artist": ["cool_artist"],
        "side_character": ["a_(b)"],
        "side_general": ["1girl"],
    }
    assert told(picture) == [{"rating": None, "character": ["a"], "series": ["b"], "general": ["1girl"]}]


def test_merging_can_leave_one_side_out():
    picture = {"side_tags": ["from sidecar"], "tag_ids": [4], "tag_probs": [0.9]}
    bare = {"tag_ids": [4], "tag_probs": [0.9]}
    assert [p["general"] for p in told(picture, bare, merge="sidecar")] == [["from sidecar"], ["1girl"]]
    assert [p["general"] for p in told(picture, bare, merge="tagger")] == [["1girl"], ["1girl"]]


@pytest.mark.parametrize(
    ("picture", "rating"),
    [
        ({"rating_probs": [0.4, 0.4, 0.1, 0.1]}, "general"),
        ({"rating_probs": [0, 0, 0.6, 0.4]}, "nsfw"),
        ({"rating_probs": [0, 0, 0.4, 0.6]}, "explicit nsfw"),
        ({"side_rating": "q"}, "nsfw"),
        ({"side_tags": ["x", "explicit"]}, "explicit nsfw"),
        ({"rating_probs": [1, 0, 0, 0], "side_rating": "e"}, "general"),
        ({}, None),
    ],
)
def test_ratings_are_the_cards_four_words(picture, rating):
    assert told(picture)[0]["rating"] == rating


def test_without_a_tagger_only_sidecars_speak_and_columns_of_skipped_steps_may_be_null():
    step = Cut()
    step.setup()
    nothing = pa.record_batch([pa.nulls(2)] * len(READS.names), names=READS.names)
    assert step.process(nothing).to_pylist() == [{"rating": None, "character": [], "series": [], "general": []}] * 2


TAGS = st.none() | st.lists(st.sampled_from([
    "1girl", "long_hair", "long hair", "saber", "saber (fate)", "saber_(fate)", "fate", "fate_(series)", "a_(b)", "a_(ultimate)",
    "hatsune_miku", "(o)_(o)", "explicit", "sensitive", "x", "", " ",
]), max_size=5)  # fmt: skip
NUMBERS = st.sampled_from([0.0, 0.25, 0.34, 0.35, 0.5, 0.51, 1.0])
PICTURES = st.fixed_dictionaries({
    **{name: TAGS for name in READS.names if name.startswith(("side_", "group_")) and name != "side_rating"},
    "side_rating": st.sampled_from([None, "g", "e", "?"]),
    "rating_probs": st.none() | st.lists(NUMBERS, min_size=4, max_size=4),
    "seen": st.none() | st.dictionaries(st.integers(4, 11), NUMBERS),
})  # fmt: skip
CUTS = st.builds(
    CutSettings,
    merge=st.sampled_from(["both", "tagger", "sidecar"]),
    rating=st.sampled_from(["tagger", "sidecar"]),
    thresholds=st.sampled_from([{}, {"long hair": 0.5, "saber_(fate)": 0.0}]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PICTURES, max_size=6), CUTS)
def test_all_at_once_is_as_plainly_one_by_one(pictures, cuts):
    for picture in pictures:
        seen = picture.pop("seen")
        picture |= {"tag_ids": None if seen is None else list(seen), "tag_probs": None if seen is None else list(seen.values())}
    step = Cut(cuts, LIST)
    step.setup()
    for some in (pictures, pictures[::-1]):  # what a step has learned changes nothing
        assert step.process(rows(*some)).to_pylist() == [compose_plainly.cut(picture, cuts, LIST) for picture in some]


def test_a_head_without_numbers_leaves_the_rating_to_the_sidecar():
    assert told({"rating_probs": [float("nan")] * 4, "side_rating": "s"})[0]["rating"] == "sensitive"
