"""Claims about captions: they follow from the sample's key, keep what shall be kept, and become the tokens that drawing makes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.text.prompt import chunk_prompt, escape
from sotediffusion.text.tokenizer import ClipTokenizer
from sotediffusion.train import captions
from sotediffusion.train.captions import Captioning, CaptionSettings, Chunker, compose, split_tags
from sotediffusion.train.kohya_captions import KohyaCaptions, process
from sotediffusion.train.loss import CAPTION_STREAM, generator
from sotediffusion.train.samples import Part, from_groups
from sotediffusion.train.wording import Wording, part_settings
from sotediffusion.types import UserError

GROUPS = {
    "quality": ["best quality"],
    "custom": ["art by x"],
    "rest": [f"tag {i}" for i in range(20)],
    "text": ['The text says "a. b"'],
}
ALL = [tag for tags in GROUPS.values() for tag in tags]
TOKENIZER = ClipTokenizer()

# What sd-scripts' process_caption makes of a caption in an epoch (from 0) at a step with these options.
KOHYA = [
    ("a,b ,  c", 0, 0, {}, "a,b ,  c"),
    (" a,b,,c, ", 0, 9, {"token_warmup_step": 5}, "a, b, , c, "),
    ("a, b, c", 0, 0, {"caption_prefix": "best quality,", "caption_suffix": "end"}, "best quality, a, b, c end"),
    ("a, b", 0, 0, {"caption_dropout_rate": 1.0}, ""),
    ("a, b, c", 1, 0, {"caption_dropout_every_n_epochs": 2}, ""),
    ("a, b, c", 0, 0, {"caption_dropout_every_n_epochs": 2}, "a, b, c"),
    ("a, b, c, d", 0, 0, {"caption_tag_dropout_rate": 1.0, "keep_tokens": 2}, "a, b"),
    ("a, b, c, d", 0, 0, {"caption_tag_dropout_rate": 1.0}, ""),
    ("x, y ||| b, , c", 0, 9, {"keep_tokens_separator": "|||", "token_warmup_step": 4}, "x, y, b, c"),
    ("x, y ||| b, c", 0, 0, {"keep_tokens_separator": "|||"}, "x, y ||| b, c"),
    ("x, y ||| b, c", 0, 0, {"keep_tokens_separator": "|||", "caption_tag_dropout_rate": 1.0}, "x, y"),
    ("a;b; c", 0, 3, {"caption_separator": ";", "token_warmup_step": 3}, "a, b, c"),
    ("a, b, c, d, e, f", 0, 0, {"token_warmup_step": 10}, "a"),
    ("a, b, c, d, e, f", 0, 4, {"token_warmup_step": 10}, "a, b, c"),
    ("a, b, c, d, e, f", 0, 4, {"token_warmup_step": 10, "token_warmup_min": 2, "keep_tokens": 1}, "a, b, c, d"),
    ("a, b, c, d, e, f", 0, 9, {"token_warmup_step": 10}, "a, b, c, d, e"),
    ("a, b, c, d, e, f", 0, 10, {"token_warmup_step": 10}, "a, b, c, d, e, f"),
    ('1girl, The text says "a, b"', 0, 1, {"token_warmup_step": 1}, '1girl, The text says "a, b"'),
    ("", 0, 0, {"caption_prefix": "p"}, "p "),
    ("", 0, 1, {"token_warmup_step": 1}, ""),
    ("a, b", 0, 0, {"keep_tokens": 5, "caption_tag_dropout_rate": 1.0}, "a, b"),
    ("a|||b", 0, 0, {"keep_tokens_separator": "|||", "caption_tag_dropout_rate": 1.0, "caption_prefix": "p,"}, "p, a"),
]  # fmt: skip


def readings(settings, count=2000, groups=GROUPS):
    return [compose(groups, (0, 0, number), settings) for number in range(count)]


@given(st.dictionaries(st.text("ab", min_size=1, max_size=2), st.lists(st.text("xyz", min_size=1, max_size=3), max_size=6)),
       st.integers(0, 10_000))  # fmt: skip
def test_the_miniatures_captions_are_what_they_were(tags, number):
    settings, key = Captioning(), (0, 0, number)
    rng = generator(*key, CAPTION_STREAM)
    pool = [tag for group in tags.values() for tag in group]
    wanted = []
    if not rng.random() < settings.dropout:
        share = 1.0 if rng.random() < settings.whole else rng.uniform(settings.least, 1.0)
        kept = [tag for tag in pool if rng.random() < share]
        wanted = [kept[i] for i in rng.permutation(len(kept))]
    assert compose(tags, key, settings) == wanted


def test_a_caption_has_all_its_tags_in_an_order_of_its_own_or_is_dropped_at_its_rate():
    found = readings(CaptionSettings())
    assert found.count([]) / len(found) == pytest.approx(0.05, abs=0.015)
    kept = [tags for tags in found if tags]
    assert all(sorted(tags) == sorted(ALL) for tags in kept) and len({tuple(tags) for tags in kept}) == len(kept)
    firsts = Counter(tags[0] for tags in kept)
    assert len(firsts) == len(ALL) and max(firsts.values()) < 3 * len(kept) / len(ALL)


def test_kept_tags_and_groups_stay_in_front_and_are_never_left_out():
    settings = CaptionSettings(dropout=0, keep_groups=("quality", "custom"), drop_tags={"rest": 0.5, "quality": 1.0})
    assert all(tags[:2] == ["best quality", "art by x"] for tags in readings(settings, 100))
    first = CaptionSettings(dropout=0, keep_tags=3, whole=0.0)
    assert all(tags[:3] == ["best quality", "art by x", "tag 0"] for tags in readings(first, 100))


def test_a_fixed_order_is_the_captions_own():
    assert readings(CaptionSettings(dropout=0, order="fixed"), 3) == [ALL] * 3


def test_tags_and_groups_are_left_out_at_their_rates():
    settings = CaptionSettings(dropout=0, order="fixed", drop_tags={"rest": 0.3}, drop_groups={"text": 0.6, "custom": 0.2})
    found = readings(settings)
    counts = Counter(tag for tags in found for tag in tags)
    assert sum(counts[tag] for tag in GROUPS["rest"]) / (20 * len(found)) == pytest.approx(0.7, abs=0.01)
    assert counts[GROUPS["text"][0]] / len(found) == pytest.approx(0.4, abs=0.04)
    assert counts["art by x"] / len(found) == pytest.approx(0.8, abs=0.03) and counts["best quality"] == len(found)


def test_prose_stands_for_the_tags_at_its_rate():
    found = [compose(GROUPS, (0, 0, n), CaptionSettings(dropout=0, prose=0.25), "A girl.") for n in range(2000)]
    assert found.count(["A girl."]) / 2000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("line", "epoch", "step", "options", "wanted"), KOHYA)
def test_kohyas_rules_make_of_a_caption_what_kohyas_trainer_makes(line, epoch, step, options, wanted):
    assert process(line, KohyaCaptions(**options), np.random.default_rng(0), epoch, step) == wanted


def test_kohyas_shuffle_keeps_the_first_tags_and_drops_the_rest_at_its_rate():
    line, settings = "a, b, " + ", ".join(map(str, range(30))), KohyaCaptions(shuffle_caption=True, keep_tokens=2)
    found = [process(line, settings, np.random.default_rng(i), 0, 0).split(", ") for i in range(300)]
    assert all(tags[:2] == ["a", "b"] and sorted(tags[2:]) == sorted(map(str, range(30))) for tags in found)
    assert len({tuple(tags) for tags in found}) == 300
    thinned = KohyaCaptions(caption_tag_dropout_rate=0.25, keep_tokens=2)
    counts = [len(process(line, thinned, np.random.default_rng(i), 0, 0).split(", ")) - 2 for i in range(1000)]
    assert np.mean(counts) / 30 == pytest.approx(0.75, abs=0.02)


def test_a_line_is_parted_at_commas_outside_quotes():
    assert split_tags('1girl,  The text says "a, b", x,, "y') == ["1girl", 'The text says "a', 'b"', "x", '"y']
    assert split_tags('1girl,  The text says "a, b", x,,') == ["1girl", 'The text says "a, b"', "x"]
    assert split_tags(" , ") == []


def wording(rows, settings, parts=(Part("all"),), **more):
    records = [{"path": "p", "content": bytes(16), "width": 1, "height": 1} | row for row in rows]
    return Wording(from_groups(records, parts, "here"), settings, TOKENIZER, **more)


def test_a_row_is_worded_by_its_tags_or_its_line_and_by_the_settings_of_its_part():
    rows = [{"tags": {"rest": ["a", "b"]}, "text": "prose"}, {"text": 'c, "d, e", f'}, {"text": "g, h", "part": 1}]
    parts = (Part("one"), Part("two", {"caption_prefix": "p,", "shuffle_caption": False}))
    worded = wording(rows, CaptionSettings(dropout=0, order="fixed"), parts)
    assert [worded.text(row, (0, 0, row), 0) for row in range(3)] == ["a, b", 'c, "d, e", f', "p, g, h"]


def test_kohyas_recipe_reads_a_catalogues_groups_as_one_line():
    worded = wording([{"tags": GROUPS, "text": "prose"}], CaptionSettings("kohya", kohya=KohyaCaptions(keep_tokens=1)))
    assert worded.text(0, (0, 0, 0), 0) == ", ".join(ALL)


def test_a_part_with_kohyas_options_keeps_the_runs_caption_dropout_unless_it_says_otherwise():
    settings = CaptionSettings(dropout=0.2)
    assert part_settings(settings, {}) == settings
    assert part_settings(settings, {"shuffle_caption": True}).kohya.caption_dropout_rate == 0.2
    assert part_settings(settings, {"caption_dropout_rate": 0}).kohya.caption_dropout_rate == 0
    assert part_settings(settings, {"drop_groups": {"text": 0.5}}).drop_groups == {"text": 0.5}


@given(st.lists(st.text("abc ,()\"'0_é|:", min_size=1, max_size=12), max_size=60), st.integers(1, 4),
       st.sampled_from(["masked", "unmasked", "sote"]))  # fmt: skip
def test_tokens_are_those_of_the_first_chunks_that_drawing_makes_of_the_same_words(tags, count, text_mask):
    text = " ".join(", ".join(tags).split())
    wanted = chunk_prompt(escape(text), TOKENIZER, text_mask)[:count]
    tokens, mask = Chunker(TOKENIZER, text_mask, count).encode([text, ""])
    assert tokens.shape == mask.shape == (2, len(wanted), 77)
    assert [tuple(row) for row in tokens[0].tolist()] == [chunk.tokens for chunk in wanted]
    assert [tuple(row) for row in mask[0].tolist()] == [chunk.mask for chunk in wanted]


def test_kohyas_chunks_are_cut_at_75_tokens_and_always_as_many():
    text = ", ".join(f"colour {n}" for n in range(60))
    ids = TOKENIZER.encode(text)
    chunks = Chunker(TOKENIZER, "unmasked", 3, plain=True).chunks(text)
    assert chunks == [ids[:75], ids[75:150], ids[150:225]] and len(ids) > 180
    tokens, mask = Chunker(TOKENIZER, "unmasked", 3, plain=True).encode(["1girl"])
    empty = [TOKENIZER.bos, TOKENIZER.eos, *[TOKENIZER.pad] * 75]
    assert tokens.shape == (1, 3, 77) and tokens[0, 1:].tolist() == [empty] * 2 and mask.all()


def test_settings_that_cannot_be_meant_are_refused_by_name():
    for settings, words in (
        (CaptionSettings("sdxl"), "captions.form"),
        (CaptionSettings(dropout=1.5), "captions.dropout"),
        (CaptionSettings(drop_groups={"text": -1}), "drop_groups.text"),
        (CaptionSettings(chunks=0), "chunks"),
        (CaptionSettings(order="sorted"), "captions.order"),
        (CaptionSettings("kohya", keep_tags=1), "captions.keep_tags: it means nothing"),
        (CaptionSettings("kohya", dropout=0.1), "captions.dropout: it means nothing"),
        (CaptionSettings(kohya=KohyaCaptions(keep_tokens=1)), "captions.kohya: it means nothing"),
    ):
        with pytest.raises(UserError, match=words):
            captions.check(settings)
    for own in ({"token_warmup_step": 0.5}, {"caption_separator": " "}, {"caption_tag_dropout_rate": 2}):
        with pytest.raises(UserError, match=next(iter(own))):
            part_settings(CaptionSettings(), own)
