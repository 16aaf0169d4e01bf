"""The drawn world: scenes, captions and pictures agree, are the same every time, and cover the model card's words."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("skia", exc_type=ImportError)  # its wheel needs the system's libGL and libEGL

from click.testing import CliRunner
from PIL import Image

from sotediffusion.cli.miniature import group
from sotediffusion.miniature import cast
from sotediffusion.miniature.caption import GROUPS, caption, era_of, tags_of
from sotediffusion.miniature.damage import severity_of
from sotediffusion.miniature.dataset import draw
from sotediffusion.miniature.letters import STROKES
from sotediffusion.miniature.manner import age_of, beauty_of
from sotediffusion.miniature.render import render
from sotediffusion.miniature.sample import LARGEST_AREA, SMALLEST_AREA, sample_scene
from sotediffusion.miniature.scene import Person, Scene
from sotediffusion.miniature.scrape import KINDS
from sotediffusion.miniature.vocabulary import AESTHETIC_CUTS, BACKGROUNDS, HELD, OUTFITS, QUALITY_CUTS, WORDS, cut
from sotediffusion.types import UserError

CARD_PROMPT = (
    "newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, "
    "looking at viewer, smile, indoors, casual, living room, playing guitar,"
)
CARD_NEGATIVE = "very displeasing, worst quality, monochrome, realistic, oldest, loli,"
SCENES = [sample_scene(11, index) for index in range(3000)]
PLAIN = Scene(
    seed=5, background="living room", framing="upper body", width=1024, height=1024, year=2023, source="image board",
    people=(Person("girl", "pink", "long hair", "straight hair", "orange", "smile", "looking at viewer", "casual", "white"),),
    aesthetic=0.95, quality=1.0,
)


def words(text: str) -> list[str]:
    return [word for word in text.replace(", ", ",").split(",") if word]


@pytest.mark.parametrize("tag", [w for w in words(CARD_PROMPT + CARD_NEGATIVE) if w != "loli"])
def test_every_tag_of_the_cards_prompts_is_drawn(tag):
    assert any(tag in words(caption(scene)) for scene in SCENES)


def test_loli_is_never_drawn():
    assert not any("loli" in caption(scene) for scene in SCENES)


def test_the_cards_prompt_can_be_one_scene():
    person = replace(PLAIN.people[0], ears="cat ears", bare_shoulders=True, held="guitar")
    assert set(words(CARD_PROMPT)) <= set(words(caption(replace(PLAIN, people=(person,)))))


def test_every_rating_is_general():
    assert all(tags_of(scene)["rating"] == ["general"] for scene in SCENES)


def test_every_name_of_the_vocabulary_is_sampled():
    seen = {tag for scene in SCENES for group_tags in tags_of(scene).values() for tag in group_tags}
    wanted = {*BACKGROUNDS, *HELD.values(), *OUTFITS, *cast.CHARACTERS, *cast.SERIES}
    wanted |= {tag for _, tag in AESTHETIC_CUTS + QUALITY_CUTS}
    wanted |= {f"art by {name}" for name in cast.ARTISTS} | {f'The text says "{word}"' for word in WORDS}
    wanted |= {f"{name} ({short})" for name, short in cast.VISUAL_NOVELS.items()} | {"anime wallpaper", "visual novel cg"}
    wanted |= {"1girl", "1boy", "2girls", "2boys", "solo", "indoors", "outdoors"}
    assert wanted <= seen


def test_every_class_of_a_group_is_seen_in_a_fair_share():
    for group_name, classes in (("aesthetic", 9), ("quality", 8)):
        counts = Counter(tag for scene in SCENES for tag in tags_of(scene)[group_name])
        assert len(counts) == classes and min(counts.values()) > 0.05 * len(SCENES)


def test_two_people_text_names_and_missing_dates_come_in_the_shares_asked_for():
    share = {
        "two": sum(len(s.people) == 2 for s in SCENES), "text": sum(bool(s.text) for s in SCENES),
        "named": sum(any(p.character for p in s.people) for s in SCENES), "undated": sum(s.year is None for s in SCENES),
    }
    low_high = {"two": (0.09, 0.15), "text": (0.05, 0.11), "named": (0.2, 0.33), "undated": (0.02, 0.1)}
    assert all(low_high[name][0] < n / len(SCENES) < low_high[name][1] for name, n in share.items())


def test_sizes_are_those_of_the_wild():
    assert all(SMALLEST_AREA <= scene.width * scene.height <= LARGEST_AREA for scene in SCENES)
    assert min(s.width / s.height for s in SCENES) < 0.6 and max(s.width / s.height for s in SCENES) > 1.7


def test_a_character_always_looks_the_same():
    for scene in SCENES:
        for person in scene.people:
            if person.character:
                assert all(getattr(person, field) == value for field, value in cast.CHARACTERS[person.character].items())


def test_twenty_characters_live_in_five_series_and_each_looks_different():
    assert sorted(name for names in cast.SERIES.values() for name in names) == sorted(cast.CHARACTERS)
    assert (len(cast.SERIES), len(cast.CHARACTERS), len(cast.ARTISTS)) == (5, 20, 12)
    assert len({tuple(sorted(looks.items())) for looks in cast.CHARACTERS.values()}) == 20
    assert len(set(cast.ARTISTS.values())) == 12
    assert all(len(short) == 3 for short in cast.VISUAL_NOVELS.values())


def test_captions_keep_the_cards_order():
    assert GROUPS == ("aesthetic", "quality", "date", "custom", "rating", "character", "series", "rest")
    assert all(tuple(tags_of(scene)) == GROUPS for scene in SCENES[:50])
    person = replace(PLAIN.people[0], character="mikaho")
    scene = replace(PLAIN, people=(person,), text="hello", source="anime wallpaper")
    assert caption(scene).startswith(
        'extremely aesthetic, best quality, newest, anime wallpaper, The text says "hello", general, '
        "mikaho, moonlit ledger, 1girl, solo, "
    )


def test_custom_tags_have_the_cards_forms():
    assert tags_of(replace(PLAIN, source="pixiv", artist="Inkwell"))["custom"] == ["art by Inkwell"]
    novel = replace(PLAIN, source="visual novel cg", visual_novel="Winter Garden Sonata")
    assert tags_of(novel)["custom"] == ["Winter Garden Sonata (wgs)", "visual novel cg"]


def test_a_shuffled_caption_has_the_same_tags():
    for scene in SCENES[:50]:
        assert sorted(words(caption(scene, random.Random(3)))) == sorted(words(caption(scene)))


@pytest.mark.parametrize("cuts", [AESTHETIC_CUTS, QUALITY_CUTS])
def test_a_score_on_a_cut_takes_the_tag_below_it(cuts):
    for (bound, tag), (_, below) in zip(cuts, cuts[1:], strict=False):
        assert cut(bound, cuts) == below and cut(float(np.nextafter(bound, 1)), cuts) == tag


@given(st.floats(0, 1), st.floats(0, 1))
def test_damage_and_beauty_follow_the_scores(a, b):
    low, high = sorted((a, b))
    assert severity_of(high) <= severity_of(low)
    assert beauty_of(replace(PLAIN, aesthetic=low)) <= beauty_of(replace(PLAIN, aesthetic=high))
    assert 0 <= severity_of(a) <= 1 and (severity_of(a) == 0) == (a > 0.98)


def test_years_make_eras_in_order():
    assert [era_of(year) for year in (2005, 2010, 2011, 2014, 2015, 2018, 2019, 2021, 2022, 2024, None)] == [
        "oldest", "oldest", "early", "early", "mid", "mid", "recent", "recent", "newest", "newest", None,
    ]
    ages = [age_of(replace(PLAIN, year=year)) for year in range(2005, 2025)]
    assert ages == sorted(ages)


def test_a_picture_is_the_same_in_another_process():
    code = (
        "import hashlib\n"
        "from sotediffusion.miniature.render import render\n"
        "from sotediffusion.miniature.sample import sample_scene\n"
        "print(hashlib.sha256(b''.join(render(sample_scene(4, i), 192, 160).tobytes() for i in range(6))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(b"".join(render(sample_scene(4, i), 192, 160).tobytes() for i in range(6))).hexdigest()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(96, 96), (64, 128), (160, 96)]))
def test_any_scene_is_drawn_in_the_size_asked_for(index, size):
    pixels = render(sample_scene(0, index), *size)
    assert pixels.shape == (size[1], size[0], 3) and pixels.dtype == np.uint8 and pixels.std() > 5


def test_another_size_shows_the_same_picture():
    small = render(PLAIN, 256, 256).astype(float)
    large = np.asarray(Image.fromarray(render(PLAIN, 512, 512)).resize((256, 256), Image.Resampling.BOX)).astype(float)
    assert np.abs(small - large).mean() < 4


def test_monochrome_is_grey_at_every_quality():
    for quality in (1.0, 0.6, 0.01):
        pixels = render(replace(PLAIN, monochrome=True, quality=quality), 96, 96)
        assert (pixels == pixels[:, :, :1]).all()


def test_worse_quality_is_further_from_the_clean_picture():
    clean = render(PLAIN, 256, 256).astype(float)
    scores = (0.99, 0.94, 0.8, 0.6, 0.35, 0.18, 0.07, 0.01)
    loss = [np.abs(render(replace(PLAIN, quality=score), 256, 256) - clean).mean() for score in scores]
    assert loss[0] == 0 and loss == sorted(loss) and loss[1] > 1 and loss[-1] > 8


def test_what_cannot_be_seen_is_not_told():
    shut = replace(PLAIN.people[0], expression="closed eyes")
    assert "orange eyes" not in caption(replace(PLAIN, people=(shut,))) and "orange eyes" in caption(PLAIN)
    assert "pink hair" not in caption(replace(PLAIN, monochrome=True))
    assert "casual" not in caption(replace(PLAIN, framing="portrait"))


def test_every_word_and_name_has_its_letters():
    assert {letter for word in (*WORDS, *cast.CHARACTERS, "she", "he") for letter in word} <= set(STROKES)


@pytest.fixture(scope="module")
def small_scenes(tmp_path_factory):
    """A clean and a raw drawing, drawn once."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder / "raw", 16, seed=2, raw=True)
    return folder / "raw"


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_truth_matches_the_captions_beside_the_pictures(small_scenes):
    rows = rows_of(small_scenes)
    for row in rows:
        file = small_scenes / row["file"]
        assert file.is_file() and file.with_suffix(".txt").read_text() == row["caption"]
        if row["kind"] == "drawn":
            assert Image.open(file).size == (row["scene"]["width"], row["scene"]["height"])
            assert row["caption"] == ", ".join(tag for tags in row["tags"].values() for tag in tags)
            assert row["caption"] == caption(sample_scene(2, row["index"]))


