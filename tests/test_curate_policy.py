"""What is sexual with minors is dropped wherever the curation learns of it, by the one rule; nothing else is."""

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.cli.curate import read_preset
from sotediffusion.cli.curate_models import stand_ins
from sotediffusion.curate import pipeline
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.policy import SEEN, PolicyStep, TagPolicyStep, refuses, rule_digest
from sotediffusion.curate.tag.step import TagStep
from sotediffusion.curate.tag.taglist import TagList
from sotediffusion.safety import terms
from sotediffusion.safety.policy import check_tags
from sotediffusion.types import UserError

NAMES = ("general", "sensitive", "questionable", "explicit", "1girl", "child", "loli", "nude", "smile")
SIDE = {"path": "a/b.png", "drop_scan": None, "side_tags": None, "side_general": None, "side_character": None,
        "side_series": None,
        "side_meta": None, "side_rating": None, "side_text": None}  # fmt: skip


def answer(step, **given):
    row = {name: None for name in step.reads} | {name: value for name, value in SIDE.items() if name in step.reads} | given
    lists = {"tag_ids": pa.list_(pa.uint16()), "tag_probs": pa.list_(pa.float16()), "rating_probs": pa.list_(pa.float32(), 4)}
    kinds = {name: lists.get(name, pa.list_(pa.string()) if name.startswith("side_") else pa.string()) for name in step.reads}
    kinds |= {name: pa.string() for name in ("side_rating", "side_text") if name in kinds}
    batch = pa.RecordBatch.from_pylist([row], schema=pa.schema([(name, kinds[name]) for name in step.reads]))
    return step.process(batch).column(0).to_pylist()[0]


@pytest.mark.parametrize(("row", "dropped"), [
    ({}, False),
    ({"side_tags": ["1girl", "smile"], "side_rating": "e"}, False),
    ({"side_tags": ["child", "smile"], "side_rating": "g"}, False),
    ({"side_tags": ["child"], "side_rating": "e"}, True),
    ({"side_tags": ["child"], "side_rating": "s"}, True),
    ({"side_general": ["child"], "side_tags": ["nude"]}, True),
    ({"side_character": ["shota_(character)"]}, True),
    ({"side_meta": ["lolicon"]}, True),
    ({"side_text": "a naked child"}, True),
    ({"side_text": "a child, playing"}, False),
    ({"path": "x/loli nude.png"}, True),
    ({"path": "set.tar::x/loli_01.png"}, True),
    ({"path": "little girls/nude/b.png"}, False),
    ({"drop_scan": "policy"}, True),
    ({"drop_scan": "unreadable: damaged", "side_tags": ["loli"]}, True),
])  # fmt: skip
def test_what_sidecars_say(row, dropped):
    assert (answer(PolicyStep(), **row) == "policy") is dropped


@pytest.mark.parametrize(("tags", "ratings", "side", "dropped"), [
    ({"1girl": 0.9}, (0.0, 0.1, 0.2, 0.7), {}, False),
    ({"child": 0.3}, (0.9, 0.0, 0.0, 0.1), {}, False),
    ({"child": 0.3}, (0.1, 0.0, 0.2, 0.7), {}, True),
    ({"child": 0.2}, (0.1, 0.0, 0.2, 0.7), {}, False),
    ({"child": 0.3}, (0.6, 0.0, 0.0, 0.3), {}, True),
    ({"child": 0.9}, (0.2, 0.3, 0.2, 0.2), {}, True),
    ({"loli": 0.26}, (1.0, 0.0, 0.0, 0.0), {}, True),
    ({"nude": 0.5}, (0.9, 0.0, 0.0, 0.0), {"side_tags": ["child"]}, True),
    ({"child": 0.5}, (0.9, 0.0, 0.0, 0.0), {"side_rating": "q"}, True),
    ({}, (1.0, 0.0, 0.0, 0.0), {}, False),
])  # fmt: skip
def test_what_the_tagger_sees(tags, ratings, side, dropped):
    step = TagPolicyStep(TagList(NAMES, ("9",) * 4 + ("0",) * 5, (0,) * 9, "hash"))
    given = {
        "tag_ids": [NAMES.index(name) for name in tags],
        "tag_probs": list(tags.values()),
        "rating_probs": list(ratings),
        **side,
    }
    assert (answer(step, **given) == "policy") is dropped
    assert answer(step, **{**given, "tag_ids": None, "tag_probs": None, "rating_probs": None, "side_tags": None}) is None


@pytest.mark.parametrize("floor", ["0.26", "0.9"])
def test_a_floor_that_would_hide_tags_from_the_policy_is_refused_before_anything_is_opened(tmp_path, floor):
    settings = read_preset("miniature", (f"tag.floor={floor}",))
    with pytest.raises(UserError, match="^tag.floor: .* would hide tags from the policy, .* up to 0.25"):
        pipeline.run(pipeline.Order(str(tmp_path / "no source"), str(tmp_path / "cat"), settings, tmp_path, 1), lambda _: None)
    assert not (tmp_path / "cat").exists()
    with pytest.raises(UserError, match="^tag.floor"):
        TagStep(settings["tag"], stand_ins())
    TagStep(replace(settings["tag"], floor=SEEN), stand_ins())


def test_both_steps_erase_and_neither_can_be_set():
    steps = [PolicyStep(), TagPolicyStep(TagList(NAMES, ("9",) * 9, (0,) * 9, "hash"))]
    assert all(step.erases for step in steps) and steps[0].sees_dropped
    assert {step.identity()["rule"] for step in steps} == {rule_digest()}
    assert 0 < SEEN <= 0.35


words = st.sampled_from([*terms.MINORS[:60], *terms.SEXUAL[:60], *terms.SEXUALISED_MINORS[:20], *terms.SEXUAL_TAGS, "1girl",
                         "long_hair",
                         "12", "years old", "school", "a", "b", "general", "sensitive", "explicit", "c h i l d",
                         "child_(character)"])  # fmt: skip


@given(st.lists(words, max_size=6))
def test_the_quick_look_is_the_whole_rule(tags):
    assert refuses(tags) is (check_tags(tags) is not None)


@pytest.mark.parametrize("step", ["text", "prose"])
@pytest.mark.parametrize(("url", "host"), [
    ("http://10.0.0.7:8000/v1", "10.0.0.7"), ("https://key:word@api.example.com/v1", "api.example.com"),
    ("http://127.0.0.1.example.com/v1", "127.0.0.1.example.com"), ("http://[2001:db8::1]/v1", "2001:db8::1"),
    ("http://127.0.0.1:8000/v1", None), ("http://localhost/v1", None), ("http://[::1]:8000/v1", None),
])  # fmt: skip
def test_no_picture_leaves_the_machine_before_the_policy_has_read_its_tags(tmp_path, step, url, host):
    settings = read_preset("miniature", (f"{step}.backend=endpoint", f'{step}.endpoint.url="{url}"'))
    places = pipeline.Places(None, Store(tmp_path), stand_ins(), {})
    skip = ("score", "dedupe", "tag")
    if host is None:
        assert step in [one.name for one in pipeline.chain(settings, places, skip)]
        return
    sentence = f"{step}.backend: 'endpoint' would send pictures to {host} before .*--skip {step}"
    with pytest.raises(UserError, match=sentence) as said:
        pipeline.chain(settings, places, skip)
    assert "word" not in str(said.value)
    assert step not in [one.name for one in pipeline.chain(settings, places, (*skip, step))]
    if "@" not in url:
        assert step in [one.name for one in pipeline.chain(settings, places, skip[:2])]
