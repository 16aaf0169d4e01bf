"""fal's API over a real connection: run, stream, queue, cancel, start deadlines, webhooks, the proxy, the safety checker."""

import base64
import json
import threading
import time
from io import BytesIO
from urllib.parse import quote

import pytest
from drawing import drawing
from PIL import Image
from web import Site, quick_folder, site

from sotediffusion.serve.doors.fal import webhook_body
from sotediffusion.serve.keeper import Keeper
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import LOCAL, JobState
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.serve.walls.admission import Bounds
from sotediffusion.serve.webhooks.outbox import Outbox

APP = "/fal-ai/stable-cascade/sote-diffusion"
ASK = {"prompt": "1girl, cat ears", "image_size": {"width": 60, "height": 57}, "seed": 9, "first_stage_steps": 6}


@pytest.fixture(scope="module")
def shared():
    with quick_folder() as folder, site(folder, bounds=Bounds(pixels=512 * 512)) as made:
        yield made


@pytest.fixture
def empty(shared):
    """A site on which nothing waits."""
    yield shared
    for job in shared.store.find(LOCAL, [JobState.QUEUED, JobState.RUNNING]):
        shared.store.cancel(job.id)


def submit(made: Site, query="", headers=None, **more):
    reply = made.client.post(f"/fal/queue{APP}{query}", json=ASK | more, headers=headers or {})
    assert reply.status_code == 200, reply.text
    return reply.json()


def wait_for(true):
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def stream(made: Site, method, path, seen, what="status", **more):
    """The events of a stream; `seen` is set when one has `what` in it."""
    found = []
    with made.client.stream(method, path, **more) as reply:
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if what in found[-1]:
                    seen.set()
    return found


@pytest.mark.parametrize("prefix", ["", "/fal/run"])
def test_running_gives_the_whole_output_at_once(shared, prefix):
    with drawing(shared):
        reply = shared.client.post(f"{prefix}{APP}", json=ASK | {"num_images": 2})
    said = reply.json()
    assert reply.status_code == 200, reply.text
    assert set(said) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    assert (said["seed"], said["prompt"], said["has_nsfw_concepts"]) == (9, "1girl, cat ears", [None, None])
    assert reply.headers["x-sote-safety-checker"] == "none" and len(reply.headers["x-fal-request-id"]) == 32
    image = said["images"][0]
    assert (image["width"], image["height"], image["content_type"], image["file_name"]) == (64, 64, "image/png", None)
    file = shared.client.get(image["url"]).content
    assert len(file) == image["file_size"] and Image.open(BytesIO(file)).size == (64, 64)
    assert said["timings"]["inference"] > 0


def test_in_sync_mode_the_picture_is_in_the_reply_and_nothing_is_kept(shared):
    with drawing(shared):
        reply = shared.client.post(APP, json=ASK | {"sync_mode": True})
    head, _, text = reply.json()["images"][0]["url"].partition(",")
    assert head == "data:image/png;base64" and Image.open(BytesIO(base64.b64decode(text))).size == (64, 64)
    assert shared.store.get(reply.headers["x-fal-request-id"]) is None


def test_the_queue_takes_an_order_in_and_is_asked_until_it_is_done(empty):
    first, second = submit(empty), submit(empty)
    assert (first["status"], first["queue_position"], second["queue_position"]) == ("IN_QUEUE", 0, 1)
    place = f"{empty.base}/fal/queue/fal-ai/stable-cascade/requests/{first['request_id']}"
    assert (first["response_url"], first["status_url"], first["cancel_url"]) == (place, f"{place}/status", f"{place}/cancel")
    waiting = empty.client.get(f"{second['status_url']}?logs=false")
    assert (waiting.status_code, waiting.json()["queue_position"]) == (202, 1)
    early = empty.client.get(first["response_url"])
    assert early.status_code == 400 and early.headers["x-fal-request-id"] == first["request_id"]
    job = empty.hand.take()
    empty.hand.tell(job, 10)
    running = empty.client.get(f"{first['status_url']}?logs=1")
    assert running.status_code == 202 and running.json()["logs"][0]["message"] == "stage c: step 10 of 40"
    empty.hand.finish(job)
    done = empty.client.get(first["status_url"])
    assert (done.status_code, done.json()["status"], done.json()["logs"]) == (200, "COMPLETED", None)
    for address in (first["response_url"], f"{first['response_url']}/response"):
        result = empty.client.get(address)
        assert result.json()["seed"] == 9 and result.headers["x-fal-request-id"] == first["request_id"]


