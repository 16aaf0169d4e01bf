"""The page in a real browser against a whole server: what people do with it, by mouse, by keyboard, on a phone."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browsing import last_pixel
from PIL import Image, PngImagePlugin
from web import quick_folder

pytestmark = pytest.mark.system

PATIENCE_MS = 600_000  # that anything may take on a busy machine
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PROMPT = "1girl, solo, cat ears, pink hair, "
SMALL = {"width": 96, "height": 128, "steps": 2, "decoder_steps": 1}


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, str]]:
    """Where a server with the embedded model listens, and a key for it."""
    with quick_folder() as data, served(data) as (url, key):
        yield url, key


@contextmanager
def served(data: Path) -> Iterator[tuple[str, str]]:
    (data / "wildcards").mkdir()
    (data / "wildcards" / "hair.txt").write_text("red hair\nblue hair\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SOTE_")} | {"OMP_NUM_THREADS": "1"}
    sote = [sys.executable, "-m", "sotediffusion.cli.main", "serve"]
    add = [*sote, "keys", "add", "ann", "--data", str(data)]
    key = subprocess.run(add, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    log = data / "log"
    with open(log, "wb") as file:
        command = [*sote, "--port", "0", "--data", str(data)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + 300
        while not (found := re.search(r"at (http://\S+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        url = found[1].rstrip("/")
        while httpx2.get(f"{url}/readyz").status_code != 200:  # its worker loads the model
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield url, key
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api

    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def signed_in(browser, address) -> Any:
    """The cookie that the page gets for a key; a wrong key is told of in words."""
    url, key = address
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Key", exact=True).fill("no:key")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").filter(has_text="no valid key")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Prompt", exact=True).wait_for()
    cookies = context.cookies()
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Strict")]
    assert page.evaluate("() => document.cookie") == ""
    context.close()
    return {"cookies": cookies, "origins": []}


@pytest.fixture
def enter(browser, address, signed_in) -> Iterator[Any]:
    """Opens the page as somebody who is signed in; at the end nothing may have gone wrong or gone elsewhere."""
    url, contexts, wrong = address[0], [], []

    def opened(fresh: bool = False, **how: Any) -> Any:
        context = browser.new_context(storage_state=signed_in, **how)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        if fresh:
            forget(context.request, url)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(f"{line.text} {line.location}")
                if line.type == "error" and "422" not in line.text else None)  # fmt: skip
        page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((url, "blob:")) else None)
        with page.expect_response(re.compile(r"/jobs\?state=succeeded")):  # it has caught up with the server
            page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def expect(what: Any) -> Any:
    from playwright import sync_api

    return sync_api.expect(what)


def sizes(page: Any, **changes: int) -> None:
    """Numbers as somebody types them."""
    for name, value in (SMALL | changes).items():
        page.locator(f"#{name}").fill(str(value))


# An offer to take something back stands for seven seconds, and a busy browser may need longer to press it.
NOTES_STAY = """() => {
  const real = window.setTimeout;
  window.setTimeout = (run, after, ...more) => real(run, after < 5000 ? after : 3_600_000, ...more);
  window.notesPass = () => { window.setTimeout = real; };
}"""


def drawn(page: Any) -> Any:
    """The line under a finished picture."""
    line = page.get_by_role("button", name="Use these settings")
    line.wait_for()
    return line


def jobs(page: Any, query: str = "limit=50") -> list[dict[str, Any]]:
    return page.evaluate("(query) => fetch(`api/v1/jobs?${query}`).then((answer) => answer.json())", query)["jobs"]


def forget(request: Any, url: str) -> None:
    """What earlier tests drew goes before a page shows it: a picture gone while it loads is an error in the console."""
    for job in request.get(f"{url}/api/v1/jobs?limit=50").json()["jobs"]:
        request.post(f"{url}/api/v1/jobs/{job['id']}/cancel", data={})
        assert request.delete(f"{url}/api/v1/jobs/{job['id']}").status in (204, 404)  # a page that closed may still delete


def picture(**chunks: str) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    for key, value in chunks.items():
        info.add_text(key, value)
    file = BytesIO()
    Image.new("RGB", (96, 128), "teal").save(file, "PNG", pnginfo=info)
    return {"name": "theirs.png", "mimeType": "image/png", "buffer": file.getvalue()}


def test_it_opens_with_the_card_and_draws_by_keyboard_alone(enter):
    page = enter()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value("newest, extremely aesthetic, best quality, ")
    expect(page.get_by_label("Negative prompt")).to_have_value(re.compile("^very displeasing, worst quality"))
    for name, value in {"steps": "30", "guidance": "7", "decoder_steps": "10", "decoder_guidance": "2"}.items():
        expect(page.locator(f"#{name}")).to_have_value(value)
    sizes(page)
    prompt.focus()
    page.keyboard.press("End")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    drawn(page)
    expect(page.get_by_role("status").filter(has_text="Finished: 1 picture")).to_be_attached()
    assert last_pixel(page.locator(".sheet img"), PATIENCE_MS) == [96, 255]
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("newest, extremely aesthetic, best quality, " + PROMPT)
    expect(page.locator("#steps")).to_have_value("2")
    expect(page.locator(".tile")).to_have_count(1)


def test_the_card_is_there_before_a_slow_server_has_told_its_styles(browser, address, signed_in):
    """Who clicks or types at once changes the card's prompt and not an empty one, which would stay without it."""
    with browser.new_context(storage_state=signed_in) as context:
        context.set_default_timeout(PATIENCE_MS)
        page, held = context.new_page(), []
        page.route("**/api/v1/styles", lambda route: held.append(route))
        page.goto(address[0])
        page.get_by_role("button", name="high quality").click()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("newest, extremely aesthetic, high quality, ")
        page.wait_for_function("() => document.querySelector('#steps').value === '30'")
        wait_for(page, held, 1)
        held.pop().continue_()


