"""Dates, sources and custom tags follow from folders and sidecars by rules that are data."""

import json

import pyarrow as pa
import pytest

from sotediffusion.curate.compose.rules import Era, Rule, Rules, RulesSettings, Source
from sotediffusion.types import UserError

LISTS = ("side_artist", "side_series", "side_tags", "side_general", "side_meta")


def told(*pictures: dict, settings: RulesSettings = RulesSettings()) -> list[dict]:
    step = Rules(settings)
    kinds = {name: pa.list_(pa.string()) if name in LISTS else pa.string() for name in step.reads}
    columns = [pa.array([{"path": "a.png", **picture}.get(name) for picture in pictures], kinds[name]) for name in step.reads]
    return step.process(pa.record_batch(columns, names=list(step.reads))).to_pylist()


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
    columns = [pa.array(["a.png"]) if name == "path" else pa.nulls(1) for name in step.reads]
    assert step.process(pa.record_batch(columns, names=list(step.reads))).to_pylist()[0]["source"] == "image board"


def test_many_folders_do_not_make_the_rules_forget():
    pictures = [{"path": f"{i}/pixiv/a.png", "side_artist": [f"n{i}"]} for i in range(3000)]
    assert [one["custom"] for one in told(*pictures)] == [[f"art by n{i}"] for i in range(3000)]