def test_the_status_streams_until_it_is_completed(empty):
    said = submit(empty)
    seen = threading.Event()
    with drawing(empty, steps=2, seen=seen):
        found = stream(empty, "GET", f"{said['status_url']}/stream?logs=1", seen)
    assert [event["status"] for event in found][-1] == "COMPLETED"
    assert {event["status"] for event in found} <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"} and len(found) >= 2


def test_the_stream_shows_previews_and_ends_with_the_output(shared):
    seen = threading.Event()
    with drawing(shared, steps=3, seen=seen):
        *progress, last = stream(shared, "POST", f"{APP}/stream", seen, "images", json=ASK)
    shown = [event for event in progress if "images" in event]
    assert shown and shown[0]["images"][0]["url"].startswith("data:image/jpeg;base64,") and shown[0]["steps"] == 40
    assert last["seed"] == 9 and last["images"][0]["url"].startswith(shared.base)


def test_a_waiting_request_is_cancelled_at_once_and_a_running_one_at_its_next_step(empty):
    waiting = submit(empty)
    assert cancelled(empty, waiting) == (200, "OK")
    assert cancelled(empty, waiting) == (400, "ALREADY_COMPLETED")
    running = submit(empty)
    empty.hand.take()
    assert cancelled(empty, running) == (202, "CANCELLATION_REQUESTED")
    status = empty.client.get(running["status_url"]).json()
    assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
    assert empty.client.get(running["response_url"]).status_code == 499
    nobodys = empty.client.put(f"/fal/queue/fal-ai/stable-cascade/requests/{'0' * 32}/cancel")
    assert (nobodys.status_code, nobodys.json()["status"]) == (404, "NOT_FOUND")


def cancelled(made, said):
    reply = made.client.put(said["cancel_url"])
    return reply.status_code, reply.json()["status"]


def test_what_does_not_begin_in_time_is_a_timeout_of_the_callers(empty):
    said = submit(empty, headers={"X-Fal-Request-Timeout": "1.2"})
    keeper = Keeper(JobStore(Database(empty.folder / "jobs.sqlite")), empty.shelf, float("inf"))  # of another server
    keeper.start()
    wait_for(lambda: empty.client.get(said["status_url"]).json()["status"] == "COMPLETED")
    keeper.stop()
    assert empty.store.get(said["request_id"]).state == JobState.EXPIRED
    reply = empty.client.get(said["response_url"])
    assert (reply.status_code, reply.headers["x-fal-request-timeout-type"]) == (504, "user")
    assert reply.json()["error_type"] == "request_timeout"
    wrong = empty.client.post(f"/fal/queue{APP}", json=ASK, headers={"X-Fal-Request-Timeout": "nan"})
    assert (wrong.status_code, wrong.json()["error_type"]) == (400, "bad_request")


def test_low_priority_waits_behind_and_the_callers_own_bound_of_the_queue_holds(empty):
    low = submit(empty, headers={"X-Fal-Queue-Priority": "low"})
    submit(empty)
    assert empty.client.get(low["status_url"]).json()["queue_position"] == 1
    full = empty.client.post(f"/fal/queue{APP}?fal_max_queue_length=2", json=ASK)
    assert full.status_code == 429 and int(full.headers["retry-after"]) > 0
    assert empty.client.post(f"/fal/queue{APP}?fal_max_queue_length=x", json=ASK).status_code == 400


