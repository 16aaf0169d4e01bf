"""The pages of curation in a real browser, and the whole chain on a Ray cluster: what people look at, and what they decide."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import last_pixel
from click.testing import CliRunner
from curate_run import by_path

from sotediffusion.cli.main import sote as program
from sotediffusion.miniature.dataset import draw

pytestmark = pytest.mark.system

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SHOTS = os.environ.get("SOTE_SHOTS")  # a folder to keep pictures of the pages in, to be looked at
PATIENCE_MS = 600_000  # that anything may take on a busy machine
EVIL = "<script>document.title='taken over'</script>"
RAW, SEED = 8, 9100


def sote(*arguments):
    done = CliRunner().invoke(program, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def curated(place, pile, *more):
    return sote("curate", "run", pile, "--out", place, "--preset", "miniature", *more)


@pytest.fixture(scope="module")
def pile(tmp_path_factory):
    """A raw drawing in which every picture of pixiv is by an artist with markup for a name."""
    folder = tmp_path_factory.mktemp("pages") / "pile"
    draw(folder, RAW, SEED, raw=True)
    for caption in folder.rglob("*.txt"):
        caption.write_text(f"{re.sub('art by [^,]*, ', '', caption.read_text().strip())}, art by {EVIL}\n")
    return folder


@pytest.fixture(scope="module")
def made(pile):
    place = pile.parent / "catalogue"
    curated(place, pile, "--workers", 2)
    return place


@pytest.fixture(scope="module")
def browser():
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens a file of this machine; whatever the browser complains of fails the test at its end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    complaints = []

    def open_page(path, name):
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(Path(path).as_uri())
        page.wait_for_load_state("load")
        keep(page, name)
        return page

    yield open_page
    context.close()
    assert complaints == []


def keep(page, name):
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def seen(page, images):
    """How many pictures have pixels on the screen; those further down are scrolled to."""
    found = page.locator(images)
    for number in range(found.count()):
        found.nth(number).scroll_into_view_if_needed()
        assert last_pixel(found.nth(number), PATIENCE_MS)[1] == 255
    return [box["width"] > 20 and box["height"] > 20 for box in (found.nth(n).bounding_box() for n in range(found.count()))]


def test_the_report_opens_under_its_own_policy_with_its_pictures_and_an_artist_made_of_markup_is_text(made, opened, tmp_path):
    sote("curate", "report", made, "--out", tmp_path / "report.html")
    page = opened(tmp_path / "report.html", "report")
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
    assert page.title() != "taken over" and page.locator("script").count() == 0
    assert page.get_by_text(f"art by {EVIL}").first.is_visible()
    assert page.locator("h2").count() >= 4
    page.locator("#sheets > details > summary").last.click()
    assert page.locator("#sheets > details").last.get_attribute("open") is not None
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    shown = seen(page, "img")
    assert len(shown) > RAW and all(shown)
    keep(page, "report-open")
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], "nothing sticks out to the side"
    page.set_viewport_size({"width": 390, "height": 844})
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    keep(page, "report-phone")


def test_what_is_decided_on_the_review_page_is_downloaded_taken_in_and_gone_by(made, pile, opened, tmp_path):
    before = sote("curate", "review", made, "--out", tmp_path / "groups.html")
    page = opened(tmp_path / "groups.html", "review")
    groups = page.locator("section")
    assert groups.count() >= 2 and f"{groups.count()} of {groups.count()} undecided groups" in before
    assert all(seen(page, "img"))
    first, second = groups.nth(0), groups.nth(1)
    other = first.locator("figure[data-sha]").nth(1)
    sha = other.get_attribute("data-sha")
    other.get_by_label("keep this one").check()
    for figure in first.locator("figure[data-sha]").all():
        if not figure.get_by_label("the same picture as the kept one").is_checked() and figure.get_attribute("data-sha") != sha:
            figure.get_by_label("the same picture as the kept one").check()
    apart = second.locator("figure[data-sha]").nth(1)
    apart_sha = apart.get_attribute("data-sha")
    apart.get_by_label("the same picture as the kept one").uncheck()
    assert page.locator("#count").inner_text() == f"2 of {groups.count()} decided"
    keep(page, "review-decided")
    page.reload()
    assert page.locator("#count").inner_text() == f"2 of {groups.count()} decided", "a closed page loses no decision"
    assert other.get_by_label("keep this one").is_checked()
    assert not apart.get_by_label("the same picture as the kept one").is_checked()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download verdicts.json").click()
    download.value.save_as(tmp_path / "verdicts.json")
    said = json.loads((tmp_path / "verdicts.json").read_text())
    assert said["keep"] == [sha] and any(apart_sha in pair for pair in said["different"])
    assert "new verdicts" in sote("curate", "review", made, "--apply", tmp_path / "verdicts.json")
    assert "0 new verdicts" in sote("curate", "review", made, "--apply", tmp_path / "verdicts.json"), "remembered"
    curated(made, pile, "--workers", 2)
    rows = {row["sha256"]: row for row in by_path(None, out=made).values()}
    assert not rows[sha]["dropped"] and not rows[apart_sha]["dropped"]
    after = sote("curate", "review", made, "--out", tmp_path / "again.html")
    assert sha not in (tmp_path / "again.html").read_text() and after != before


def test_the_whole_chain_on_ray_gives_what_one_machine_gives(made, pile):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    place = pile.parent / "on-ray"
    run = [sys.executable, "-m", "sotediffusion.cli.main", "curate", "run"]  # Ray keeps the token that it is imported with
    command = [*run, pile, "--out", place, "--preset", "miniature", "--workers", "3", "--ray", "local"]
    done = subprocess.run(command, env={**os.environ, "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}, capture_output=True, text=True)
    assert "version v1" in done.stdout, done.stderr
    found, expected = by_path(None, out=place), by_path(None, "v1", out=made)
    assert found == expected and any(row["caption"] and row["tag_ids"] for row in found.values())
    assert "nothing new" in curated(place, pile, "--workers", 2)
