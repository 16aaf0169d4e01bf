"""Dates, sources and custom tags follow from folders and sidecars by rules that are data."""

import json

import compose_plainly
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from sotediffusion.curate.compose.matching import LISTS, READS
from sotediffusion.curate.compose.rules import CARD_SOURCES, Era, Rule, Rules, RulesSettings, Source
from sotediffusion.types import UserError


def told(*pictures: dict, settings: RulesSettings = RulesSettings()) -> list[dict]:
    step = Rules(settings)
    step.setup()
    columns = [pa.array([{"path": "a.png", **picture}.get(f.name) for picture in pictures], f.type) for f in READS]
    return step.process(pa.record_batch(columns, schema=READS)).to_pylist()


@pytest.mark.parametrize(
    ("year", "tag"),
    [
        (1999, "oldest"),
        (2005, "oldest"),
        (2010, "oldest"),
        (2011, "early"),
        (2014, "early"),
        (2015, "mid"),
        (2018, "mid"),
        (2019, "recent"),
        (2021, "recent"),
        (2022, "newest"),
        (2024, "newest"),
        (2031, "newest"),
    ],
)
def test_a_year_has_the_cards_date_tag(year, tag):
    assert told({"side_date": f"{year}-07-01T00:00:00Z"})[0]["date"] == tag


def test_without_a_date_a_tag_says_it_then_the_folder_and_else_nobody():
    found = told(
        {"path": "mid/a.png", "side_tags": ["oldest"]},
        {"path": "x/Mid/y/a.png"},
        {"path": "x.tar::early/a.png"},
        {"path": "x/a.png"},
        {"path": "mid/a.png", "side_date": "0000-00-00"},
        {"side_date": "soon"},
    )
    assert [one["date"] for one in found] == ["oldest", "mid", "early", None, "mid", None]


def test_the_cards_sources_have_their_tags_and_dates_only_where_the_card_has_them():
    found = told(
        {"path": "pixiv/1/a.png", "side_artist": ["Some_One"], "side_date": "2020-01-01"},
        {"side_site": "pixiv", "side_artist": ["X"], "side_date": "2020-01-01"},
        {"path": "visual_novel_cg/Full_Name (abc)/a.png", "side_date": "2020-01-01"},
        {"path": "visual novel cg/a.png", "side_extra": json.dumps({"title": "Full Name", "short": "abc"})},
        {"path": "Anime Wallpapers/a.png", "side_date": "2020-01-01"},
        {"side_site": "danbooru", "side_artist": ["X"], "side_date": "2020-01-01"},
        {},
    )
    assert [(one["source"], one["date"], one["custom"]) for one in found] == [
        ("pixiv", None, ["art by Some One"]),
        ("pixiv", None, ["art by X"]),
        ("visual novel cg", None, ["Full Name (abc)", "visual novel cg"]),
        ("visual novel cg", None, ["Full Name (abc)", "visual novel cg"]),
        ("anime wallpaper", "recent", ["anime wallpaper"]),
        ("danbooru", "recent", []),
        ("image board", None, []),
    ]


def test_a_caption_composed_before_keeps_its_custom_tags():
    (found,) = told({"side_tags": ["1girl", "Full Name (abc)", "visual novel cg"]})
    assert (found["source"], found["custom"]) == ("visual novel cg", ["Full Name (abc)", "visual novel cg"])


def test_custom_rules_add_tags_by_folder_or_field_and_leave_out_what_lacks_a_value():
    settings = RulesSettings(
        custom=(
            Rule(folders=("pixel_*",), tags=("pixel art",)),
            Rule(field="meta.event", values=("comi*",), tags=("{meta.event}",)),
            Rule(field="artist", tags=("by {artist} of {circle}", "by {artist} | nobody")),
            Rule(folders=("sets",), tags=("{folder}",)),
        )
    )
    found = told(
        {"path": "a/Pixel_Art/b.png"},
        {"side_extra": json.dumps({"meta": {"event": "Comiket 99"}})},
        {"side_artist": ["A", "B"]},
        {"path": "sets/some_set/b.png"},
        {"path": "sets/b.png"},
        {"side_extra": "not json"},
        settings=settings,
    )
    assert [one["custom"] for one in found] == [["pixel art"], ["Comiket 99"], ["by A", "by B"], ["some set"], [], []]


