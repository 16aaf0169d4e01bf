"""The page when things come late, twice, in the wrong order or not at all: in a real browser, the server played by the test."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sotediffusion.serve import front

pytestmark = pytest.mark.system

WEB = Path(front.__file__).parent / "web"
PATIENCE_MS = 600_000  # that anything may take on a busy machine
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PLACE = "http://page.test"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

# The server's part: a question whose address has the words of one in `ready` is answered at once, the others wait in `asked`
# until `answer` answers or `cut` breaks the first that has these words.
PLAYED = """
  window.asked = [];
  window.ready = [];
  window.pause = (time = 20) => new Promise((passed) => setTimeout(passed, time));
  window.painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // and effects have run
  // All of it is there at once: whatever follows from an answer has come about when a timer passes, however busy the machine.
  window.reply = (text, status = 200) => ({
    ok: status < 300, status, headers: new Headers(),
    text: async () => text, json: async () => JSON.parse(text), blob: async () => new Blob([text]),
  });
  window.fetch = (url, { method = "GET", body, headers } = {}) => new Promise((done, broken) => {
    const words = `${method} ${url}`;
    const known = ready.find(([part]) => words.includes(part));
    if (known) done(reply(JSON.stringify(known[1])));
    else {
      const said = typeof body === "string" ? JSON.parse(body) : body;
      asked.push({ words, done, broken, said, key: headers?.["Idempotency-Key"] });
    }
  });
  window.waiting = (words) => asked.filter((one) => one.words.includes(words));
  window.taken = (words) => {
    const [found] = waiting(words);
    if (!found) throw new Error(`${words} was not asked for: ${asked.map((one) => one.words)}`);
    asked.splice(asked.indexOf(found), 1);
    return found;
  };
  window.answer = (words, said, status = 200) => {
    taken(words).done(reply(typeof said === "string" ? said : JSON.stringify(said), status));
    return pause();
  };
  window.cut = (words) => {
    taken(words).broken(new TypeError("Failed to fetch"));
    return pause();
  };
  window.EventSource = class extends EventTarget {
    constructor() { super(); window.line = this; }
    close() { this.closed = true; }
  };
  window.news = (kind, said) => line.dispatchEvent(Object.assign(new Event(kind), { data: JSON.stringify(said) }));
  window.job = (id, state, version, names = [], created = 1) => ({
    id, state, version, created, model: "m", request: { prompt: "hat", width: 64, height: 64 },
    pictures: names.map((name) => ({ name, url: `/${name}.png?s=1`, width: 64, height: 64, seed: 1, settings: {} })),
  });
  window.nothing = { jobs: [], next: null };
"""
NUMBERS = ("steps", "guidance", "decoder_steps", "decoder_guidance", "shift", "decoder_shift", "count")
ABOUT: dict[str, Any] = {
    "version": "1", "key": True, "scopes": ["draw"], "retention_s": None,
    "presets": {}, "samplers": ["ddpm"], "schedules": ["default"],
    "models": [{"name": "m", "width": 64, "height": 64, "init": True, "loras": []}],
    "limits": {name: [0, 100] for name in NUMBERS} | {"pixels": 10**7},
    "defaults": dict.fromkeys(NUMBERS, 1) | {"sampler": "ddpm", "schedule": "default", "strength": 0.5, "rescale": 0},
    "prompts": {"chips": {}, "prefix": "a hat, ", "negative": "", "sizes": [], "examples": []},
}  # fmt: skip
READY = [
    ["v1/about", ABOUT], ["v1/styles", {"styles": []}], ["v1/wildcards", {"wildcards": {}}],
    ["v1/tokens", {"tokens": 1, "chunks": 1}],
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def serve(route: Any) -> None:
    path = WEB / route.request.url.removeprefix(f"{PLACE}/").partition("?")[0]
    if path.is_file():
        route.fulfill(body=path.read_text(), content_type=TYPES.get(path.suffix, "text/html"))
    else:
        route.fulfill(body="<!doctype html>" if path == WEB else "", content_type="text/html")


@pytest.fixture
def play(browser) -> Iterator[Callable[[str], Any]]:
    """Runs a play, the body of an asynchronous function with the page's modules, in an empty page; what it returns."""
    page = browser.new_page()
    page.route("**/*", serve)
    page.goto(f"{PLACE}/")
    page.evaluate(PLAYED)
    named = ["about", "draw", "form", "jobs", "notices", "pictures", "view", "xy"]
    modules = " ".join(f"const {name} = await import('/state/{name}.js');" for name in named)
    yield lambda body: page.evaluate(f"async () => {{ {modules} {body} }}")
    page.close()


