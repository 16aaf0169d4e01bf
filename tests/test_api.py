"""The own API over a real connection: jobs from submission to picture, their events, and every fault in words."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from web import ORDER, Site, png, quick_folder, site

from sotediffusion.pictures.marks import read_marks
from sotediffusion.serve import news
from sotediffusion.serve.news import News
from sotediffusion.serve.storage.jobs import Job, JobState, StoreDown
from sotediffusion.serve.storage.retention import sweep
from sotediffusion.serve.storage.store import Limits
from sotediffusion.serve.walls.admission import Bounds


@pytest.fixture(scope="module")
def shared() -> Any:
    with quick_folder() as folder, site(folder, bounds=Bounds(pixels=512 * 512, count=4, steps=60)) as made:
        yield made


@pytest.fixture
def own() -> Any:
    with quick_folder() as folder, site(folder) as made:
        yield made


def refused(made: Site, status: int, **order: Any) -> dict[str, Any]:
    reply = made.client.post("/api/v1/jobs", json=order)
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["message"] and "\n" not in error["message"]
    return error


def test_a_job_is_submitted_drawn_seen_and_its_picture_fetched_with_its_settings_inside(own: Site) -> None:
    job = own.submit(count=2)
    assert (job["state"], job["position"], job["model"], job["origin"]) == ("queued", 0, "tiny", "own")
    own.hand.draw()
    job = own.client.get(f"/api/v1/jobs/{job['id']}").json()
    assert job["state"] == "succeeded" and [picture["seed"] for picture in job["pictures"]] == [5, 6]
    reply = own.client.get(job["pictures"][1]["url"])
    assert reply.headers["content-type"] == "image/png" and "immutable" in reply.headers["cache-control"]
    with Image.open(BytesIO(reply.content)) as image:
        assert image.size == (64, 64) and image.convert("RGB").getpixel((0, 0)) == (6, 80, 160)
    for format, kind in (("jpeg", "JPEG"), ("webp", "WEBP")):
        reply = own.client.get(f"{job['pictures'][1]['url']}&format={format}&download=1")
        with Image.open(BytesIO(reply.content)) as image:
            assert image.format == kind and "1girl, cat ears" in read_marks(image)[0]
        assert reply.headers["content-disposition"].startswith("attachment; filename=")


def test_what_is_left_out_is_the_models_and_the_seed_is_told(own: Site) -> None:
    job = own.client.post("/api/v1/jobs", json={"prompt": "1girl"}).json()
    request = job["request"]
    assert (request["width"], request["height"], request["compression"], request["steps"]) == (64, 64, 32.0, 30)
    assert "embeddings" not in request
    assert 0 <= request["seed"] < 2**32
    other = own.submit(model="other", preset="v2", guidance=5.0, seed=None)
    assert (other["request"]["steps"], other["request"]["guidance"]) == (28, 5.0)


def test_the_same_idempotency_key_gives_the_same_job(own: Site) -> None:
    ids = {own.client.post("/api/v1/jobs", json=ORDER, headers={"Idempotency-Key": "k1"}).json()["id"] for _ in range(3)}
    assert len(ids) == 1 and own.store.depth()[JobState.QUEUED] == 1
    reply = own.client.post("/api/v1/jobs", json=ORDER, headers={"Idempotency-Key": "with space"})
    assert reply.status_code == 422 and reply.json()["error"]["field"] == "Idempotency-Key"


FAULTS = [
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 9000}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": "x", "width": 1001}, "width"),
    ({"prompt": "x", "width": "64"}, "width"),
    ({"prompt": "x", "width": 1024, "height": 1024}, "size"),
    ({"prompt": "x", "steps": 61}, "steps"),
    ({"prompt": "x", "count": 5}, "count"),
    ({"prompt": "x", "steps": 1.5}, "steps"),
    ({"prompt": "x", "guidance": -1}, "guidance"),
    ({"prompt": "x", "guidance": 1e400}, None),
    ({"prompt": "x", "seed": 2**70}, "seed"),
    ({"prompt": "x", "sampler": "eular"}, "sampler"),
    ({"prompt": "x", "sampler": {"a": 1}}, "sampler"),
    ({"prompt": "x", "model": "tinny"}, "model"),
    ({"prompt": "x", "model": 7}, "model"),
    ({"prompt": "x", "preset": "crd"}, "preset"),
    ({"prompt": "x", "stepps": 3}, "body"),
    ({"prompt": "x", "owner": "ann"}, "body"),
    ({"prompt": "x", "loras": [{"name": "../../etc/passwd", "weight": 1}]}, "loras"),
    ({"prompt": "x", "loras": "all"}, "loras"),
    ({"prompt": "x", "embeddings": ["/etc/passwd"]}, "body"),
    ({"prompt": "x", "embeddings": []}, "body"),
    ({"prompt": "x", "priority": 10**9}, "priority"),
    ({"prompt": "x", "deadline_s": 0}, "deadline_s"),
    ({"prompt": "x", "init": "https://example.org/a.png"}, "init"),
    ({"prompt": "x", "init": "AAAA"}, "init"),
    ({"prompt": "x", "init": 5}, "init"),
    ({"prompt": "x", "strength": 0}, "strength"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "x", "model": "\ud800"}, "model"),
    ({"prompt": "loli, nude"}, "prompt"),
    ({"prompt": "(child:-1)"}, "prompt"),
    ({"prompt": "__nothing__"}, "prompt"),
    ({"prompt": "__nothing__", "count": "x"}, "count"),
]


@pytest.mark.parametrize(("order", "field"), FAULTS)
def test_what_cannot_be_drawn_is_refused_with_its_field(shared: Site, order: dict[str, Any], field: str | None) -> None:
    content = json.dumps(order, allow_nan=True)
    reply = shared.client.post("/api/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == (400 if field is None else 422), reply.text
    assert reply.json()["error"]["field"] == field
    assert shared.store.depth()[JobState.QUEUED] == 0


@pytest.mark.parametrize("content", [b"{", b"[1]", b"nul", b'{"prompt": NaN}', b"[" * 100_000, b'"x"', b"\xff", b"1" * 5000])
def test_a_body_that_is_no_object_is_refused(shared: Site, content: bytes) -> None:
    reply = shared.client.post("/api/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["prompt", "negative", "width", "steps", "guidance", "sampler", "seed", "count", "loras", "model", "preset", "priority",
         "deadline_s", "init", "strength", "compression", "rescale"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5), st.sampled_from(["jobs", "jobs/x/move", "tokens", "session"]))
def test_no_body_makes_a_mistake_of_ours(shared: Site, body: dict[str, Any], where: str) -> None:
    content = json.dumps({"prompt": "x", **body})
    reply = shared.client.post(f"/api/v1/{where}", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code < 500, (body, reply.text)
    if reply.status_code == 202:
        shared.client.post(f"/api/v1/jobs/{reply.json()['id']}/cancel")
        shared.client.delete(f"/api/v1/jobs/{reply.json()['id']}")


@given(st.text(max_size=30))
def test_no_address_makes_a_mistake_of_ours(shared: Site, text: str) -> None:
    for path in ("/api/v1/jobs/{}", "/pictures/{}", "/api/v1/tags?q={}", "/api/v1/jobs?before={}", "/api/v1/jobs?state={}"):
        reply = shared.client.get(path.format(quote(text, safe="", errors="replace")))
        assert reply.status_code < 500


def test_events_tell_each_change_and_end_with_the_job(own: Site) -> None:
    id = own.submit()["id"]
    held: list[Any] = []

    def act(number: int) -> None:
        if number == 1:
            held.append(own.hand.take())
        elif number == 2:
            own.hand.tell(held[0], 7, preview=True)
        elif number == 3:
            own.hand.finish(held[0])

    told = own.events(f"/api/v1/jobs/{id}/events", 10, act)
    assert [job["state"] for _, job in told] == ["queued", "running", "running", "succeeded"]
    progress = told[2][1]["progress"]
    assert (progress["phase"], progress["step"], progress["steps"], progress["eta"]) == ("stage c", 7, 40, 1.5)
    reply = own.client.get(progress["preview"])
    assert reply.status_code == 404 or reply.headers["cache-control"] == "no-store"
    told = own.events(f"/api/v1/jobs/{id}/events", 10)
    assert [job["state"] for _, job in told] == ["succeeded"]


def test_news_go_on_when_a_job_is_claimed_while_its_place_is_looked_up(own: Site) -> None:
    class Raced(News):
        async def _job(self, id: str) -> Job | None:
            job = await super()._job(id)
            own.hand.take()
            return job

    id = own.submit()["id"]
    job = own.store.get(id)
    assert job is not None
    news = Raced(own.gateway, job.owner, places={id: 0})

    async def moved() -> list[Any]:
        return [(id, place) async for id, _, place in news._moved()]

    assert asyncio.run(moved()) == [(id, None)] and news.places == {}


async def _told(of: News, most: int, act: Callable[[], Any] = lambda: None) -> list[tuple[str, str]]:
    """The first news of an owner's jobs, with their states; `act` is done after the first."""
    told: list[tuple[str, str]] = []
    async with asyncio.timeout(20):
        async for id, job, _ in of.follow():
            assert job is not None
            told.append((id, job.state))
            if len(told) == 1:
                act()
            if len(told) == most:
                break
    return told