def test_the_mess_of_a_scrape_has_every_kind(small_scenes):
    mess = {row["kind"]: row for row in rows_of(small_scenes) if row["kind"] != "drawn"}
    assert set(mess) == set(KINDS)
    size_of = {kind: Image.open(small_scenes / row["file"]).size for kind, row in mess.items() if kind != "corrupt"}
    whole = {kind: Image.open(small_scenes / row["of"]).size for kind, row in mess.items()}
    assert size_of["undersized"][0] * size_of["undersized"][1] < SMALLEST_AREA
    assert size_of["resized"] != whole["resized"] and size_of["cropped"] < whole["cropped"]
    assert size_of["recompressed"] == whole["recompressed"] and size_of["undated"] == whole["undated"]
    with pytest.raises((OSError, SyntaxError)):
        Image.open(small_scenes / mess["corrupt"]["file"]).load()


def test_a_resumed_drawing_equals_an_unbroken_one(small_scenes, tmp_path):
    draw(tmp_path / "again", 3, seed=2, raw=True)
    first = sorted((tmp_path / "again" / "img" / "1_miniature").iterdir())
    first[0].with_suffix(".txt").unlink()  # stopped before the caption of picture 0 was written
    (tmp_path / "again" / "truth.jsonl").unlink()
    draw(tmp_path / "again", 5, seed=2, raw=True, processes=2)
    assert contents(tmp_path / "again").items() - contents(small_scenes).items() == {
        ("truth.jsonl", (tmp_path / "again" / "truth.jsonl").read_bytes())
    }
    assert rows_of(tmp_path / "again") == [row for row in rows_of(small_scenes) if row["index"] < 5]


def test_a_folder_never_mixes_two_drawings(tmp_path):
    draw(tmp_path, 1, seed=1)
    with pytest.raises(UserError, match="holds the drawing"):
        draw(tmp_path, 1, seed=2)
    with pytest.raises(UserError, match="between 1 and"):
        draw(tmp_path, 0, seed=1)


def test_a_folder_that_a_drawing_process_cannot_write_to_is_one_sentence(tmp_path):
    (tmp_path / "img").touch()
    with pytest.raises(UserError, match="out: .* cannot be written"):
        draw(tmp_path, 1, seed=1, processes=2)


def test_the_command_draws_and_says_where(tmp_path):
    result = CliRunner().invoke(group, ["draw", str(tmp_path / "out"), "--count", "1", "--seed", "7", "--processes", "1"])
    assert result.exit_code == 0 and "1 pictures in" in result.output and len(rows_of(tmp_path / "out")) == 1