@pytest.fixture
def enter(browser) -> Iterator[Callable[..., Any]]:
    """Opens the whole page, with what is kept in the browser and `jobs` in the gallery; nothing may go wrong in it."""
    contexts, wrong = [], []

    def opened(*jobs: str, kept: dict[str, str] | None = None, ready: Any = READY, **how: Any) -> Any:
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/*", serve)
        drawn = ", ".join(f'job("{id}", "succeeded", 1, ["{id}"], {-at})' for at, id in enumerate(jobs))
        lists = f'[["state=succeeded", {{ jobs: [{drawn}], next: null }}], ["?state=", nothing]]'
        page.add_init_script(f"{PLAYED} window.ready = [...{json.dumps(ready)}, ...{lists}];")
        stored = json.dumps(list((kept or {}).items()))
        page.add_init_script(f"for (const [name, text] of {stored}) localStorage.setItem(name, text);")
        page.goto(f"{PLACE}/index.html")
        page.get_by_label("Prompt", exact=True).wait_for()
        page.wait_for_function("window.line")
        page.evaluate("line.onopen()")
        if jobs:
            page.locator(".tile").nth(len(jobs) - 1).wait_for()
        page.evaluate("painted()")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def held(page: Any, key: str, times: int = 4) -> None:
    """A key that is held down, as long as it takes to repeat itself."""
    for _ in range(times):
        page.keyboard.down(key)
    page.keyboard.up(key)


def asked(page: Any, words: str) -> list[str]:
    """The open questions with these words."""
    found: list[str] = page.evaluate("(words) => pause(50).then(() => waiting(words).map((one) => one.words))", words)
    return found


def test_what_was_deleted_is_deleted_at_once_and_before_the_session_ends(play):
    found = play("""
      jobs.reload();
      await answer("GET", { jobs: [job("a", "succeeded", 1, ["1"]), job("b", "succeeded", 1, ["2", "3", "4"])], next: null });
      jobs.discard(jobs.pictures.value.slice(0, 3));
      about.signOut();
      const deleted = asked.map((one) => one.words.split("v1/")[1]).sort();
      await answer("jobs/a", {});
      await answer("pictures/2", job("b", "succeeded", 2, ["3", "4"]));
      const early = waiting("session").length;
      await answer("pictures/3", job("b", "succeeded", 3, ["4"]));
      await cut("session");
      return [deleted, early, notices.notices.value.map((one) => one.kind)];
    """)
    assert found == [["jobs/a", "jobs/b/pictures/2", "jobs/b/pictures/3"], 0, ["error"]]


def test_a_key_that_is_held_down_deletes_one_picture_and_favours_it_once(enter):
    page = enter("a", "b", "c")
    page.locator(".tile-picture").first.focus()
    held(page, "Delete")
    assert page.locator(".tile").count() == 2
    held(page, "f")
    assert len(asked(page, "favourite")) == 1
    page.keyboard.press("Enter")
    page.locator(".tile-picture").first.dblclick()
    page.get_by_role("dialog").wait_for()
    page.evaluate("painted()")
    held(page, "f")
    assert len(asked(page, "favourite")) == 2


def test_a_held_escape_cancels_one_job_and_one_in_the_search_none(enter):
    page = enter()
    page.evaluate("['a', 'b'].forEach((id) => news('job', job(id, 'queued', 1)))")
    page.get_by_label("Search the prompts").press("Escape")
    assert asked(page, "cancel") == []
    page.locator("body").click()
    held(page, "Escape")
    assert len(asked(page, "cancel")) == 1


STYLED = """
  jobs.start();
  about.load();
  await answer("about", { models: [{ name: "m" }], prompts: {}, scopes: ["draw"] });
  await answer("wildcards", { wildcards: {} });
  form.form.prompt.value = "a cat";
  form.form.chosenStyles.value = ["soft"];
"""
TOLD = 'await answer("styles", { styles: [{ name: "soft", prompt: "soft light" }] });'


def test_an_order_waits_for_the_styles_and_is_of_the_form_at_the_press(play):
    found = play(f"""{STYLED}
      draw.draw();
      form.form.prompt.value = "a dog";
      await pause();
      const early = waiting("POST").length;
      {TOLD}
      return [early, waiting("POST").map((one) => one.said.prompt)];
    """)
    assert found == [0, ["a cat, soft light"]]


def test_styles_that_cannot_be_asked_for_again_stay(play):
    found = play(f"""{STYLED} {TOLD}
      line.onerror();
      line.onopen();
      await answer("about", {{ models: [{{ name: "m" }}], prompts: {{}}, scopes: ["draw"] }});
      await cut("styles");
      await cut("wildcards");
      draw.draw();
      await pause();
      return taken("POST").said.prompt;
    """)
    assert found == "a cat, soft light"


def test_an_answer_to_an_order_leaves_the_user_where_he_has_gone_meanwhile(play):
    found = play(f"""{STYLED} {TOLD}
      draw.draw();
      view.show({{ name: "other" }});
      view.view.room.value = "gallery";
      await pause();
      await answer("POST", job("a", "queued", 1));
      const {{ room, shown, following }} = view.view;
      return [room.value, shown.value, following.value];
    """)
    assert found == ["gallery", "other", "a"]


def test_the_same_order_after_a_lost_answer_is_the_same_and_after_an_answer_another(play):
    found = play(f"""{STYLED} {TOLD}
      const keys = [];
      const press = async () => {{
        draw.draw();
        await pause();
        keys.push(waiting("POST").at(-1).key);
      }};
      await press();
      await press();
      const words = notices.notices.value.at(-1).text;
      await cut("POST");
      await press();
      await answer("POST", "<h1>Sign in to this network</h1>");
      await press();
      await answer("POST", job("a", "queued", 1));
      await press();
      return [words, keys.map((key) => keys.indexOf(key)), notices.notices.value.map((one) => one.text).join()];
    """)
    assert found[:2] == ["It is on its way to the server", [0, 0, 0, 0, 4]]
    assert "cannot be reached" in found[2] and "is not this server" in found[2]


def test_a_grid_is_of_the_form_at_the_press_survives_a_broken_line_and_ends_when_it_is_forgotten(play):
    found = play(f"""{STYLED} {TOLD}
      const real = setTimeout;
      window.setTimeout = (run, time, ...more) => real(run, time === 5000 ? 0 : time, ...more);
      const next = (field, text) => xy.drawGrid({{ field, text }}, {{ field: "none", text: "" }}).catch((error) => error.message);
      next("guidance", "1, 2, 3");
      form.form.prompt.value = "a dog";
      const second = await next("steps", "1");
      await pause();
      const asks = [waiting("POST")[0]];
      await cut("POST");
      asks.push(waiting("POST")[0]);
      await answer("POST", job("a", "queued", 1));
      asks.push(waiting("POST")[0]);
      xy.forgetGrid(xy.grids.value[0].id);
      await answer("POST", job("b", "queued", 1));
      const orders = asks.map((one) => [one.said.prompt, one.said.guidance, asks.findIndex(({{ key }}) => key === one.key)]);
      return [orders, second, waiting("POST").length];
    """)
    prompt = "a cat, soft light"
    assert found[0] == [[prompt, 1, 0], [prompt, 1, 0], [prompt, 2, 2]]
    assert "still being sent" in found[1] and found[2] == 0


def offered(page: Any, words: str, tags: list[dict[str, Any]]) -> None:
    page.get_by_label("Prompt", exact=True).press_sequentially(words)
    page.evaluate("pause()")
    page.evaluate("(tags) => { while (waiting('v1/tags').length) answer('v1/tags', { tags }); return pause(); }", tags)


CAT = {"name": "cat_ears", "category": 0, "count": 1}


def test_offers_of_an_earlier_word_or_of_another_place_are_not_taken(enter):
    page = enter()
    box, options = page.get_by_label("Prompt", exact=True), page.locator("#prompt-completions li")
    offered(page, "cat", [CAT])
    assert options.first.inner_text().startswith("cat ears")
    page.keyboard.type("c")
    page.keyboard.press("Tab")
    assert box.input_value() == "a hat, catc"
    box.fill("a hat, ")
    offered(page, "cat", [CAT])
    page.keyboard.type("_e")
    page.keyboard.press("Tab")
    assert box.input_value() == "a hat, cat ears, "
    offered(page, "cat", [CAT])
    assert options.count() == 1
    page.keyboard.press("ArrowLeft")
    page.evaluate("pause()")
    assert options.count() == 0


def test_wildcards_that_come_late_are_offered_for_what_is_typed_already(enter):
    page = enter(ready=[one for one in READY if "wildcards" not in one[0]])
    page.get_by_label("Prompt", exact=True).press_sequentially("__ha")
    page.evaluate("answer('wildcards', { wildcards: { hair: ['red'] } })")
    assert page.locator("#prompt-completions li").first.inner_text().startswith("__hair__")


def test_an_own_style_stands_instead_of_the_servers_and_tokens_are_counted_anew_when_styles_come(enter):
    own = {"styles": [{"name": "soft", "prompt": "mine", "negative": ""}], "chosenStyles": ["soft", "loud"]}
    ready = [one for one in READY if one[0] not in ("v1/styles", "v1/tokens")]
    page = enter(kept={"sote.settings": json.dumps(own)}, ready=ready)
    page.wait_for_function("waiting('v1/tokens').length")
    page.evaluate("answer('v1/styles', { styles: [{ name: 'soft', prompt: 'theirs' }, { name: 'loud', prompt: 'loud' }] })")
    page.wait_for_function("waiting('v1/tokens').length >= 3")
    assert page.evaluate("waiting('v1/tokens').some((one) => one.said.text === 'a hat, loud, mine')")
    assert page.get_by_role("button", name="soft", exact=True).count() == 1


def test_what_is_told_of_an_order_before_its_answer_leaves_no_ghost_and_its_end_is_said(play):
    found = play(f"""{STYLED} {TOLD}
      const order = async (id, ...told) => {{
        draw.draw();
        await pause();
        told.forEach((one) => news("job", one));
        await answer("POST", job(id, "queued", 1));
      }};
      const failed = {{ ...job("a", "failed", 3), error: {{ message: "broken" }} }};
      await order("a", job("a", "queued", 1), job("a", "running", 2), failed);
      await order("b", job("b", "succeeded", 3, ["b"]));
      news("job", job("b", "running", 2));
      await order("c", job("c", "running", 3));
      const cancelled = jobs.live.value.get("c");
      (await import("/state/acts.js")).cancel("c");
      await answer("cancel", job("c", "cancelled", 5));
      news("job", job("c", "running", 4));
      return [[...jobs.live.value.keys()], cancelled.state, jobs.failed.value.map((one) => one.id),
              notices.notices.value.map((one) => one.text), form.form.lastSeed.value];
    """)
    assert found == [[], "running", ["a"], ["It failed: broken"], 1]


def test_what_became_of_jobs_while_the_page_slept_is_asked_for(play):
    found = play(f"""{STYLED} {TOLD}
      draw.draw();
      await pause();
      await answer("POST", job("a", "queued", 1));
      news("job", job("b", "queued", 1));
      line.onopen();
      await answer("state=running", nothing);
      await answer("state=queued", nothing);
      await answer("jobs/b", {{ error: {{ message: "gone" }} }}, 404);
      await answer("jobs/a", {{ ...job("a", "failed", 3), error: {{ message: "broken" }} }});
      return [[...jobs.live.value.keys()], jobs.failed.value.map((one) => one.id), notices.notices.value.map((one) => one.text)];
    """)
    assert found == [[], ["a"], ["It failed: broken"]]


def test_a_reconnect_keeps_what_was_loaded_of_the_gallery_but_not_what_was_deleted(play):
    found = play("""
      const drawn = (...ids) => ids.map((id) => job(id, "succeeded", 1, [id], Number(id)));
      jobs.start();
      line.onopen();
      await answer("state=succeeded", { jobs: drawn("9", "8", "7"), next: "7" });
      jobs.loadMore();
      await answer("before=7", { jobs: drawn("6", "5"), next: "5" });
      line.onopen();
      await answer("state=succeeded", { jobs: drawn("10", "9", "7"), next: "7" });
      const first = [jobs.gallery.value.map((one) => one.id), jobs.more.value];
      jobs.search.value = "cat";
      line.onopen();
      await answer("q=cat", { jobs: drawn("7", "4"), next: "4" });
      return [first, [jobs.gallery.value.map((one) => one.id), jobs.more.value]];
    """)
    assert found == [[["10", "9", "7", "6", "5"], "5"], [["7", "4"], "4"]]


def test_a_gallery_that_could_not_be_asked_for_is_asked_for_again_and_not_called_empty(play):
    found = play("""
      const real = setTimeout;
      window.setTimeout = (run, time, ...more) => real(run, time === 5000 ? 0 : time, ...more);
      const first = jobs.loading.value;
      jobs.search.value = "cat";
      jobs.start();
      line.onopen();
      await cut("q=cat");
      await answer("q=cat", { error: { message: "busy" } }, 503);
      const between = jobs.loading.value;
      await answer("q=cat", { jobs: [job("a", "succeeded", 1, ["a"])], next: "a" });
      jobs.loadMore();
      await answer("before=a", { error: { field: "before", message: "no such job" } }, 422);
      await answer("q=cat", nothing);
      return [first, between, jobs.loading.value, jobs.gallery.value.length, notices.notices.value.length];
    """)
    assert found == [True, True, False, 0, 1]


def test_another_owner_sees_nothing_of_the_earlier_one(play):
    found = play("""
      about.load();
      await answer("about", { models: [{ name: "m" }], prompts: {}, key: true, scopes: ["draw"] });
      jobs.start();
      line.onopen();
      await answer("state=succeeded", { jobs: [job("a", "succeeded", 1, ["a"])], next: "a" });
      news("job", job("b", "queued", 1));
      view.show({ name: "a" });
      view.view.marked.value = ["a"];
      view.open({ kind: "help" });
      form.init.value = { data: "x" };
      about.lookAgain();
      await answer("about", { models: [], prompts: {}, key: true, scopes: [] });
      await answer("state=running", { jobs: [job("c", "running", 1)] });
      await answer("state=queued", nothing);
      const { shown, marked, dialog } = view.view;
      const left = [jobs.live.value.size, jobs.seen.value.size, jobs.gallery.value.length, marked.value.length];
      asked.length = 0;
      about.lookAgain();
      await answer("about", { models: [], prompts: {}, key: true, scopes: [] });
      const entered = about.signIn("key").catch((error) => error.message);
      await answer("session", {});
      await cut("about");
      return [left, shown.value, dialog.value, form.init.value, await entered];
    """)
    assert found[:4] == [[0, 0, 0, 0], None, None, None]
    assert "cannot be reached" in found[4]


def test_what_was_chosen_last_is_started_from_whatever_comes_late(play):
    found = play("""
      const [first, second, third] = [1, 2, 3].map(() => Promise.withResolvers());
      form.startWith(first.promise);
      form.startWith(second.promise);
      second.resolve("second");
      await pause();
      first.resolve("first");
      await pause();
      const late = form.init.value;
      form.startWith(third.promise);
      form.reset();
      third.resolve("third");
      await pause();
      return [late, form.init.value];
    """)
    assert found == ["second", None]


def test_settings_of_a_file_win_over_no_later_file_and_over_nothing_that_was_edited_since(play):
    found = play(f"""{STYLED}
      const file = new Blob(["x"]);
      pictures.recallSettings(file);
      pictures.recallSettings(file);
      form.form.prompt.value = "mine";
      const [early, late] = [taken("settings"), taken("settings")];
      const told = (one, settings) => (one.done(reply(JSON.stringify({{ settings }}))), pause());
      await told(late, {{ prompt: "late", steps: 2 }});
      await told(early, {{ prompt: "early", steps: 3 }});
      form.init.value = {{ data: "x" }};
      const both = [form.form.prompt.value, form.form.steps.value];
      pictures.useSettings({{ ...job("a", "succeeded", 1, ["a"]).pictures[0], job: job("a", "succeeded", 1) }});
      return [...both, form.init.value];
    """)
    assert found == ["mine", 2, None]


def test_a_picture_that_cannot_be_fetched_is_told_of_in_words_and_an_expired_address_is_asked_for_anew(play):
    found = play("""
      const drawn = job("a", "succeeded", 1, ["a"]);
      const picture = { ...drawn.pictures[0], job: drawn };
      const fresh = pictures.bytes(picture);
      await answer("/a.png", "expired", 404);
      await answer("jobs/a", { ...drawn, pictures: [{ name: "a", url: "/fresh.png" }] });
      await answer("/fresh.png", "content");
      pictures.download(picture);
      await cut("/a.png");
      await answer("jobs/a", { ...drawn, pictures: null });
      return [await (await fresh).text(), notices.notices.value.map((one) => one.text)];
    """)
    assert found == ["content", ["The picture cannot be fetched; it may have been deleted."]]


ODD: dict[str, list[Any]] = {
    "sote.settings": [
        None, 5, "x", [], {"prompt": 5, "steps": "many", "sampler": {}},
        {"styles": "x", "loras": [None, {}], "chosenStyles": 5},
    ],
    "sote.grids": [None, {}, [{"id": 1}, None], [{"x": {"field": "none"}, "y": {"field": "gone"}, "jobs": []}]],
    "sote.axes": [None, "x", {"x": None}, {"x": {"field": "gone"}, "y": {"field": "none"}}],
    "sote.theme": [5, "pink"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_whatever_is_kept_in_the_browser_the_page_opens_and_draws(enter, name, value):
    page = enter(kept={name: json.dumps(value)})
    page.get_by_role("button", name="X/Y grid").click()
    page.get_by_role("dialog", name="X/Y grid").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("waiting('POST').length")
    assert page.evaluate("waiting('POST')[0].said.prompt") == "a hat, "


def test_a_style_saved_in_another_tab_stays_though_this_one_keeps_its_form(enter):
    page = enter()
    other = page.context.new_page()
    other.route("**/*", serve)
    other.goto(f"{PLACE}/empty")
    saved = "{ ...JSON.parse(localStorage.getItem('sote.settings')), styles: [{ name: 'mine', prompt: 'x', negative: '' }] }"
    page.wait_for_function("localStorage.getItem('sote.settings')")
    other.evaluate(f"localStorage.setItem('sote.settings', JSON.stringify({saved}))")
    page.get_by_role("button", name="mine", exact=True).wait_for()
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.wait_for_function("JSON.parse(localStorage.getItem('sote.settings')).prompt === 'a fox'")
    assert [style["name"] for style in page.evaluate("JSON.parse(localStorage.getItem('sote.settings')).styles")] == ["mine"]