def test_chips_completion_tokens_and_weights(enter):
    page = enter()
    prompt = page.get_by_label("Prompt", exact=True)
    page.get_by_role("button", name="high quality").click()
    expect(prompt).to_have_value("newest, extremely aesthetic, high quality, ")
    expect(page.get_by_role("button", name="high quality")).to_have_attribute("aria-pressed", "true")
    prompt.focus()
    page.keyboard.press("End")
    page.keyboard.type("cat e")
    page.get_by_role("option", name=re.compile("cat ears")).wait_for()
    page.keyboard.press("Enter")
    expect(prompt).to_have_value("newest, extremely aesthetic, high quality, cat ears, ")
    page.keyboard.press("Control+ArrowUp")
    page.keyboard.press("Control+ArrowUp")
    expect(prompt).to_have_value("newest, extremely aesthetic, high quality, (cat ears:1.2), ")
    page.keyboard.press("Control+ArrowDown")
    expect(prompt).to_have_value("newest, extremely aesthetic, high quality, (cat ears:1.1), ")
    page.keyboard.press("Control+End")
    page.keyboard.type("__ha")
    page.get_by_role("option", name=re.compile("__hair__")).wait_for()
    page.keyboard.press("Tab")
    expect(prompt).to_have_value(re.compile("__hair__, $"))
    expect(page.locator("[data-name=prompt] .tokens")).to_have_text(re.compile(r"^\d+ tokens"))


def test_favourites_search_undo_delete_and_use_these_settings(enter):
    page = enter(fresh=True)
    sizes(page, count=2)
    page.locator("#seed").fill("5")
    page.get_by_label("Prompt", exact=True).fill("a fox, <img src=x onerror=alert(1)>")
    page.get_by_role("button", name=re.compile("^Generate")).click()
    drawn(page)
    expect(page.locator(".tile")).to_have_count(2)
    page.locator(".tile").first.hover()
    page.locator(".tile").first.get_by_role("button", name="Favourite").click()
    page.get_by_role("button", name="Favourites only").click()
    expect(page.locator(".tile")).to_have_count(1)
    page.get_by_role("button", name="Favourites only").click()
    page.get_by_label("Search the prompts").fill("wolf")
    expect(page.get_by_text("No prompt has these words")).to_be_visible()
    page.get_by_label("Search the prompts").fill("FOX")
    expect(page.locator(".tile")).to_have_count(2)
    page.locator("#steps").fill("9")
    page.get_by_label("Prompt", exact=True).fill("something else")
    page.get_by_role("button", name="Look at it in full size").click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_text("a fox, <img src=x onerror=alert(1)>")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name="Picture 2 of 2")).to_be_visible()
    viewer.get_by_role("button", name="Use these settings").click()
    expect(page.locator("#steps")).to_have_value("2")
    expect(page.locator("#seed")).to_have_value("6")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a fox, <img src=x onerror=alert(1)>")
    for tile in (0, 1):
        page.locator(".tile").nth(tile).hover()
        page.locator(".tile").nth(tile).get_by_role("checkbox", name="Mark").click()
    page.get_by_role("group", name="Marked pictures").get_by_role("button", name="Compare").click()
    expect(page.get_by_role("dialog").get_by_role("row", name=re.compile("Seed 5 6|Seed 6 5"))).to_be_visible()
    page.keyboard.press("Escape")
    page.evaluate(NOTES_STAY)
    page.get_by_role("button", name="Delete the marked").click()
    expect(page.locator(".tile")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".tile")).to_have_count(2)
    page.evaluate("() => notesPass()")
    assert "&width=256" in page.locator(".tile img").first.get_attribute("src")
    page.locator(".tile-picture").first.focus()
    with page.expect_response(re.compile("/api/v1/jobs/.+/pictures/.+")):  # when the offer to take it back has gone
        page.keyboard.press("Delete")
        expect(page.locator(".tile")).to_have_count(1)
    assert [len(job["pictures"]) for job in jobs(page)] == [1]