def test_faults_are_told_in_fals_shape(shared):
    def detail(**more):
        reply = shared.client.post(APP, json=ASK | more)
        assert reply.status_code == 422, reply.text
        return reply.json()["detail"][0]

    assert detail(first_stage_steps=99)["loc"] == ["body", "first_stage_steps"]
    assert detail(first_stage_steps=99)["ctx"] == {"le": 50}
    assert detail(image_size={"width": 2048, "height": 2048})["loc"] == ["body", "image_size"]
    assert detail(prompt="loli, nude")["type"] == "content_policy_violation"
    assert detail(prompt="")["loc"] == ["body", "prompt"]
    bad = shared.client.post(APP, content="{", headers={"Content-Type": "application/json"})
    assert (bad.status_code, bad.json()["error_type"], bad.headers["x-fal-error-type"]) == (400, "bad_request", "bad_request")
    assert shared.client.get("/fal/queue/fal-ai/stable-cascade/requests/x/status").status_code == 404
    own = shared.submit()["id"]
    assert shared.client.get(f"/fal/queue/fal-ai/stable-cascade/requests/{own}/status").status_code == 404
    shared.store.cancel(own)


def test_a_webhook_is_refused_where_none_are_told(shared):
    reply = shared.client.post(f"/fal/queue{APP}?fal_webhook=https%3A%2F%2Fexample.com%2Fx", json=ASK)
    assert reply.status_code == 400 and reply.json()["error_type"] == "bad_request"
    assert shared.client.get("/.well-known/jwks.json").status_code == 404


def test_a_webhook_is_told_the_output_or_the_error_with_addresses_that_can_be_followed():
    with quick_folder() as folder, site(folder, more={"receivers": ()}) as made:
        assert made.client.get("/.well-known/jwks.json").json()["keys"][0]["crv"] == "Ed25519"
        said = submit(made, "?fal_webhook=https%3A%2F%2Fexample.com%2Fx")
        told = json.loads(webhook_body(made.gateway, made.hand.draw()))
        assert told["request_id"] == told["gateway_request_id"] == said["request_id"] and told["status"] == "OK"
        assert made.client.get(told["payload"]["images"][0]["url"]).status_code == 200
        said = submit(made, "?fal_webhook=https%3A%2F%2Fexample.com%2Fx")
        made.store.cancel(said["request_id"])
        told = json.loads(webhook_body(made.gateway, made.store.get(said["request_id"])))
        assert (told["status"], told["error"]) == ("ERROR", "Invalid status code: 499") and told["payload"]["detail"]
        for wrong in ("example.com/x", "ftp%3A%2F%2Fexample.com", "https%3A%2F%2Fann%3Apw%40example.com%2F", "https%3A%2F%2F%5B"):
            assert made.client.post(f"/fal/queue{APP}?fal_webhook={wrong}", json=ASK).status_code == 400


def test_a_job_is_not_forgotten_before_its_webhook_is_told():
    with quick_folder() as folder, site(folder, more={"receivers": ()}) as made:
        hook = "?fal_webhook=https%3A%2F%2Fexample.com%2Fx"
        queued = submit(made, hook)["request_id"]
        made.hand.draw()
        refusal = made.client.delete(f"/api/v1/jobs/{queued}")
        assert refusal.status_code == 409 and "webhook is still to be told" in refusal.json()["error"]["message"]
        with drawing(made):
            run = made.client.post(f"{APP}{hook}", json=ASK | {"sync_mode": True}).headers["x-fal-request-id"]
        outbox = Outbox(made.database)
        due = outbox.take(10)
        assert {delivery.job.id for delivery in due} == {queued, run} and all(delivery.job.pictures for delivery in due)
        outbox.sent(queued)
        assert made.client.delete(f"/api/v1/jobs/{queued}").status_code == 204


def test_a_webhook_to_an_inner_address_is_refused_with_the_order_unless_its_host_is_allowed():
    with quick_folder() as folder, site(folder, more={"receivers": ("10.0.0.7:8080",)}) as made:
        inner = ("https://10.0.0.8/x", "https://localhost/x", "https://[::1]/x", "http://example.com/x", "http://10.0.0.7/x")
        for url in inner:
            reply = made.client.post(f"/fal/queue{APP}?fal_webhook={quote(url, safe='')}", json=ASK)
            assert (reply.status_code, reply.json()["error_type"]) == (400, "bad_request"), url
        submit(made, f"?fal_webhook={quote('http://10.0.0.7:8080/x', safe='')}")