def test_the_viewers_ends_keep_the_keys_alive_and_a_comparison_ends_with_its_picture(enter):
    page = enter("a", "b")
    page.locator(".tile-picture").first.dblclick()
    viewer = page.get_by_role("dialog")
    viewer.get_by_role("heading", name="Picture 1 of 2").wait_for()
    viewer.get_by_role("button", name="The next one").click()
    viewer.get_by_role("heading", name="Picture 2 of 2").wait_for()
    page.keyboard.press("ArrowLeft")
    viewer.get_by_role("heading", name="Picture 1 of 2").wait_for()
    page.keyboard.press("Escape")
    for tile in (0, 1):
        page.locator(".tile").nth(tile).hover()
        page.locator(".tile").nth(tile).get_by_role("checkbox", name="Mark").click()
    page.get_by_role("group", name="Marked pictures").get_by_role("button", name="Compare").click()
    viewer.wait_for()
    page.evaluate("news('gone', { id: 'a' })")
    viewer.wait_for(state="detached")


PASTE = """(text) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File(["x"], "picture.png", { type: "image/png" }));
  if (text) clipboardData.setData("text/plain", text);
  document.querySelector("#prompt").dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""


def test_a_pasted_text_with_its_picture_opens_nothing_and_the_focus_is_taken_once(enter):
    page = enter()
    page.evaluate(PASTE, "a word")
    page.evaluate("pause()")
    assert page.get_by_role("dialog").count() == 0
    page.evaluate(PASTE, "")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Save the prompts as a style").click()
    page.wait_for_function("document.activeElement.name === 'name'")
    page.get_by_label("Prompt", exact=True).press_sequentially("fox, ")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_the_title_tells_no_progress_when_the_session_has_ended(enter):
    page = enter()
    page.evaluate("news('job', { ...job('a', 'running', 1), progress: { step: 1, steps: 2, phase: 'stage c' } })")
    page.wait_for_function("document.title.startsWith('50 %')")
    page.evaluate("ready.unshift(['v1/about', { models: [{ name: 'm' }], prompts: {}, key: true, scopes: [] }])")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("document.title === 'SoteDiffusion'")