def hold(page: Any, method: str, path: str) -> list[Any]:
    """Questions to the server that wait until the test lets them go on."""
    held: list[Any] = []
    page.route(path, lambda route: held.append(route) if route.request.method == method else route.fallback())
    return held


def wait_for(page: Any, held: list[Any], count: int) -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while len(held) < count:
        assert time.monotonic() < end
        page.wait_for_timeout(20)


SETTLED = "() => fetch('api/v1/about').then(() => new Promise((done) => setTimeout(done, 50)))"


def test_a_second_order_is_not_lost_beside_the_first_and_the_same_again_is_a_press_too_many(enter):
    page = enter(fresh=True)
    sizes(page)
    ordered = hold(page, "POST", "**/api/v1/jobs")
    for words in ("first", "second", "second"):
        page.get_by_label("Prompt", exact=True).fill(words)
        page.get_by_role("button", name=re.compile("^Generate")).click()
    wait_for(page, ordered, 2)
    page.evaluate(SETTLED)
    assert [order.request.post_data_json["prompt"] for order in ordered] == ["first", "second"]
    for order in ordered:
        order.continue_()
    expect(page.locator(".tile")).to_have_count(2)


def test_an_answer_that_comes_late_takes_no_picture_from_the_gallery(enter):
    page = enter(fresh=True)
    sizes(page)
    late: list[Any] = []
    page.route("**/api/v1/jobs?state=succeeded*", lambda route: late.append((route, route.fetch())))
    page.get_by_role("button", name="Favourites only").click()
    page.get_by_role("button", name="Favourites only").click()
    wait_for(page, late, 2)
    page.get_by_role("button", name=re.compile("^Generate")).click()
    expect(page.locator(".tile")).to_have_count(1)
    for question, answer in late:
        question.fulfill(response=answer)
    page.evaluate(SETTLED)
    expect(page.locator(".tile")).to_have_count(1)
    page.unroute("**/api/v1/jobs?state=succeeded*")
    marked = hold(page, "PUT", "**/favourite")
    page.locator(".tile").hover()
    page.locator(".tile").get_by_role("button", name="Favourite").click()
    wait_for(page, marked, 1)
    page.get_by_role("button", name="Favourites only").click()
    expect(page.get_by_text("No favourites yet")).to_be_visible()
    marked.pop().continue_()
    expect(page.locator(".tile")).to_have_count(1)


def test_the_queue_is_reordered_and_cancelled(enter):
    page = enter(fresh=True)
    sizes(page, steps=150, count=16, width=512, height=512)  # none may end by itself meanwhile
    for words in ("first", "second", "third"):
        page.get_by_label("Prompt", exact=True).fill(words)
        page.get_by_role("button", name=re.compile("^Generate")).click()
        state = ".running" if words == "first" else ".queued"  # the first takes all the room there is
        page.locator(f".job{state}", has_text=words).wait_for()
    waiting = page.locator(".job.queued .job-prompt")
    expect(waiting).to_have_text(["second", "third"])
    page.locator(".job.queued", has_text="third").get_by_role("button", name="Draw it earlier").click()
    expect(waiting).to_have_text(["third", "second"])
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator(".job")).to_have_count(0)
    page.get_by_label("Prompt", exact=True).fill("fourth")
    page.keyboard.press("Control+Enter")
    page.locator(".job", has_text="fourth").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".job")).to_have_count(0)
    assert {job["state"] for job in jobs(page)} == {"cancelled"}


A1111 = ("a fox (sitting:1.3)\nNegative prompt: bad\nSteps: 21, Sampler: Euler a, CFG scale: 5.5, Seed: 77, Size: 128x96, "
         "Model hash: abc, Model: x, Clip skip: 2, Version: v1.10.1")  # fmt: skip


