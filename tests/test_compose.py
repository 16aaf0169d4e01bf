"""A caption has the card's groups in the card's order, each tag once, by rules that are data."""

import json

import compose_plainly
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.config import build, plain
from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.compose.step import Compose, ComposeSettings, Repeat, check, spoken
from sotediffusion.curate.compose.tagrules import GROUPS, TagSettings
from sotediffusion.types import UserError

FULL = {
    "score_aesthetic_shadow_v2": 0.95,
    "score_aes_b32_v0": 0.99,
    "date": "newest",
    "rating": "general",
    "custom": ["art by X"],
    "character": ["saber"],
    "series": ["fate"],
    "general": ["1girl", "smile"],
    "text": "Hi, there",
    "monochrome": True,
}


def composed(*pictures: dict, settings: ComposeSettings = ComposeSettings()) -> list[dict]:
    step = Compose(settings)
    step.setup()
    columns = [pa.array([picture.get(f.name) for picture in pictures], f.type) for f in step.columns]
    return step.process(pa.record_batch(columns, schema=step.columns)).to_pylist()


def lines(*pictures: dict, **tags) -> list[str]:
    return [spoken(made["caption"]) for made in composed(*pictures, settings=ComposeSettings(tags=TagSettings(**tags)))]


def test_groups_come_in_the_cards_order():
    (made,) = composed(FULL)
    assert [part["group"] for part in made["caption"]] == list(GROUPS)
    assert spoken(made["caption"]) == (
        "extremely aesthetic, best quality, newest, art by X, general, saber, fate, 1girl, smile, monochrome, "
        'The text says "Hi. there"'
    )


def test_a_picture_without_anything_has_an_empty_caption_and_is_kept():
    assert composed({}) == [{"aesthetic": None, "quality": None, "caption": [], "repeats": 1, "drop_compose": None}]


def test_the_best_are_seen_five_times_more_and_a_score_at_the_cut_is_not():
    scores = [0.90, 0.91, None]
    assert [made["repeats"] for made in composed(*({"score_aesthetic_shadow_v2": s} for s in scores))] == [1, 6, 1]
    none = ComposeSettings(repeats=())
    assert composed({"score_aesthetic_shadow_v2": 0.99}, settings=none)[0]["repeats"] == 1


def test_a_tag_that_a_longer_one_says_is_left_out():
    general = ["shirt", "white shirt", "no hat", "hat", "hair", "long hair", "ears"]
    assert lines({"general": general}) == ["white shirt, no hat, hat, long hair, ears"]
    assert lines({"general": ["shirt", "white shirt"]}, implied="none") == ["shirt, white shirt"]


def test_implications_follow_each_other_and_reach_from_characters_to_their_features():
    table = {"boots": ("footwear",), "saber": ("blonde hair",)}
    found = lines({"general": ["footwear", "red boots", "blonde hair", "smile"], "character": ["saber"]}, implications=table)
    assert found == ["saber, red boots, smile"]


def test_words_of_the_scheme_are_said_by_their_groups_only():
    told = ["newest", "best quality", "very displeasing", "general", "explicit", "1girl"]
    assert lines({"general": told, "date": "oldest"}) == ["oldest, 1girl"]


def test_renamed_tags_merge_and_blacklisted_ones_go_everywhere():
    found = lines(
        {"general": ["grin", "smirk", "smile", "bad hands"], "custom": ["art by X"]},
        rename={"grin": "smile", "smirk": "smile"},
        blacklist=("bad *", "art by ?"),
    )
    assert found == ["smile"]


def test_a_comma_or_a_line_break_cannot_end_a_tag():
    assert lines({"general": ["a,b", "c\nd", " , "]}) == ["a b, c d"]


def test_text_of_an_earlier_caption_gives_way_to_what_was_read():
    old = {"general": ['The text says "no"', "a"]}
    assert lines(old, {**old, "text": "yes"}) == ['a, The text says "no"', 'a, The text says "yes"']