def test_a_running_job_is_told_of_however_many_newer_ones_wait(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "_WINDOW", 1)
    first = own.submit()["id"]
    running = own.hand.take()
    _, third = (own.submit(seed=seed)["id"] for seed in (6, 7))
    told = asyncio.run(_told(News(own.gateway, running.owner), 3, lambda: own.hand.finish(running)))
    assert told == [(first, "running"), (third, "queued"), (first, "succeeded")]


def test_a_job_that_ends_between_two_questions_is_told_of_as_ended(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own.submit()
    running = own.hand.take()
    jobs, versions = own.gateway.jobs, News._versions
    asked: list[str] = []

    async def ended_after_the_first(question: Awaitable[Any]) -> Any:
        answer = await question
        asked.append("")
        if len(asked) == 1:
            own.hand.finish(running)
        return answer

    monkeypatch.setattr(own.gateway, "jobs", lambda *how: ended_after_the_first(jobs(*how)))
    monkeypatch.setattr(News, "_versions", lambda news: ended_after_the_first(versions(news)))
    told = asyncio.run(_told(News(own.gateway, running.owner), 1))
    assert told == [(running.id, "succeeded")]


def test_a_preview_is_fetched_while_the_job_runs(own: Site) -> None:
    id = own.submit()["id"]
    job = own.hand.take()
    own.hand.tell(job, 3, preview=True)
    first = own.client.get(f"/api/v1/jobs/{id}").json()["progress"]["preview"]
    reply = own.client.get(first)
    assert reply.headers["content-type"] == "image/jpeg" and reply.headers["cache-control"] == "no-store"
    own.hand.tell(job, 4, preview=True)
    assert own.client.get(f"/api/v1/jobs/{id}").json()["progress"]["preview"] != first  # so that a browser asks anew
    own.shelf.remove_job(id)  # it ends between a browser's hearing of a preview and its asking for it: no error in its console
    assert (gone := own.client.get(first)).status_code == 204 and gone.content == b""


def test_the_stream_of_all_jobs_tells_of_new_changed_and_forgotten_ones(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sotediffusion.serve.news._TURNS", 10**6)  # nor of places, which may change at any of these moments
    first = own.submit()["id"]
    second: list[str] = []

    def act(number: int) -> None:
        if number == 1:
            second.append(own.submit(seed=9)["id"])
        elif number == 2:
            own.client.post(f"/api/v1/jobs/{first}/cancel")
        elif number == 3:
            own.client.delete(f"/api/v1/jobs/{first}")

    told = own.events("/api/v1/events", 4, act)
    jobs = [(kind, job["id"], job.get("state")) for kind, job in told]
    assert jobs[:3] == [("job", first, "queued"), ("job", second[0], "queued"), ("job", first, "cancelled")]
    assert [kind for kind, *_ in jobs[3:]] in (["gone"], ["job"])  # the other one's turn comes sooner, in the same moment


def test_the_place_in_the_queue_is_told_when_it_changes(own: Site) -> None:
    first, second = own.submit()["id"], own.submit(seed=6)["id"]

    def act(number: int) -> None:
        if number == 1:
            own.client.post(f"/api/v1/jobs/{first}/cancel")

    assert [job["position"] for _, job in own.events(f"/api/v1/jobs/{second}/events", 2, act)] == [1, 0]


def test_waiting_jobs_are_moved_and_cancelled(own: Site) -> None:
    a, b, c = (own.submit(seed=n)["id"] for n in range(3))
    moved = own.client.post(f"/api/v1/jobs/{c}/move", json={"before": a}).json()["jobs"]
    assert [job["id"] for job in moved] == [c, a, b] and [job["position"] for job in moved] == [0, 1, 2]
    moved = own.client.post(f"/api/v1/jobs/{c}/move", json={"before": None}).json()["jobs"]
    assert [job["id"] for job in moved] == [a, b, c]
    assert own.client.post(f"/api/v1/jobs/{a}/cancel").json()["state"] == "cancelled"
    assert own.client.post(f"/api/v1/jobs/{a}/move", json={}).status_code == 404
    assert own.hand.take().id == b


def test_a_gallery_of_finished_jobs_is_searched_favoured_and_emptied(own: Site) -> None:
    ids = [own.submit(prompt=prompt)["id"] for prompt in ("1girl, guitar", "1boy, book", "1girl, book")]
    assert own.client.delete(f"/api/v1/jobs/{ids[0]}").status_code == 409
    ended = [own.hand.draw() for _ in ids]

    def found(query: str) -> list[str]:
        return [ids.index(job["id"]) for job in own.client.get(f"/api/v1/jobs?{query}").json()["jobs"]]

    assert found("") == [2, 1, 0] and found("q=book+1girl") == [2] and found("state=succeeded&limit=1") == [2]
    page = own.client.get("/api/v1/jobs?limit=2").json()
    assert found(f"before={page['next']}") == [0]
    name = ended[1].pictures[0].name
    favoured = own.client.put(f"/api/v1/jobs/{ids[1]}/favourite", json={"picture": name, "favourite": True}).json()
    assert favoured["pictures"][0]["favourite"] is True and found("favourite=true") == [1]
    url = favoured["pictures"][0]["url"]
    assert own.client.delete(f"/api/v1/jobs/{ids[1]}").status_code == 204
    assert found("") == [2, 0] and own.client.get(url).status_code == 404
    assert own.client.put(f"/api/v1/jobs/{ids[0]}/favourite", json={"picture": "no", "favourite": True}).status_code == 404


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with site(tmp_path, limits=Limits(queued=2)) as made:
        made.submit(), made.submit()
        reply = made.client.post("/api/v1/jobs", json=ORDER)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1


def test_a_full_disk_refuses_new_jobs_and_a_store_that_is_down_says_so(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own.shelf.reserve = 2**62
    assert refused(own, 507, **ORDER)["code"] == "no_room"
    own.shelf.reserve = 0

    def down(*arguments: Any) -> Any:
        raise StoreDown("a password may stand in here")

    monkeypatch.setattr(own.store, "submit", down)
    error = refused(own, 503, **ORDER)
    assert error["code"] == "store_down" and "password" not in error["message"]


def test_a_server_that_is_about_to_end_takes_nothing_in(own: Site) -> None:
    own.gateway.draining.set()
    assert refused(own, 503, **ORDER)["code"] == "closing"
    assert own.client.get("/readyz").status_code == 503


def test_without_a_rating_tagger_a_picture_goes_with_plainly_general_prompts_only_and_the_reply_says_so(own: Site) -> None:
    import base64

    init = "data:image/png;base64," + base64.b64encode(png()).decode()
    job = own.submit(init=init, strength=0.5)
    assert job["request"]["init"] is True and any("no image check ran" in note for note in job["notes"])
    held = own.hand.take()
    assert own.shelf.read(held.request["init"]) == png()
    assert refused(own, 422, prompt="1girl, nude", init=init)["field"] == "init"
    assert refused(own, 422, prompt="1girl", model="other", init=init)["field"] == "init"  # it has no encoder
    assert len(list(own.shelf.jobs())) == 1  # nothing of what was refused is kept
    assert own.submit()["notes"] == []


def test_with_a_rating_tagger_it_decides(tmp_path: Path) -> None:
    import base64

    ratings = [0, 3]
    with site(tmp_path, more={"rate": lambda content: ratings.pop(0)}) as made:
        init = base64.b64encode(png()).decode()
        assert made.submit(init=init)["notes"] == []
        assert "explicit" in refused(made, 422, **ORDER, init=init)["message"]


def test_wildcards_stand_for_lines_of_files_chosen_by_the_seed(own: Site) -> None:
    (own.folder / "wildcards" / "hair").mkdir(parents=True)
    lines = [f"{color} hair" for color in ("red", "blue", "green", "pink")]
    (own.folder / "wildcards" / "hair" / "colors.txt").write_text("# colours\n" + "\n".join(lines) + "\n\n")
    (own.folder / "wildcards" / "empty.txt").write_text("\n")
    prompts = [own.submit(prompt="1girl, __hair/colors__, smile", seed=seed)["request"]["prompt"] for seed in (1, 1, 2, 3, 4)]
    assert prompts[0] == prompts[1] and len(set(prompts)) > 1 and all(prompt.split(", ")[1] in lines for prompt in prompts)
    several = own.submit(prompt="__hair/colors__", count=3)["request"]["prompt"]
    assert several.startswith("{") and len(several.strip("{}").split("|")) == 3
    assert own.client.get("/api/v1/wildcards").json()["wildcards"]["hair/colors"] == lines
    assert "hair/colors" in refused(own, 422, prompt="__hair/color__")["message"]
    assert refused(own, 422, prompt="1girl", negative="__empty__")["field"] == "negative"
    (own.folder / "wildcards" / "bad.txt").write_text("loli, nude\n")
    assert refused(own, 422, prompt="__bad__")["field"] == "prompt"


def test_words_are_completed_counted_and_styled(own: Site) -> None:
    rows = ["name,category,count,aliases", 'cat_ears,0,50,"nekomimi,cat_ear"', "cat_tail,0,90,", "^_^,0,5,"]
    (own.folder / "tags.csv").write_text("\n".join(rows))
    (own.folder / "styles.csv").write_text('name,prompt,negative_prompt\nSketch,"{prompt}, sketch",color\n')
    found = own.client.get("/api/v1/tags?q=cat").json()["tags"]
    assert [(tag["name"], tag["count"]) for tag in found] == [("cat tail", 90), ("cat ears", 50)]
    assert own.client.get("/api/v1/tags?q=NEKO_").json()["tags"] == []
    (tag,) = own.client.get("/api/v1/tags?q=neko").json()["tags"]
    assert (tag["name"], tag["alias"]) == ("cat ears", "nekomimi")
    assert own.client.get("/api/v1/tags?q=ears").json()["tags"][0]["name"] == "cat ears"
    (style,) = own.client.get("/api/v1/styles").json()["styles"]
    assert style == {"name": "Sketch", "prompt": "{prompt}, sketch", "negative": "color"}
    assert own.client.post("/api/v1/tokens", json={"text": "1girl, cat ears"}).json() == {"tokens": 5, "chunks": 1}
    assert own.client.post("/api/v1/tokens", json={"text": "cat ears, " * 60}).json()["chunks"] == 3


def test_without_a_list_of_tags_the_drawn_worlds_are_completed(own: Site) -> None:
    names = [tag["name"] for tag in own.client.get("/api/v1/tags?q=cat").json()["tags"]]
    assert names == ["cat ears"]


def test_the_server_tells_what_it_offers(own: Site) -> None:
    about = own.client.get("/api/v1/about").json()
    assert [model["name"] for model in about["models"]] == ["tiny", "other"]
    assert about["models"][1]["licence"] == "Fair AI Public License 1.0-SD" and about["key"] is False
    assert about["retention_s"] == 7 * 24 * 3600
    assert about["limits"]["steps"] == [1, 150] and about["defaults"]["steps"] == 30 and about["scopes"] == ["generate", "admin"]
    schema = own.client.get("/openapi.json").json()
    order = schema["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "embeddings" not in order["properties"] and "embeddings" not in about["defaults"]
    assert order["properties"]["sampler"]["enum"][0] == "ddpm" and schema["info"]["license"]["url"] == "/license"
    assert "POST /api/v1/jobs" in own.client.get("/docs").text
    for path in ("/license", "/source"):
        assert "stabilityai/stable-cascade" in own.client.get(path).text or path == "/license"
    assert "Non-Commercial Research" in own.client.get("/license").text


def test_every_call_that_takes_a_body_is_described_with_it_and_refers_to_nothing_that_is_not_there(own: Site) -> None:
    schema = own.client.get("/openapi.json").json()
    taking = {f"{method} {path}": about for path, methods in schema["paths"].items() for method, about in methods.items()
              if method in ("post", "put")}  # fmt: skip
    bodiless = {name for name, about in taking.items() if "requestBody" not in about}
    assert {name.rpartition("/")[2] for name in bodiless} == {
        "cancel", "skip", "interrupt", "refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings"}  # fmt: skip
    assert taking["post /api/v1/tokens"]["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {
        "text", "model"}  # fmt: skip
    referred = set(re.findall(r"'\$ref': '([^']+)'", str(schema)))
    assert referred and referred <= {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert set(schema["paths"]["/v1/models"]["get"]["responses"]["default"]["content"]) == {"application/json"}


def test_settings_come_back_out_of_a_picture(own: Site) -> None:
    own.submit(prompt="1girl, beret", seed=77)
    picture = own.hand.draw().pictures[0]
    content = own.shelf.read(picture.name)
    found = own.client.post("/api/v1/settings", content=content, headers={"Content-Type": "image/png"}).json()
    assert found["origin"] == "sote" and found["settings"]["prompt"] == "1girl, beret" and found["settings"]["seed"] == 77
    reply = own.client.post("/api/v1/settings", content=b"GIF89a", headers={"Content-Type": "image/gif"})
    assert reply.status_code == 422


def test_many_who_wait_for_jobs_are_told_at_once(own: Site) -> None:
    ids = [own.submit(seed=n)["id"] for n in range(8)]
    ended: list[str] = []

    def listen(id: str) -> None:
        told = own.events(f"/api/v1/jobs/{id}/events", 10)
        ended.append(told[-1][1]["state"])

    threads = [threading.Thread(target=listen, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    for _ in ids:
        own.hand.draw()
    for thread in threads:
        thread.join(30)
    assert ended == ["succeeded"] * 8


def test_one_picture_goes_and_the_others_of_its_job_stay(own: Site) -> None:
    id = own.submit(count=2)["id"]
    first, second = own.hand.draw().pictures or ()
    url = own.client.get(f"/api/v1/jobs/{id}").json()["pictures"][0]["url"]
    left = own.client.delete(f"/api/v1/jobs/{id}/pictures/{first.name}").json()
    assert [picture["name"] for picture in left["pictures"]] == [second.name]
    assert own.client.get(url).status_code == 404 and list(own.shelf.written(id)) == [second.name]
    for gone in (first.name, "no", "../../jobs.sqlite"):
        assert own.client.delete(f"/api/v1/jobs/{id}/pictures/{gone}").status_code in (404, 405)
    assert own.client.delete(f"/api/v1/jobs/{id}/pictures/{second.name}").json()["pictures"] is None
    assert own.client.get("/api/v1/jobs?favourite=false&q=cat").json()["jobs"] == [] and not own.shelf.written(id)


def test_a_small_copy_is_made_once_in_a_few_widths_and_goes_with_its_picture(own: Site) -> None:
    id = own.submit(width=768, height=384)["id"]
    (drawn,) = own.hand.draw().pictures or ()
    url = own.client.get(f"/api/v1/jobs/{id}").json()["pictures"][0]["url"]
    for asked, width in ((1, 256), (256, 256), (257, 512), (600, 768), (5000, 768)):
        reply = own.client.get(f"{url}&width={asked}")
        with Image.open(BytesIO(reply.content)) as image:
            assert image.size == (width, width // 2) and reply.headers["content-type"] == f"image/{image.format.lower()}"
            assert read_marks(image)[1]["ai_generated"] is True
    assert own.client.get(f"{url}&width=0").status_code == 422
    kept = own.shelf.written(id)
    assert len(kept) == 3
    sweep(own.store, own.shelf, grace_s=-60)
    own.client.get(f"{url}&width=200")
    assert own.shelf.written(id) == kept
    own.client.delete(f"/api/v1/jobs/{id}/pictures/{drawn.name}")
    assert own.shelf.written(id) == {} and own.client.get(f"{url}&width=200").status_code == 404
