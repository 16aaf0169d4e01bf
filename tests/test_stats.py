"""Every picture is counted once: tables of a catalogue add up, and those of the policy are a number."""

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from catalogue_rows import ARTIST, left_out, picture, table

from sotediffusion.curate.compose.cuts import AestheticTable, QualityTable
from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.report import stats
from sotediffusion.curate.report.stats import Catalogue


@pytest.fixture
def catalogue():
    return Catalogue(table(), threads=1)


def counts(found) -> dict:
    return {line.name: line.count for line in found.lines if line.count}


def test_the_image_table_has_named_sources_by_source_and_all_else_by_date(catalogue):
    found = stats.partition(catalogue, RulesSettings())
    assert [line.name for line in found.lines] == [
        "newest",
        "recent",
        "mid",
        "early",
        "oldest",
        "pixiv",
        "visual novel cg",
        "anime wallpaper",
    ]
    assert counts(found) == {"recent": 3, "pixiv": 1, "anime wallpaper": 1} and found.total == 5


def test_pictures_without_a_score_have_a_line_so_that_tables_add_up(catalogue):
    aesthetic = stats.score_table(catalogue, "Aesthetic Tags", "aesthetic", AestheticTable())
    assert counts(aesthetic) == {"extremely aesthetic": 4, "no score": 1} and aesthetic.total == 5
    assert [line.detail for line in aesthetic.lines][:2] == ["> 0.90", "> 0.80"]
    assert stats.score_table(catalogue, "", "quality", QualityTable()).lines[0].detail == "> 0.980"
    assert counts(stats.rating_table(catalogue)) == {"general": 4, "explicit nsfw": 1}


def test_markdown_is_a_table_whose_cells_no_name_can_leave():
    lines = (stats.Line("a|b<script>\n", 1234), stats.Line("c", 1))
    assert stats.CardTable("t", lines).markdown().splitlines() == [
        "| Property | Details |",
        "|---|---|",
        r"| a\|b\<script\>  | 1,234 |",
        "| c | 1 |",
        "| Total | 1,235 |",
    ]


def test_tags_are_counted_in_captions_by_group_and_not_in_dropped_pictures(catalogue):
    assert stats.tag_counts(catalogue).to_pylist() == [
        {"group": "rest", "tag": "1girl", "count": 4},
        {"group": "custom", "tag": f"art by {ARTIST}", "count": 3},
        {"group": "rest", "tag": "smile", "count": 3},
    ]


def test_drops_are_counted_by_the_reason_before_the_colon_and_the_step(catalogue):
    found = [(line.name, line.detail, line.count) for line in stats.drops(catalogue)]
    assert found == [("duplicate", "dedupe", 1), ("too small", "filter", 1), ("unreadable", "scan", 1), ("policy", "policy", 1)]


def test_policy_pictures_are_a_count_and_in_nothing_else(catalogue):
    assert catalogue.refused() == 1 and catalogue.number("everything") == 9 and catalogue.number("known") == 8
    assert catalogue.ask("SELECT count(*) FROM known WHERE path IS NULL") == [(0,)]


def test_histograms_hold_every_number_and_no_nan(catalogue):
    assert sum(stats.histogram(catalogue, "score_aes_b32_v0", 0, 1, 10)) == 4
    assert stats.histogram(catalogue, "score_aes_b32_v0", 0, 0.4, 4) == [0, 0, 0, 4]


def test_repeats_are_an_epoch(catalogue):
    assert stats.repeated(catalogue) == 6 * 3 + 2


def test_a_catalogue_of_the_first_steps_alone_answers_too():
    first = pa.table(
        {"row": [0], "path": ["a.png"], "sha256": ["0" * 64], "dropped": [False], "reason": pa.nulls(1, pa.string())}
    )
    catalogue = Catalogue(first)
    assert stats.partition(catalogue, RulesSettings()).total == 1 and counts(stats.rating_table(catalogue)) == {"no rating": 1}
    assert stats.drops(catalogue) == [] and stats.repeated(catalogue) == 0


def test_a_dataset_on_disk_answers_like_a_table_in_memory(tmp_path):
    ds.write_dataset(table(), tmp_path, format="arrow")
    on_disk = Catalogue(ds.dataset(tmp_path, format="arrow"))
    assert stats.drops(on_disk) == stats.drops(Catalogue(table()))
    assert stats.tag_counts(on_disk).equals(stats.tag_counts(Catalogue(table())))


def test_quotes_in_reasons_and_names_are_text():
    rows = [picture(0, path="it's.png", aesthetic="'; DROP TABLE x; --"), left_out(1, "filter", "odd's: '")]
    catalogue = Catalogue(pa.Table.from_pylist(rows, table().schema))
    assert counts(stats.score_table(catalogue, "", "aesthetic", AestheticTable())) == {"'; DROP TABLE x; --": 1}
    assert stats.drops(catalogue)[0].name == "odd's"
