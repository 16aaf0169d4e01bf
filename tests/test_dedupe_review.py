"""The page of near-duplicates: whole in one file, deaf to what file names say, and its verdicts hold on the next run."""

import re

import numpy as np
import pytest

from sotediffusion.curate.dedupe.review import MOST, groups_of, page, shown, undecided, write_page
from sotediffusion.curate.dedupe.verdicts import FORMAT, Verdicts, pair
from sotediffusion.curate.report.thumbnails import Thumbnails


def see(path):
    if "gone" in path:
        raise ValueError("unreadable: gone")
    return np.full((40, 30, 3), 200, np.uint8)


def item(row, path, **more):
    facts = {"sha256": f"{row:064x}", "bytes": 5000, "format": "png", "width": 30, "height": 40, "vouched": True}
    return {"row": row, "path": path, **facts, **more}


def answer(group=None, distance=None, candidate=None, reason=None):
    return {"group": group, "distance": distance, "candidate": candidate, "drop_dedupe": reason}


ROWS = [item(0, "best.png"), item(1, "copy.png"), item(2, "crop.png"), item(3, "alone.png"), item(4, "variant.png")]
ANSWERS = [answer(0, 0), answer(0, 3, None, "duplicate: of best.png"), answer(0, 60, None, "crop: of best.png"), answer(),
           answer(candidate=3)]  # fmt: skip


def test_groups_hold_the_keeper_and_what_went_or_only_looks_alike():
    first, second = groups_of(ROWS, ANSWERS)
    assert (first["keep"]["path"], [i["why"] for i in first["left_out"]]) == ("best.png", ["duplicate", "crop"])
    assert (second["keep"]["path"], second["left_out"][0]["why"]) == ("alone.png", "looks alike, both kept")


def test_a_picture_that_the_policy_erased_is_on_no_page():
    rows = [dict.fromkeys(row, None) | {"row": row["row"]} if row["row"] == 1 else row for row in ROWS]
    groups = groups_of(rows, ANSWERS)
    assert "copy.png" not in page(groups, Thumbnails(see), len(groups))


def test_what_no_tagger_has_seen_is_shown_only_where_one_vouches_for_it():
    groups = groups_of([ROWS[0], item(1, "untagged.png", vouched=False)], ANSWERS[:2])
    shown_by = [page(groups, Thumbnails(see, vouch), 1).count("<img") for vouch in (None, lambda *_: False, lambda *_: True)]
    assert shown_by == [1, 1, 2]


def test_decided_groups_do_not_come_back():
    groups = groups_of(ROWS, ANSWERS)
    said = Verdicts(same=frozenset([pair(f"{0:064x}", f"{1:064x}"), pair(f"{0:064x}", f"{2:064x}")]))
    assert [group["keep"]["path"] for group in undecided(groups, said)] == ["alone.png"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', "a' onload='x.png"])
def test_file_names_stay_text(name):
    groups = groups_of([ROWS[0], item(1, name)], ANSWERS[:2])
    text = page(groups, Thumbnails(see), 1)
    assert name not in text and shown(name) in text
    assert len(re.findall("<script", text)) == 1
    assert "\u202e" not in shown("gpj.\u202eexe")


def test_the_page_is_one_file_under_a_strict_policy(tmp_path):
    assert write_page(tmp_path / "page.html", groups_of(ROWS, ANSWERS), Thumbnails(see)) == 2
    text = (tmp_path / "page.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(?:src|href)=\"(?!data:image/webp;base64,)", text) and "http" not in text.replace("http-equiv", "")
    assert FORMAT in text


def test_a_picture_that_is_gone_is_said_and_long_lists_are_cut():
    many = [(item(2 * n, f"{n}.png"), item(2 * n + 1, "gone.png")) for n in range(3)]
    answers = [part for n in range(3) for part in (answer(2 * n, 0), answer(2 * n, n, None, "duplicate: of x"))]
    groups = groups_of([row for both in many for row in both], answers)
    assert [group["left_out"][0]["distance"] for group in groups] == [2, 1, 0]
    assert "not shown" in page(groups[:1], Thumbnails(see), 3) and "1 groups of 3" in page(groups[:1], Thumbnails(see), 3)
    assert MOST >= 100
