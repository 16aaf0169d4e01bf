"""Tags are searched, renamed and merged by rules kept in the catalogue, and listed for editors."""

import csv

import pytest
from catalogue_rows import ARTIST, table

from sotediffusion.curate.compose.step import ComposeSettings
from sotediffusion.curate.compose.tagrules import TagSettings
from sotediffusion.curate.compose.tagwork import autocomplete, counted, read_rules, rename, search, with_rules
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.report.stats import Catalogue
from sotediffusion.types import UserError


def test_search_finds_all_words_the_exact_tag_first():
    catalogue = Catalogue(table(), threads=1)
    assert [(line.name, line.count) for line in search(catalogue, "1girl")] == [("1girl", 4)]
    assert [line.name for line in search(catalogue, "ART_by")] == [f"art by {ARTIST}"]
    assert search(catalogue, "nothing") == []


def test_rules_are_kept_followed_to_their_end_and_taken_back(tmp_path):
    store = Store(tmp_path)
    assert read_rules(store) == TagSettings()
    rename(store, ["grin", "smirk"], "smile")
    assert read_rules(store).rename == {"grin": "smile", "smirk": "smile"}
    rename(store, ["smile"], "happy")
    assert read_rules(store).rename == {"grin": "happy", "smirk": "happy", "smile": "happy"}
    rename(store, ["grin"], "grin")
    assert read_rules(store).rename == {"smirk": "happy", "smile": "happy"}


def test_the_catalogues_rules_come_on_top_of_the_settings(tmp_path):
    store = Store(tmp_path)
    rename(store, ["b"], "c")
    given = ComposeSettings(tags=TagSettings(rename={"a": "b"}, blacklist=("x",)))
    assert with_rules(given, store).tags == TagSettings(rename={"a": "c", "b": "c"}, blacklist=("x",))


@pytest.mark.parametrize(("old", "new"), [("a", "b, c"), ("", "b"), ("a", "nude loli")])
def test_names_that_captions_cannot_have_are_refused(tmp_path, old, new):
    with pytest.raises(UserError):
        rename(Store(tmp_path), [old], new)


def test_a_circle_and_a_damaged_file_are_errors_of_one_sentence(tmp_path):
    store = Store(tmp_path)
    rename(store, ["a"], "b")
    with pytest.raises(UserError, match="become itself"):
        rename(store, ["b"], "a")
    store.write("tags.toml", b"\xff")
    with pytest.raises(UserError, match="not TOML"):
        read_rules(store)


def test_the_list_for_editors_has_names_categories_counts_and_aliases():
    text = autocomplete(counted(Catalogue(table(), threads=1)), {"one girl": "1girl", "a girl": "1girl"})
    assert list(csv.reader(text.splitlines())) == [
        ["1girl", "0", "4", "a_girl,one_girl"],
        [f"art_by_{ARTIST}", "5", "3", ""],
        ["smile", "0", "3", ""],
    ]
