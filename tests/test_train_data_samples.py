"""Claims about the table of what is trained on: read from a catalogue, small, the same however it was read."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_pictures import caption, catalogue_of

from sotediffusion.train.readers.catalogue import read_catalogue
from sotediffusion.train.samples import Coder, Part, Samples, content_of, from_groups
from sotediffusion.types import UserError

WORDS = st.text("ab, ;é", min_size=1, max_size=4)
GROUPS = st.dictionaries(st.sampled_from(["quality", "rest", "text"]), st.lists(WORDS, min_size=1, max_size=4), max_size=3)


def record(number: int, **more) -> dict:
    digest = hashlib.sha256(bytes([number % 256, number // 256])).digest()[:16]
    return {"path": f"{number}.png", "content": digest, "width": 1024, "height": 768 + number} | more


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    return catalogue_of(folder / "pictures", folder / "cat", 12, repeats=lambda n: 6 if n == 3 else 1, dropped=lambda n: n == 5,
                        caption=lambda n: None if n == 6 else caption(n))  # fmt: skip


@given(st.lists(GROUPS, min_size=1, max_size=8))
def test_a_table_gives_back_every_tag_of_every_group_in_order(captions):
    samples = from_groups([record(i, tags=tags) for i, tags in enumerate(captions)], (Part("all"),), "here")
    assert [samples.groups(row) for row in range(len(samples))] == captions


def test_a_saved_table_is_mapped_and_the_same(tmp_path):
    samples = from_groups([record(i, tags={"rest": [f"tag {i}"]}, text=None if i else "prose", mask="m.png") for i in range(300)],
                          (Part("all", {"keep_tokens": 1}, {"resolution": (768, 1024)}),), "here")  # fmt: skip
    samples.save(tmp_path / "samples.arrow")
    opened = Samples.open(tmp_path / "samples.arrow")
    assert opened.identity == samples.identity == Samples(opened.rows, opened.vocabulary, opened.parts, "there").identity
    assert (opened.source, opened.text(0), opened.text(1), opened.mask(7)) == ("here", "prose", None, "m.png")
    assert opened.groups(299) == {"rest": ["tag 299"]} and (opened.content == samples.content).all()
    assert opened.parts[0].captions == {"keep_tokens": 1}


def test_rows_are_taken_of_a_table_with_more_text_than_an_array_holds():
    """The same text 33 times over, in one place of memory."""
    few = from_groups([record(0, text="x" * 2**26), record(1, tags={"rest": ["a"]}, text="short")], (Part("all"),), "here")
    some = Samples(pa.concat_tables([few.rows] * 33), few.vocabulary, few.parts, few.source).take(np.array([1, 65]))
    assert [(some.path(row), some.text(row)) for row in range(len(some))] == [("1.png", "short")] * 2
    assert some.groups(0) == some.groups(1) == {"rest": ["a"]}


def test_a_damaged_table_is_named(tmp_path):
    samples = from_groups([record(0, tags={"rest": ["a"]})], (Part("all"),), "here")
    samples.save(tmp_path / "samples.arrow")
    whole = (tmp_path / "samples.arrow").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"x" * 100):
        (tmp_path / "samples.arrow").write_bytes(broken)
        with pytest.raises(UserError, match=r"samples\.arrow is damaged"):
            Samples.open(tmp_path / "samples.arrow")


def test_the_identity_follows_content_captions_repeats_and_size_but_not_paths():
    base = [record(i, tags={"rest": ["a", f"b{i}"]}) for i in range(4)]
    changes = [
        {"content": bytes(16)},
        {"tags": {"rest": ["a"]}},
        {"tags": {"quality": ["a", "b2"]}},
        {"repeats": 2},
        {"width": 1},
        {"weight": 0.5},
        {"text": "c"},
    ]
    tables = [base, *(base[:2] + [base[2] | change] + base[3:] for change in changes)]
    names = [from_groups(rows, (Part("all"),), "here").identity for rows in tables]
    assert len(set(names)) == len(names)
    assert from_groups([row | {"path": "moved"} for row in base], (Part("all"),), "there").identity == names[0]
    assert from_groups(base, (Part("all", {"keep_tokens": 1}),), "here").identity not in names


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1, max_size=12), st.integers(1, 5))
def test_numbers_of_tags_do_not_depend_on_how_rows_were_read(rows, size):
    def table(size):
        coder, lists = Coder(), []
        for start in range(0, len(rows), size):
            some = pa.array(rows[start : start + size], pa.list_(pa.string()))
            codes = coder.encode(["rest"], np.zeros(len(some.flatten()), np.int32), some.flatten())
            lists.append(pa.ListArray.from_arrays(some.offsets, pa.array(codes)))
        tags, vocabulary = coder.finish(lists)
        return tags.to_pylist(), vocabulary.to_pylist()

    assert table(size) == table(len(rows))


def test_hashes_are_read_from_hexadecimal():
    digests = [hashlib.sha256(bytes([i])) for i in range(50)]
    column = pa.array([digest.hexdigest() for digest in digests])
    assert content_of(column.slice(7)).to_pylist() == [digest.digest()[:16] for digest in digests[7:]]


def test_a_catalogue_gives_the_pictures_that_stayed_with_captions_and_repeats(place):
    samples = read_catalogue(str(place))
    assert [samples.path(row) for row in range(len(samples))] == [f"{n:03d}.png" for n in range(12) if n not in (5, 6)]
    assert samples.column("repeats").tolist() == [6 if n == 3 else 1 for n in range(12) if n not in (5, 6)]
    assert samples.groups(2) == {part["group"]: part["tags"] for part in caption(2)}
    assert samples.source == str(place.parent / "pictures") and samples.parts[0].name == "v1"


def test_a_condition_chooses_and_a_wrong_one_shows_the_columns(place):
    best = read_catalogue(str(place), where="score_aesthetic_shadow_v2 > 0.9 AND width >= 96")
    assert [best.path(row) for row in range(len(best))] == ["011.png"]
    with pytest.raises(UserError, match=r"data\.where.*score_aesthetic_shadow_v2"):
        read_catalogue(str(place), where="aesthetics > 0.9")
    with pytest.raises(UserError, match="no picture where"):
        read_catalogue(str(place), where="width > 99999")


def test_a_version_that_is_not_there_names_those_that_are(place):
    with pytest.raises(UserError, match="v1"):
        read_catalogue(str(place), "v7")


def test_what_a_catalogue_says_of_dropout_goes_with_its_samples(tmp_path):
    import lance

    catalogue_of(tmp_path / "pictures", tmp_path / "cat", 3)
    table = lance.dataset(str(tmp_path / "cat" / "catalogue.lance")).to_table()
    place = table.schema.get_field_index("caption")
    told = table.schema.field(place).with_metadata({"dropout": json.dumps({"custom": 0.2})})
    table = table.set_column(place, told, table.column(place))
    lance.write_dataset(table, str(tmp_path / "cat" / "catalogue.lance"), mode="overwrite")
    dataset = lance.dataset(str(tmp_path / "cat" / "catalogue.lance"))
    for name in ("v1", "latest"):
        dataset.tags.update(name, dataset.version)
    version = tmp_path / "cat" / "versions" / "v1.json"
    version.write_text(json.dumps(json.loads(version.read_text()) | {"number": dataset.version}))
    assert read_catalogue(str(tmp_path / "cat")).parts[0].captions == {"drop_groups": {"custom": 0.2}}


def test_validation_pictures_are_the_same_whatever_else_is_in_the_table():
    every = from_groups([record(i, tags={"rest": ["a"]}) for i in range(2000)], (Part("all"),), "here")
    held = every.held(0.1)
    assert 140 < held.sum() < 260
    some = every.take(np.arange(0, 2000, 3))
    assert (some.held(0.1) == held[::3]).all() and not every.held(0).any()