def test_the_safety_checker_blacks_out_what_the_tagger_rates_too_high_and_only_where_it_was_asked_for():
    with quick_folder() as folder, site(folder, more={"rate": lambda content: 3}) as made, drawing(made):
        reply = made.client.post(APP, json=ASK)
        said = reply.json()
        assert said["has_nsfw_concepts"] == [True] and reply.headers["x-sote-safety-checker"] == "rating"
        black = Image.open(BytesIO(base64.b64decode(said["images"][0]["url"].partition(",")[2])))
        assert black.size == (64, 64) and black.getextrema() == ((0, 0),) * 3
        reply = made.client.post(APP, json=ASK | {"enable_safety_checker": False})
        assert reply.json()["has_nsfw_concepts"] == [None] and reply.headers["x-sote-safety-checker"] == "off"
        assert reply.json()["images"][0]["url"].startswith(made.base)


def test_while_the_safety_checker_is_on_no_previews_are_shown_that_nobody_has_rated():
    seen, rated = threading.Event(), {"rate": lambda content: 3}
    with quick_folder() as folder, site(folder, more=rated) as made, drawing(made, steps=3, seen=seen):
        *progress, last = stream(made, "POST", f"{APP}/stream", seen, "step", json=ASK)
        assert progress and not [event for event in progress if "images" in event] and last["has_nsfw_concepts"] == [True]
        seen.clear()
        *progress, _ = stream(made, "POST", f"{APP}/stream", seen, "images", json=ASK | {"enable_safety_checker": False})
        assert [event for event in progress if "images" in event]


def proxied(made, method, target, **more):
    headers = {"x-fal-target-url": target, **more.pop("headers", {})}
    return made.client.request(method, "/api/fal/proxy", headers=headers, **more)


def test_the_proxy_answers_for_fals_hosts_with_the_callers_own_credentials():
    with quick_folder() as folder, site(folder, asks=True) as made:
        ann, bob = made.calling(made.key()), made.calling(made.key("bob"))
        assert proxied(made, "POST", f"https://queue.fal.run{APP}", json=ASK).status_code == 401
        id = proxied(ann, "POST", f"https://queue.fal.run{APP}", json=ASK).json()["request_id"]
        place = f"https://queue.fal.run/fal-ai/stable-cascade/requests/{id}"
        status = proxied(ann, "GET", f"{place}/status?logs=1")
        assert (status.status_code, status.json()["status"]) == (202, "IN_QUEUE")
        assert proxied(bob, "GET", f"{place}/status").status_code == 404
        assert proxied(bob, "PUT", f"{place}/cancel").status_code == 404
        assert proxied(ann, "PUT", f"{place}/cancel").json()["status"] == "OK"
        with drawing(made):
            assert proxied(ann, "POST", f"https://fal.run{APP}", json=ASK).json()["seed"] == 9
        assert proxied(ann, "GET", "https://evil.example/x").status_code == 412
        assert proxied(ann, "GET", "https://queue.fal.run/fal-ai/other").status_code == 404
        assert ann.client.get("/api/fal/proxy").status_code == 400


def test_the_same_idempotency_key_gives_the_same_request():
    with quick_folder() as folder, site(folder, limits=Limits(queued=2)) as made:
        ids = {submit(made, headers={"Idempotency-Key": "once"})["request_id"] for _ in range(3)}
        assert len(ids) == 1 and submit(made)["request_id"] not in ids


def test_who_hangs_up_while_running_has_its_job_cancelled(empty):
    for path in (APP, f"{APP}/stream"):
        with pytest.raises(Exception, match="(?i)time"):
            empty.client.post(path, json=ASK, timeout=0.7)
        wait_for(lambda: not empty.store.find(LOCAL, [JobState.QUEUED, JobState.RUNNING]))
    submit(empty)
    assert empty.store.find(LOCAL, [JobState.QUEUED])
