"""What the page knows of jobs, in a real browser against answers that come in any order: late ones change nothing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sotediffusion.serve import front

pytestmark = pytest.mark.system

WEB = Path(front.__file__).parent / "web"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PLACE = "http://page.test"
TYPES = {".js": "text/javascript", ".html": "text/html"}

# The server's part, played by the test: `asked` are open questions, `answer` answers the first whose address has these words.
PLAYED = """
  window.asked = [];
  window.fetch = (url, { method }) => new Promise((done) => asked.push({ words: `${method} ${url}`, done }));
  window.answer = async (words, said, status = 200) => {
    const at = asked.findIndex((one) => one.words.includes(words));
    if (at < 0) throw new Error(`${words} was not asked for: ${asked.map((one) => one.words)}`);
    const text = JSON.stringify(said); // all of it is there at once, so that what follows has come about when the timer passes
    const read = { text: async () => text, json: async () => JSON.parse(text) };
    asked.splice(at, 1)[0].done({ ok: status < 300, status, headers: new Headers(), ...read });
    await new Promise((passed) => setTimeout(passed, 20));
  };
  window.EventSource = class extends EventTarget {
    constructor() { super(); window.line = this; }
    close() {}
  };
  window.news = (kind, said) => line.dispatchEvent(Object.assign(new Event(kind), { data: JSON.stringify(said) }));
  window.job = (id, state, version, names = []) => ({
    id, state, version, created: 1, request: { prompt: "hat" }, pictures: names.map((name) => ({ name })),
  });
  window.nothing = { jobs: [], next: null };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def play(browser) -> Iterator[Any]:
    """Runs a play, the body of an asynchronous function with `jobs`, the module, in an empty page; what it returns."""
    page = browser.new_page()

    def serve(route: Any) -> None:
        path = WEB / route.request.url.removeprefix(f"{PLACE}/")
        text = path.read_text() if path.is_file() else "<!doctype html>"
        route.fulfill(body=text, content_type=TYPES.get(path.suffix, "text/html"))

    page.route("**/*", serve)
    page.goto(f"{PLACE}/")
    page.evaluate(PLAYED)
    yield lambda body: page.evaluate(f"async () => {{ const jobs = await import('/state/jobs.js'); {body} }}")
    page.close()


def test_a_job_that_ended_or_went_while_the_page_caught_up_does_not_come_back(play):
    found = play("""
      jobs.start();
      line.onopen();
      ["a", "b", "c"].forEach((id) => news("job", job(id, "running", 1)));
      news("job", job("a", "failed", 2));
      news("gone", { id: "b" });
      news("job", job("d", "queued", 1));
      await answer("state=running", { jobs: ["a", "b", "c", "e"].map((id) => job(id, "running", 1)) });
      await answer("state=queued", nothing);
      return [...jobs.live.value.keys()].sort();
    """)
    assert found == ["c", "d", "e"]


def test_only_the_last_of_two_catchings_up_counts(play):
    found = play("""
      jobs.start();
      line.onopen();
      line.onopen();
      const late = asked.splice(0, 2);
      await answer("state=running", { jobs: [job("new", "running", 1)] });
      await answer("state=queued", nothing);
      asked.push(...late);
      await answer("state=running", { jobs: [job("old", "running", 1)] });
      await answer("state=queued", nothing);
      return [...jobs.live.value.keys()];
    """)
    assert found == ["new"]


def test_the_gallery_shows_what_was_searched_for_last_in_whatever_order_the_answers_come(play):
    found = play("""
      const gallery = () => jobs.gallery.value.map((job) => job.id);
      jobs.search.value = "cat";
      jobs.reload();
      await answer("q=cat", { jobs: [job("cat", "succeeded", 1, ["1"])], next: "cat" });
      jobs.loadMore();
      jobs.search.value = "dog";
      jobs.reload();
      jobs.search.value = "hat";
      jobs.reload();
      await answer("q=hat", { jobs: [job("hat", "succeeded", 1, ["2"])], next: null });
      const whole = [gallery(), jobs.more.value, jobs.loading.value];
      await answer("q=dog", { jobs: [job("dog", "succeeded", 1, ["3"])], next: "dog" });
      await answer("before=cat", { jobs: [job("cat 2", "succeeded", 1, ["4"])], next: "cat 2" });
      return [whole, [gallery(), jobs.more.value, jobs.loading.value]];
    """)
    assert found == [[["hat"], None, False]] * 2


def test_the_gallery_still_goes_on(play):
    found = play("""
      jobs.reload();
      await answer("GET", { jobs: [job("a", "succeeded", 1, ["1"])], next: "a" });
      jobs.loadMore();
      jobs.loadMore();
      const questions = asked.length;
      await answer("before=a", { jobs: [job("a", "succeeded", 1, ["1"]), job("b", "succeeded", 1, ["2"])], next: null });
      return [questions, jobs.gallery.value.map((job) => job.id), jobs.more.value, jobs.loading.value];
    """)
    assert found == [1, ["a", "b"], None, False]


def test_what_is_gone_already_is_deleted_and_the_rest_is_deleted_too(play):
    found = play("""
      const gone = { error: { code: "not_found", field: null, message: "there is no such job" } };
      const { dismiss, notices } = await import('/state/notices.js');
      jobs.reload();
      const drawn = [["a", ["1"]], ["b", ["2"]], ["c", ["3", "4"]]];
      await answer("GET", { jobs: drawn.map(([id, names]) => job(id, "succeeded", 1, names)), next: null });
      jobs.discard(jobs.pictures.value.slice(0, 3));
      dismiss(notices.value[0].id);
      await answer("DELETE http://page.test/api/v1/jobs/a", gone, 404);
      await answer("DELETE http://page.test/api/v1/jobs/b", {});
      await answer("DELETE http://page.test/api/v1/jobs/c/pictures/3", gone, 404);
      return [jobs.pictures.value.map((picture) => picture.name), notices.value.map((one) => one.text)];
    """)
    assert found == [["4"], []]


def test_the_gallery_goes_on_though_the_job_at_its_end_was_deleted(play):
    found = play("""
      jobs.start();
      jobs.reload();
      await answer("GET", { jobs: ["c", "b"].map((id) => job(id, "succeeded", 1, [id])), next: "b" });
      news("gone", { id: "b" });
      const behind = jobs.more.value;
      news("gone", { id: "c" });
      await answer("GET", { jobs: [job("a", "succeeded", 1, ["1"])], next: null });
      return [behind, jobs.gallery.value.map((job) => job.id)];
    """)
    assert found == ["c", ["a"]]