def test_the_settings_of_a_strangers_picture_are_taken_and_one_starts_a_drawing(enter):
    page = enter()
    page.evaluate(NOTES_STAY)
    page.get_by_label("Take the settings of a picture file").set_input_files(picture(parameters=A1111))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a fox (sitting:1.3)")
    for name, value in {"steps": "21", "guidance": "5.5", "seed": "77", "width": "128", "height": "96"}.items():
        expect(page.locator(f"#{name}")).to_have_value(value)
    expect(page.locator("#sampler")).to_have_value("euler_ancestral")
    expect(page.locator(".notice")).to_contain_text("Not taken over: Clip skip")
    sizes(page)
    page.get_by_text("Start from a picture").click()
    page.get_by_label(re.compile("choose a file")).set_input_files(picture())
    expect(page.get_by_label("Denoise", exact=True)).to_have_value("0.6")
    page.get_by_label("Denoise", exact=True).fill("0.5")
    with page.expect_response(re.compile("/api/v1/jobs$")) as answer:
        page.get_by_role("button", name=re.compile("^Generate")).click()
    job = answer.value.json()
    assert (job["request"]["init"], job["request"]["strength"]) == (True, 0.5)


def test_a_grid_draws_all_its_pictures(enter):
    page = enter(fresh=True)
    sizes(page)
    page.get_by_role("button", name="X/Y grid").click()
    grid = page.get_by_role("dialog", name="X/Y grid")
    grid.get_by_label("Values, across").fill("1, 3")
    grid.get_by_label("Down", exact=True).select_option("none")
    grid.get_by_role("button", name="Draw 2 pictures").click()
    expect(grid.get_by_text("2 of 2 pictures")).to_be_visible()
    expect(grid.get_by_role("columnheader", name="Guidance 3")).to_be_visible()
    seeds = {(job["request"]["seed"], job["request"]["guidance"]) for job in jobs(page)}
    assert len({seed for seed, _ in seeds}) == 1 and {guidance for _, guidance in seeds} == {1, 3}
    with page.expect_download() as saved:
        grid.get_by_role("button", name="Download as one picture").click()
    assert Image.open(saved.value.path()).width == 2 * 384


def test_what_a_search_leaves_out_is_still_shown_when_it_is_drawn_and_looked_at_from_a_grid(enter):
    page = enter(fresh=True)
    sizes(page, count=3)
    page.get_by_label("Search the prompts").fill("wolf")
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_role("button", name=re.compile("^Generate")).click()
    drawn(page)
    page.get_by_role("button", name="X/Y grid").click()
    grid = page.get_by_role("dialog", name="X/Y grid")
    grid.get_by_label("Values, across").fill("1")
    grid.get_by_label("Down", exact=True).select_option("none")
    grid.get_by_role("button", name="Draw 1 picture").click()
    expect(grid.get_by_text("1 of 1 pictures")).to_be_visible()
    grid.get_by_role("button", name="Look at it in full size").click()
    expect(page.get_by_role("heading", name="Picture 1 of 1")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".tile")).to_have_count(0)
    page.get_by_label("Search the prompts").fill("")
    expect(page.locator(".tile")).to_have_count(4)
    page.evaluate(NOTES_STAY)
    names = page.locator(".tile").evaluate_all("(tiles) => tiles.map((tile) => tile.dataset.name)")
    page.locator(".tile-picture").nth(1).focus()
    page.keyboard.press("Delete")  # goes on to the next one
    assert page.evaluate("() => document.activeElement.closest('.tile').dataset.name") == names[2]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".tile")).to_have_count(4)


def test_what_is_refused_is_said_beside_its_field(enter):
    page = enter()
    page.locator("#width").fill("100")
    page.get_by_role("button", name=re.compile("^Generate")).click()
    expect(page.locator("#problem-width")).to_contain_text("100 is not a multiple of 8")
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_role("button", name=re.compile("^Generate")).click()
    expect(page.locator("#problem-prompt")).to_contain_text("Write what should be drawn")


NAMELESS = """() => {
  const named = (one) => one.getAttribute("aria-label") || one.labels?.length || one.innerText.trim() || one.querySelector("[alt]:not([alt=''])");
  return [...document.querySelectorAll("button, input, select, textarea, a, summary")]
    .filter((one) => one.checkVisibility() && !named(one)).map((one) => one.outerHTML);
}"""  # noqa: E501


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1440, 900)])
def test_nothing_sticks_out_and_everything_has_a_name(enter, width, height):
    page = enter(viewport={"width": width, "height": height}, color_scheme="dark" if width > 1000 else "light")
    for room in ("Prompt", "Picture", "Gallery") if width < 760 else (None,):
        if room:
            page.get_by_role("navigation", name="Rooms").get_by_role("button", name=room).click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate(NAMELESS) == []
