"""The report is one file that runs nothing and asks nobody, whatever strangers named their files, artists and tags."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from catalogue_rows import ARTIST, EVIL, left_out, picture, table

from sotediffusion.curate.compose.rules import RulesSettings
from sotediffusion.curate.compose.step import ComposeSettings
from sotediffusion.curate.report import plots
from sotediffusion.curate.report.explain import find, story
from sotediffusion.curate.report.page import ReportSettings, gather, render
from sotediffusion.curate.report.samples import dropped
from sotediffusion.curate.report.stats import Catalogue
from sotediffusion.curate.report.thumbnails import Thumbnails
from sotediffusion.types import UserError


def see(path: str) -> np.ndarray:
    if "broken" in path:
        raise ValueError("unreadable: no picture")
    return np.full((60, 40, 3), len(path), np.uint8)


def page(rows: pa.Table, vouch=None, **settings) -> str:
    wanted = ReportSettings(**settings)
    return render(gather(Catalogue(rows, threads=1), Thumbnails(see, vouch), ComposeSettings(), RulesSettings(), wanted))


class Parts(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.images = 0
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += tag == "img"
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report() -> str:
    return page(table(), title=f"My {EVIL}", about={"source": EVIL})


def test_names_artists_and_tags_of_strangers_are_text(report):
    assert "<script" not in report.lower()
    parts = Parts(report)
    assert "script" not in parts.tags and EVIL in parts.text and ARTIST in parts.text
    assert not [one for one in parts.attributes if one[1].startswith("on") or "javascript:" in one[2].lower()]
    assert any(EVIL in value for _, name, value in parts.attributes if name == "title")


def test_the_page_forbids_everything_but_its_own_style_and_inline_pictures(report):
    parts = Parts(report)
    (policy,) = [value for tag, name, value in parts.attributes if tag == "meta" and name == "content" and "default-src" in value]
    style = re.search(r"<style>(.*?)</style>", report, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not [one for one in parts.attributes if one[1] == "style"]
    links = [value for _, name, value in parts.attributes if name in ("src", "href", "srcset", "action")]
    assert links and all(link.startswith(("data:image/webp;base64,", "#")) for link in links)
    assert "url(" not in style and "@import" not in style


def test_every_section_says_what_the_catalogue_holds(report):
    text = Parts(report).text
    for words in (
        "5 of 9 files are kept",
        "extremely aesthetic",
        "no score",
        "anime wallpaper",
        "explicit nsfw",
        "Total",
        "aes-B32-v0",
        "too small",
        "unreadable",
        "kept, 1000 x 1500",
        "20 x 30, distance 3",
        "| Property | Details | Count |",
    ):
        assert words in " ".join(text.split())


def test_of_a_policy_picture_there_is_a_count_and_nothing_else():
    rows = pa.concat_tables(
        [table(), pa.Table.from_pylist([left_out(9, "text", "policy", path="refused/secret.png")], table().schema)]
    )
    report = page(rows, vouch=lambda path, pixels: True)
    assert "secret" not in report and "f" * 64 not in report
    assert "2 refused by the policy" in report


def test_pictures_that_no_tagger_saw_are_named_and_not_shown_unless_one_vouches():
    shown = {
        name: Parts(page(table(), vouch)).images
        for name, vouch in {
            "nobody": None,
            "refused": lambda path, pixels: False,
            "vouched": lambda path, pixels: "6" in path,
        }.items()
    }
    assert shown["nobody"] == shown["refused"] == shown["vouched"] - 1


def opened_of(rows: pa.Table, vouch=None) -> set[str]:
    """What a page of these rows opened, and showed or asked about."""
    opened: set[str] = set()
    seeing = Thumbnails(lambda path: opened.add(path) or see(path), vouch)
    gather(Catalogue(rows, threads=1), seeing, ComposeSettings(), RulesSettings(), ReportSettings())
    return opened


def test_a_copy_that_was_left_out_before_tagging_is_shown_only_where_one_vouches_for_it():
    assert "set/0.png" in opened_of(table()) and "set/5.png" not in opened_of(table())
    asked: list[str] = []
    assert "set/5.png" in opened_of(table(), lambda path, pixels: asked.append(path) or True) and "set/5.png" in asked
    assert "20 x 30, distance 3" in page(table()), "it is named all the same"


def test_what_the_scan_put_aside_is_named_and_never_opened():
    rows = [left_out(9, "scan", "kills the decoder"), left_out(10, "scan", "bomb: 900000 x 900000")]
    rows = pa.concat_tables([table(), pa.Table.from_pylist(rows, table().schema)])
    opened = opened_of(rows, lambda path, pixels: True)
    assert "set/6.png" in opened and not opened & {"set/7.png", "set/9.png", "set/10.png"}
    assert all(name in page(rows) for name in ("set/7.png", "set/9.png", "set/10.png"))


def test_what_dedupe_left_out_without_a_group_is_shown_with_its_reason():
    rows = [left_out(9, "dedupe", "in the reference set: elsewhere/old.png"), left_out(10, "dedupe", "truncated: at half")]
    rows = pa.concat_tables([table(), pa.Table.from_pylist(rows, table().schema)])
    assert {"set/9.png", "set/10.png"} <= opened_of(rows, lambda path, pixels: True)
    sheets = dropped(Catalogue(rows, threads=1), 10, Thumbnails(see, lambda path, pixels: True))
    assert {sheet.title: sheet.shown[0].note for sheet in sheets if sheet.title != "too small"} == {
        "in the reference set": "elsewhere/old.png", "truncated": "at half", "unreadable": EVIL,
    }  # fmt: skip


def test_ratings_that_not_everybody_wants_to_see_are_veiled(report):
    assert 'class="veiled"' in report
    mild = pa.Table.from_pylist([picture(0)], table().schema)
    assert 'class="veiled"' not in page(mild)


def test_a_picture_that_is_gone_or_broken_leaves_its_name():
    report = page(pa.Table.from_pylist([picture(0, path="x/broken.png")], table().schema))
    assert "broken.png" in Parts(report).text and "<img" not in report


def test_a_report_is_the_same_each_time(report):
    assert page(table(), title=f"My {EVIL}", about={"source": EVIL}) == report


def test_a_catalogue_of_the_first_steps_alone_and_an_empty_one_have_a_page():
    first = pa.table(
        {"row": [0], "path": ["a.png"], "sha256": ["0" * 64], "dropped": [False], "reason": pa.nulls(1, pa.string())}
    )
    assert "1 of 1 files are kept" in " ".join(Parts(page(first)).text.split())
    assert "0 of 0 files are kept" in " ".join(Parts(page(table().slice(0, 0))).text.split())


def test_a_column_that_no_picture_has_a_value_in_has_no_contact_sheet():
    rows = pa.Table.from_pylist([picture(0, aesthetic=None, quality=None)], table().schema)
    assert re.findall(r"<summary><h3>(.*?)</h3>", page(rows)) == ["Rating Tags", "Date"]
    bare = pa.Table.from_pylist([picture(0, aesthetic=None, quality=None, rating=None, date=None)], table().schema)
    assert "No pictures to show by tag." in page(bare)


def test_plots_escape_their_labels_and_give_every_bar_its_stretch():
    found = plots.bars([1, 2, 0, 4], 0, 1, [plots.Mark(0.5, EVIL)], [(0.0, EVIL)])
    assert "<script" not in found and found.count('class="bar s0"') == 2 and found.count('class="bar s1"') == 2
    assert "<script" not in plots.columns([(EVIL, 1)])
    assert [plots.short(n) for n in (0, 999, 9999, 12345, 5_628_499)] == ["0", "999", "9,999", "12.3k", "5.63M"]


def test_a_pictures_story_has_each_step_and_why_it_went():
    catalogue = Catalogue(table(), threads=1)
    kept = dict(story(catalogue, find(catalogue, "set/0.png"), {4: "1girl"}, {"cut": "abc"}))
    assert kept["picture"] == ["set/0.png", "kept, seen 6 times an epoch"] and "with set/5.png (distance 3)" in kept["dedupe"]
    assert kept["tag"] == ["tag_ids: 1girl 0.75"] and kept["cut (abc)"] == ["rating: general"]
    assert kept["caption"] == [f"art by {ARTIST}, 1girl, smile"]
    gone = dict(story(catalogue, find(catalogue, "5.png"), {}, {}))
    assert gone["picture"][1] == "left out: duplicate: of set/0.png" and "with set/0.png (the keeper)" in gone["dedupe"]


def test_of_a_policy_picture_the_story_is_its_hash():
    catalogue = Catalogue(table(), threads=1)
    assert [title for title, _ in story(catalogue, find(catalogue, "f" * 64), {}, {})] == ["policy"]


def test_an_unknown_or_unclear_picture_is_an_error_with_the_nearest():
    catalogue = Catalogue(pa.concat_tables([table(), pa.Table.from_pylist([picture(20, path="b/0.png")], table().schema)]))
    with pytest.raises(UserError, match="fits several"):
        find(catalogue, "0.png")
    with pytest.raises(UserError, match="there is set/3.png"):
        find(catalogue, "set/33.png")