def test_commas_and_markup_of_strangers_stay_inside_one_tag():
    (found,) = told({"side_site": "pixiv", "side_artist": ["<script>alert(1)</script>, Ltd\n{evil}"]})
    assert found["custom"] == ["art by <script>alert(1)</script> Ltd {evil}"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (RulesSettings(eras=(Era("a", 2000), Era("b", 2010))), "do not descend"),
        (RulesSettings(sources=(Source(folders=("x",)),)), "no name"),
        (RulesSettings(custom=(Rule(tags=("x",)),)), "matches nothing"),
        (RulesSettings(custom=(Rule(("x",), tags=("{",)),)), "template"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Rules(settings)


def test_columns_of_skipped_steps_may_be_null():
    step = Rules()
    step.setup()
    columns = [pa.array(["a.png"]) if name == "path" else pa.nulls(1) for name in step.reads]
    assert step.process(pa.record_batch(columns, names=list(step.reads))).to_pylist()[0]["source"] == "image board"


def test_many_folders_do_not_make_the_rules_forget():
    pictures = [{"path": f"{i}/pixiv/a.png", "side_artist": [f"n{i}"]} for i in range(3000)]
    assert [one["custom"] for one in told(*pictures)] == [[f"art by n{i}"] for i in range(3000)]


TEXTS = st.sampled_from(["newest", "oldest", "visual novel cg", "art by me", "Full_Name (abc)", "A", "b, c", "comic", ""])
EXTRA = st.sampled_from([
    None, "not json", "[1]", '{"title": "Full, Name", "short": "abc"}', '{"title": "T", "short": ""}',
    '{"meta": {"event": "Comiket 99"}}', '{"meta": "text", "n": 0}', '{"n": ["x", 1.5, true, null, ""]}',
])  # fmt: skip
FOLDERS = st.sampled_from(["pixiv", "PIXIV.tar", "visual_novel_cg", "Name (abc)", "mid", "Newest", "sets", "x.tar::early", "x"])
PICTURES = st.fixed_dictionaries({
    "path": st.lists(FOLDERS, max_size=3).map(lambda names: "/".join([*names, "a.png"])),
    **dict.fromkeys(LISTS, st.none() | st.lists(TEXTS, max_size=3)),
    "side_site": st.sampled_from([None, "", "pixiv", "danbooru"]),
    "side_date": st.sampled_from([None, "", "2020-01-01", "1999", "1800-01-01", "soon", "\u0661\u0669\u0669\u0669"]),
    "group_date": st.sampled_from([None, "2012-01-01"]),
    "side_extra": EXTRA,
})  # fmt: skip
CUSTOM = (
    Rule(folders=("sets", "P*"), tags=("{folder}", "in a set")),
    Rule(field="meta.event", values=("comi*",), tags=("{meta.event} of {artist} | {meta.event}",)),
    Rule(field="tags", values=("a", "b*"), tags=("{tags} {site}", "{n} | {date}")),
    Rule(field="n", tags=("n {n}",)),
    Rule(field="series", values=("*",), tags=("{series} by {artist} | {series}",)),
)
DATED = Source(name="kept", field="site", values=("danbooru",), dated=True, keep=("a*", "full name*"), tags=("{artist}",))
SETTINGS = st.sampled_from([
    RulesSettings(),
    RulesSettings(custom=CUSTOM),
    RulesSettings(eras=(Era("new", 2020, ("n*",)), Era("newest", 1900)), sources=(*CARD_SOURCES, DATED), custom=CUSTOM,
                  other="web"),
    RulesSettings(sources=()),
])  # fmt: skip


@tries(max_examples=40, deadline=None)
@given(st.lists(PICTURES, max_size=6), SETTINGS)
def test_all_at_once_is_as_plainly_one_by_one(pictures, settings):
    assert told(*pictures, settings=settings) == [compose_plainly.judge(picture, settings) for picture in pictures]