def test_pictures_with_too_few_tags_are_dropped_where_that_is_asked():
    settings = ComposeSettings(least=2)
    made = composed({"general": ["a"], "date": "newest"}, {"general": ["a"], "character": ["b"]}, settings=settings)
    assert [one["drop_compose"] for one in made] == ["few tags: less than 2", None]


def test_dropout_goes_along_as_data_and_every_setting_is_in_the_identity():
    step = Compose(ComposeSettings(dropout={"character": 0.1}))
    assert json.loads(step.writes.field("caption").metadata[b"dropout"]) == {"character": 0.1}
    assert step.identity() != Compose().identity()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ComposeSettings(dropout={"charakter": 0.1}), "character"),
        (ComposeSettings(dropout={"rest": 2.0}), "give 0 to 1"),
        (ComposeSettings(repeats=(Repeat(extra=-1),)), "extra"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        check(settings)


@pytest.mark.parametrize(
    "tags",
    [
        {"rename": {"a": "b", "b": "c"}},
        {"implications": {"a": ("b",), "b": ("a",)}},
        {"implications": {"shirt": ("white shirt",)}},
    ],
)
def test_rules_in_chains_and_circles_are_refused(tags):
    with pytest.raises(UserError):
        lines({}, **tags)


TAGS = st.none() | st.lists(st.sampled_from([
    "a", "b", "red a", "big red a", "b a", "no a", "newest", "x, y", " ", "bad b", 'The text says "no"', 'The text says "not"',
]), max_size=8)  # fmt: skip
SCORES = st.sampled_from([None, float("nan"), 0.05, 0.5, 0.9, 0.95, 0.99])
PICTURES = st.fixed_dictionaries({
    **dict.fromkeys(("general", "custom", "character", "series"), TAGS),
    **dict.fromkeys(("score_aesthetic_shadow_v2", "score_aes_b32_v0"), SCORES),
    "date": st.sampled_from([None, "newest", "a"]),
    "rating": st.sampled_from([None, "general", "nsfw"]),
    "text": st.sampled_from([None, "", "Hi, you"]),
    "monochrome": st.sampled_from([None, True, False]),
})  # fmt: skip
RULES = st.sampled_from([
    TagSettings(),
    TagSettings(implied="none"),
    TagSettings(rename={"red a": "b", "a": "Z"}, blacklist=("bad *", "no?a"), implications={"b": ("Z",), "x y": ("b",)}),
])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(PICTURES, max_size=6), RULES, st.integers(0, 2))
def test_all_at_once_is_as_plainly_one_by_one_and_nothing_is_said_twice(pictures, rules, least):
    wanted = ComposeSettings(tags=rules, least=least)
    step = Compose(wanted)
    step.setup()
    for some in (pictures, pictures[::-1]):  # what a step has learned changes nothing
        columns = [pa.array([picture.get(f.name) for picture in some], f.type) for f in step.columns]
        found = step.process(pa.record_batch(columns, schema=step.columns)).to_pylist()
        captions = [compose_plainly.caption(picture, wanted, step.rules) for picture in some]
        assert [made["caption"] for made in found] == captions
        counts = [sum(len(part["tags"]) for part in one if part["group"] in ("character", "series", "rest")) for one in captions]
        assert [made["drop_compose"] is None for made in found] == [count >= least for count in counts]
        for one in captions:
            said = [tag for part in one if part["group"] != "text" for tag in part["tags"]]
            assert len(said) == len(set(said))


def test_the_cards_preset_writes_out_the_defaults():
    from sotediffusion.cli.curate import read_preset
    from sotediffusion.curate.pipeline import resolve

    assert read_preset("card", ()) == resolve({})
    assert read_preset("miniature", ())["compose"].aesthetic.cuts == ComposeSettings().aesthetic.cuts


def test_settings_survive_being_written_down():
    for kind in (ComposeSettings, RulesSettings):
        assert build(kind, plain(kind())) == kind()
