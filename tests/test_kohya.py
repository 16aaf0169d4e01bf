"""kohya's captions to the byte: the golden table, every flag, and the oddities of its names and files."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.curate.tag.kohya import Flags, Kohya, expanded, replacements, spaced
from sotediffusion.curate.tag.sidecar_tags import Repaired
from sotediffusion.curate.tag.taglist import KAOMOJI, TagList, character_and_series, read_taglist
from sotediffusion.types import UserError

RATINGS = {"general": 0.1, "sensitive": 0.8, "questionable": 0.05, "explicit": 0.02}
GENERAL = {"1girl": 0.9, "long_hair": 0.34999, "^_^": 0.35, "(o)_(o)": 0.6, "||_||": 0.6, "english_text": 0.36}
CHARACTERS = {
    "hatsune_miku": 0.49, "saber_(fate)": 0.5, "artoria_pendragon_(swimsuit_archer)_(fate)": 0.9, "foo_(bar_(baz))": 0.9,
    "kaname_madoka_(ultimate)": 0.9, "a_(b)c)": 0.9,
}  # fmt: skip
PROBABILITIES = np.array([*RATINGS.values(), *GENERAL.values(), *CHARACTERS.values()], np.float32)
TAGS = TagList((*RATINGS, *GENERAL, *CHARACTERS), ("9",) * 4 + ("0",) * 6 + ("4",) * 6, (0,) * 16, "")

CARD = Flags(general_threshold=0.35, character_threshold=0.5, remove_underscore=True, character_tag_expand=True,
             character_tags_first=True, use_rating_tags=True, append_tags=True)  # fmt: skip
G = ("sensitive, a, bc, kaname madoka, ultimate, foo (bar, baz, artoria pendragon (swimsuit archer), fate, saber, fate, "
     "1girl, ^_^, (o) (o), || ||, english text")  # fmt: skip


def caption(flags: Flags, existing: str = "", manner=Kohya, probabilities=PROBABILITIES, tags=TAGS) -> str:
    kohya = manner(flags, tags)
    there = kohya.read(existing.encode()) if flags.append_tags else []
    return kohya.write(kohya.choose(probabilities), there).decode()


@pytest.mark.parametrize(("existing", "result"), [
    ("", f"{G}\n"),
    ("newest, art by X\n", f"newest, art by X, {G}\n"),
    ("1girl,  sensitive , saber, fate\n",
     "1girl, sensitive, saber, fate, a, bc, kaname madoka, ultimate, foo (bar, baz, artoria pendragon (swimsuit archer), fate, "
     "saber, fate, ^_^, (o) (o), || ||, english text\n"),
    ("a\nb, c\n", f"a\nb, c, {G}\n"),
    (f"{G}\n", f"{G}, a, bc, kaname madoka, ultimate, foo (bar, baz, artoria pendragon (swimsuit archer), fate, saber, fate\n"),
])  # fmt: skip
def test_the_cards_flags_write_the_golden_captions(existing, result):
    assert caption(CARD, existing) == result


@pytest.mark.parametrize(("flags", "result"), [
    (Flags(), "1girl, ^_^, (o)_(o), ||_||, english_text, hatsune_miku, saber_(fate), artoria_pendragon_(swimsuit_archer)_(fate), "
              "foo_(bar_(baz)), kaname_madoka_(ultimate), a_(b)c)\n"),
    (Flags(thresh=0.6), "1girl, (o)_(o), ||_||, artoria_pendragon_(swimsuit_archer)_(fate), foo_(bar_(baz)), "
                        "kaname_madoka_(ultimate), a_(b)c)\n"),
    (Flags(thresh=0.99), "\n"),
    (Flags(thresh=0.99, use_rating_tags=True), "sensitive\n"),
    (Flags(thresh=0.9, use_rating_tags_as_last_tag=True, character_threshold=1), "1girl, sensitive\n"),
    (Flags(thresh=0.9, use_rating_tags=True, use_rating_tags_as_last_tag=True, character_threshold=1), "sensitive, 1girl\n"),
    (Flags(thresh=0.9, character_tags_first=True),
     "a_(b)c), kaname_madoka_(ultimate), foo_(bar_(baz)), artoria_pendragon_(swimsuit_archer)_(fate), 1girl\n"),
    (Flags(thresh=0.9, caption_separator="; ", character_threshold=1, use_rating_tags=True), "sensitive; 1girl\n"),
    (Flags(general_threshold=0.36, character_threshold=1), "1girl, (o)_(o), ||_||, english_text\n"),
])  # fmt: skip
def test_flags_write_what_kohyas_flags_write(flags, result):
    assert caption(flags) == result


def with_card(**flags) -> str:
    return caption(Flags(**{**vars(CARD), **flags}))


def test_undesired_tags_are_whole_items_after_all_changes():
    assert with_card(undesired_tags="1girl, english text,saber").endswith("saber, fate, ^_^, (o) (o), || ||\n")
    assert with_card(undesired_tags="sensitive , ").startswith("a, bc, ")
    plain = caption(Flags(undesired_tags="1girl, english text,saber", remove_underscore=True, character_tag_expand=True,
                          use_rating_tags=True))  # fmt: skip
    assert plain.startswith("sensitive, ^_^, (o) (o), || ||, hatsune miku, saber, fate, ")


def test_always_first_tags_come_in_reverse_and_are_not_stripped():
    assert with_card(always_first_tags="1girl,english text").startswith("english text, 1girl, sensitive, ")
    assert with_card(always_first_tags="1girl, english text").startswith("1girl, sensitive, ")
    assert with_card(always_first_tags="1boy,,") == f"{G}\n"


def test_replaced_tags_are_compared_after_the_other_changes():
    flags = Flags(tag_replacement=r"1girl,one girl;saber\, fate,artoria", remove_underscore=True, character_tag_expand=True)
    text = caption(flags)
    assert text.startswith("one girl, ^_^, ")
    assert "hatsune miku, artoria, artoria pendragon" in text
    assert "saber, fate" not in text
    assert caption(Flags(tag_replacement="sensitive,nsfw", thresh=1, use_rating_tags=True)) == "nsfw\n"
    assert replacements(r"a\;b,c;d,e\,f") == [("a;b", "c"), ("d", "e,f")]


@pytest.mark.parametrize("bad", ["a", "a,b,c", "a,b;", ""])
def test_a_replacement_that_is_no_pair_is_an_error(bad):
    with pytest.raises(UserError, match="source,target"):
        caption(Flags(tag_replacement=bad))


def test_a_separator_of_spaces_is_an_error():
    with pytest.raises(UserError, match="caption_separator"):
        caption(Flags(caption_separator="  "))


def test_a_probability_at_the_threshold_passes_in_float32():
    tags = TagList((*RATINGS, "a", "b"), ("9",) * 4 + ("0",) * 2, (0,) * 6, "")
    below = np.nextafter(np.float32(0.35), np.float32(0))
    assert caption(Flags(), probabilities=np.array([0, 0, 0, 0, 0.35, below], np.float32), tags=tags) == "a\n"


def test_the_milder_rating_wins_a_tie():
    even = np.array([0.2, 0.4, 0.4, 0.1], np.float32)
    tags = TagList(tuple(RATINGS), ("9",) * 4, (0,) * 4, "")
    assert caption(Flags(use_rating_tags=True), probabilities=even, tags=tags) == "sensitive\n"


@pytest.mark.parametrize(("name", "item"), [
    ("saber_(fate)", "saber, fate"), ("x_(costume)_(fate)", "x_(costume), fate"), ("foo_(bar_(baz))", "foo_(bar, baz"),
    ("a_(b)c)", "a, bc"), ("kaname_madoka_(ultimate)", "kaname_madoka, ultimate"), ("plain", "plain"), ("b)", ", b"),
    ("x__(y)", "x_, y"), ("_(y)", ", y"),
])  # fmt: skip
def test_characters_expand_like_kohyas(name, item):
    assert expanded(name, ", ") == item


def test_underscores_stay_in_names_of_three_letters_only():
    assert [spaced(name) for name in ("^_^", "o_o", "(o)_(o)", "a_b_", "||_||")] == ["^_^", "o_o", "(o) (o)", "a b ", "|| ||"]


@pytest.mark.parametrize(("picture", "extension", "path"), [
    ("a.png", ".txt", "a.txt"), ("a.png", "txt", "atxt"), ("a.b.jpg", ".caption", "a.b.caption"), ("d.d/a", ".txt", "d.d/a.txt"),
    (".png", ".txt", ".png.txt"),
])  # fmt: skip
def test_captions_are_named_like_kohyas(picture, extension, path, tmp_path):
    assert Kohya(Flags(caption_extension=extension), TAGS).caption_path(tmp_path / picture) == tmp_path / path


def test_kohya_finds_lower_and_upper_endings_only():
    kohya = Kohya(Flags(), TAGS)
    names = ["a.png", "a.PNG", "a.Png", "a.jpeg", "a.WEBP", "a.bmp", "a.avif", "a.gif", ".png", "png"]
    assert [name for name in names if kohya.is_picture(name)] == ["a.png", "a.PNG", "a.jpeg", "a.WEBP", "a.bmp", ".png"]


def test_lines_inside_a_caption_stay_and_the_ends_are_stripped():
    kohya = Kohya(CARD, TAGS)
    assert kohya.read(b"\n\na\r\nb, c,,\n\n") == ["a\nb", "c"]
    with pytest.raises(UnicodeDecodeError):
        kohya.read(b"\xff")


def test_a_tag_that_no_list_names_is_told_of():
    with pytest.raises(UserError, match="neither general nor a character"):
        Kohya(Flags(), TagList((*RATINGS, "x"), ("9",) * 4 + ("3",), (0,) * 5, "")).choose(np.ones(5, np.float32))


# The default manner


def test_a_second_run_of_the_repaired_manner_changes_nothing():
    once = caption(CARD, "newest, art by X\n", Repaired)
    assert once == ("newest, art by X, sensitive, a (b)c), kaname madoka, ultimate, foo, bar (baz), "
                    "artoria pendragon (swimsuit archer), fate, saber, 1girl, ^_^, (o)_(o), ||_||, english text\n")  # fmt: skip
    assert caption(CARD, once, Repaired) == once


def test_the_repaired_manner_knows_brackets_that_are_no_series():
    kept = Repaired(CARD, TAGS, not_series=("ultimate",)).choose(PROBABILITIES).items
    assert "kaname madoka (ultimate)" in kept
    assert "fate" in kept


def test_the_repaired_manner_takes_single_tags_for_what_is_undesired_first_or_replaced():
    assert "saber, " not in caption(Flags(**{**vars(CARD), "undesired_tags": "saber"}), "", Repaired)
    first = caption(Flags(**{**vars(CARD), "always_first_tags": "1girl, fate"}), "", Repaired)
    assert first.startswith("fate, 1girl, sensitive, ")
    assert "Fate, saber" in caption(Flags(**{**vars(CARD), "tag_replacement": "fate,Fate"}), "", Repaired)


def test_without_remove_underscore_the_repaired_manner_keeps_them():
    text = caption(Flags(character_tag_expand=True, thresh=0.5), "", Repaired)
    assert "saber, fate, artoria_pendragon_(swimsuit_archer), foo, bar_(baz), " in text


def test_the_repaired_manner_reads_bom_and_lines_and_gives_the_ending_its_dot(tmp_path):
    manner = Repaired(Flags(caption_extension="txt"), TAGS)
    assert manner.read("\ufeffa, b\nc\r\n".encode()) == ["a", "b", "c"]
    assert manner.caption_path(tmp_path / "a.png") == tmp_path / "a.txt"
    assert manner.is_picture("a.Jpg") and manner.is_picture("a.AVIF")


names = st.text("ab_(),^ ", min_size=1, max_size=8).filter(str.strip)


@given(st.lists(names, max_size=6), st.lists(names, max_size=6), st.text("ab, \n_()", max_size=30), st.booleans(), st.booleans())
def test_the_repaired_manner_is_idempotent_whatever_the_names(general, characters, existing, first, expand):
    tags = TagList((*RATINGS, *general, *characters), ("9",) * 4 + ("0",) * len(general) + ("4",) * len(characters), (), "")
    flags = Flags(append_tags=True, character_tags_first=first, character_tag_expand=expand, use_rating_tags=True,
                  remove_underscore=first)  # fmt: skip
    ones = np.ones(len(tags.names), np.float32)
    once = caption(flags, existing, Repaired, ones, tags)
    assert caption(flags, once, Repaired, ones, tags) == once
    items = [item for item in Repaired(flags, tags).choose(ones).items]
    assert len(items) == len(set(items))


# The list of tags


def table(*rows) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


HEAD = ["tag_id", "name", "category", "count"]
FOUR = [[str(n), name, "9", "0"] for n, name in enumerate(RATINGS)]


def test_a_tag_list_keeps_names_as_they_are(tmp_path):
    path = tmp_path / "selected_tags.csv"
    path.write_bytes(table(HEAD, *FOUR, ["5", 'don\'t_say_"lazy"', "0", "12"], ["6", "a,b", "4", "3", "more"]))
    tags = read_taglist(path)
    assert tags.names[4:] == ('don\'t_say_"lazy"', "a,b")
    assert (tags.of("0"), tags.of("4"), tags.counts[4:]) == (['don\'t_say_"lazy"'], ["a,b"], (12, 3))
    assert len(tags.sha256) == 64


@pytest.mark.parametrize("content", [
    b"", b"name,category\n", table(HEAD, *FOUR[:3]), table(HEAD, ["5", "x", "0", "1"], *FOUR), b"\xff\xfe\x00",
    table(HEAD, *FOUR, ["5"]), table(HEAD, *FOUR, ["5", "x", "9", "1"]),
])  # fmt: skip
def test_what_is_no_tag_list_is_told_in_a_sentence(content, tmp_path):
    (tmp_path / "selected_tags.csv").write_bytes(content)
    with pytest.raises(UserError, match="selected_tags.csv"):
        read_taglist(tmp_path / "selected_tags.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_taglist(tmp_path / "other.csv")


@pytest.mark.parametrize(("name", "parts"), [
    ("saber_(fate)", ("saber", "fate")), ("a_(b)_(c)", ("a_(b)", "c")), ("foo_(bar_(baz))", ("foo", "bar_(baz)")),
    ("a_(b)c)", ("a_(b)c)", None)), ("plain", ("plain", None)), ("(o)", ("(o)", None)), ("x_()", ("x_()", None)),
])  # fmt: skip
def test_a_series_is_the_last_group_of_brackets(name, parts):
    assert character_and_series(name) == parts


def test_all_faces_are_in_the_list():
    assert len(KAOMOJI) == 19 and {"^_^", "||_||", "<|>_<|>"} <= KAOMOJI
