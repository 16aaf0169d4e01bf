"""The prompt language reads what it writes, and no token is lost on the way into chunks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.text.prompt import (
    CHUNK,
    MAX_CHUNKS,
    Segment,
    chunk_pair,
    chunk_prompt,
    escape,
    expand_wildcards,
    negative_weights,
    pad_chunks,
    parse,
    plain_text,
)
from sotediffusion.text.tokenizer import ClipTokenizer
from sotediffusion.types import UserError

CLIP = ClipTokenizer()
CARD = (
    "newest, extremely aesthetic, best quality, general, 1girl, solo, cat ears, pink hair, orange eyes, long hair, "
    "bare shoulders, looking at viewer, smile, indoors, casual, living room, playing guitar"
)
printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=60)
language = st.text("ab ,:.()[]{}|\\-01\n", max_size=60)


def read(prompt):
    return [(segment.text, segment.weight) for section in parse(prompt) for segment in section]


@pytest.mark.parametrize(
    ("prompt", "segments"),
    [
        ("cat", [("cat", 1.0)]),
        ("(cat:1.2)", [("cat", 1.2)]),
        ("(cat: .5 )", [("cat", 0.5)]),
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 0.909091)]),
        ("([cat])", [("cat", 1.0)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3.0), (" c", 1.5)]),
        ("((a:1.2):1.5)", [("a", 1.8)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:0) b", [("a", 0.0), (" b", 1.0)]),
        (r"\(cat\)", [("(cat)", 1.0)]),
        (r"(saber \(fate\):1.3)", [("saber (fate)", 1.3)]),
        (r"(a\:1.2)", [("a:1.2", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.2", [("(:1.2", 1.0)]),
        ("a) b", [("a) b", 1.0)]),
        ("((a)", [("(", 1.0), ("a", 1.1)]),
        ("(a [b)", [("a [b", 1.1)]),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1.0)]),
        ("[a:0.5]", [("a:0.5", 0.909091)]),
        (r"\o/ \\", [("\\o/ \\", 1.0)]),
        ("", []),
        ("()", []),
    ],
)
def test_weights_are_read(prompt, segments):
    assert read(prompt) == segments


@given(printable)
def test_an_escaped_text_reads_as_itself(text):
    assert "".join(part for part, _ in read(escape(text))) == (text if text.strip() else "")
    assert {weight for _, weight in read(escape(text))} <= {1.0}


@given(printable, st.integers())
def test_an_escaped_text_holds_no_wildcard(text, seed):
    assert expand_wildcards(escape(text), seed) == escape(text)


@given(language)
def test_every_prompt_is_read_or_refused_in_a_sentence(prompt):
    try:
        sections = parse(prompt)
    except UserError as error:
        assert "too strong" in error.message
    else:
        assert all(segment.text.strip() for section in sections for segment in section)


def test_the_same_seed_chooses_the_same_on_every_machine():
    assert "".join(expand_wildcards("{a|b|c}", seed) for seed in range(12)) == "baaaaccbabcb"


def test_wildcards_choose_among_all_their_choices_nested_ones_too():
    found = {expand_wildcards("{red|{dark |light }blue|} hair", seed) for seed in range(60)}
    assert found == {"red hair", "dark blue hair", "light blue hair", " hair"}


@pytest.mark.parametrize("prompt", ["{cat}", "a | b", "{a|b", "a}", r"\{a|b\}", "}{", "{{a|b"])
def test_braces_without_a_choice_are_text(prompt):
    assert {expand_wildcards(prompt, seed) for seed in range(9)} == {prompt}


def test_deep_nesting_is_read_without_recursion():
    assert expand_wildcards("{" * 5000 + "a|b" + "}" * 5000, 1) in ("{" * 4999 + c + "}" * 4999 for c in "ab")
    assert read("[" * 4000 + "a" + "]" * 4000) == [("a", 0.0)]


@pytest.mark.parametrize("prompt", ["a BREAK b", "a\nb", "a\r\n\r\nb", "BREAK a BREAK BREAK b\n"])
def test_break_and_new_lines_start_a_section(prompt):
    assert [[s.text.strip() for s in section] for section in parse(prompt)] == [["a"], ["b"]]


def test_a_weight_reaches_across_a_break():
    assert parse("(a BREAK b:1.3)") == [[Segment("a ", 1.3)], [Segment(" b", 1.3)]]


def test_break_is_a_word_in_capitals():
    assert len(parse("breakfast, BREAKFAST, break")) == 1


def test_negative_weights_are_found():
    assert negative_weights("a, (child:-1), ([b:1.1]:-0.5), (c:0)") == ["child", "b:1.1"]


def test_plain_text_sees_through_brackets():
    assert plain_text(r"lo(li:1.1)\(x\) [a]") == "loli(x) a"


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("(a:11)", "weight 11 on 'a'"),
        ("(" * 9000 + "(a:0)" + ")" * 9000, "weight nan on 'a'"),
        ("a" * 20_001, "20001 characters"),
    ],
)
def test_what_is_too_much_is_refused_under_the_name_of_its_field(prompt, part):
    with pytest.raises(UserError, match=f"^negative: .*{part}"):
        parse(prompt, "negative")


def test_a_prompt_of_too_many_chunks_is_refused():
    with pytest.raises(UserError, match=f"{MAX_CHUNKS} are allowed"):
        chunk_prompt("a BREAK " * 40, CLIP)


def test_a_short_prompt_is_one_chunk_as_transformers_would_pad_it():
    (chunk,) = chunk_prompt(CARD, CLIP)
    text = CLIP.encode(CARD)
    assert chunk.tokens == (49406, *text, *[49407] * (CHUNK - 1 - len(text)))
    assert chunk.mask == tuple(place < len(text) + 2 for place in range(CHUNK))
    assert set(chunk.weights) == {1.0}


def test_an_empty_prompt_is_one_chunk_without_text():
    (chunk,) = chunk_prompt(" \n ", CLIP)
    assert chunk.tokens == (49406, *[49407] * 76) and sum(chunk.mask) == 2


@settings(deadline=None)
@given(st.lists(st.text("abcde (),.'1\u00e9", max_size=12), max_size=120).map(", ".join))
def test_no_token_is_lost_however_long_the_prompt(prompt):
    chunks = chunk_prompt(escape(prompt), CLIP)
    inside = [[t for t, seen in zip(c.tokens, c.mask, strict=True) if seen][1:-1] for c in chunks]
    assert [token for tokens in inside for token in tokens] == CLIP.encode(prompt)
    assert all(len(c.tokens) == len(c.weights) == len(c.mask) == CHUNK for c in chunks)


def test_a_long_prompt_is_cut_after_a_comma():
    first, second = chunk_prompt(", ".join(["long pink hair"] * 20), CLIP)
    comma = CLIP.encode(",")[0]
    assert [t for t, seen in zip(first.tokens, first.mask, strict=True) if seen][-2] == comma
    assert second.tokens[1:4] == tuple(CLIP.encode("long pink hair"))


def test_a_prompt_without_commas_fills_its_chunks():
    assert [sum(chunk.mask) for chunk in chunk_prompt("cat " * 100, CLIP)] == [77, 27]


def test_weights_follow_their_tokens():
    (chunk,) = chunk_prompt("a (pink hair:1.5), b", CLIP)
    assert chunk.weights[:7] == (1.0, 1.0, 1.5, 1.5, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("text_mask", "own", "filler"), [("masked", 3, 2), ("unmasked", 77, 77), ("sote", 3, 77)])
def test_masks_follow_the_convention_of_the_model(text_mask, own, filler):
    wanted, avoided = chunk_pair("a BREAK b", "c", CLIP, text_mask)
    assert [sum(chunk.mask) for chunk in wanted] == [own, own]
    assert [sum(chunk.mask) for chunk in avoided] == [own, filler]
    assert avoided[1].tokens == chunk_prompt("", CLIP)[0].tokens


def test_chunks_that_are_many_enough_stay_as_they_are():
    chunks = chunk_prompt("a BREAK b", CLIP)
    assert pad_chunks(chunks, 1, CLIP) == chunks


def test_an_unknown_mask_convention_is_refused():
    with pytest.raises(UserError, match="'half' is not one of masked, unmasked, sote"):
        chunk_prompt("a", CLIP, "half")
