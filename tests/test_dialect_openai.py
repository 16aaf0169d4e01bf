"""OpenAI's images API over a real connection: pictures, addresses, partial images as they come, models, errors in its shape."""

import base64
import json
import threading
import time
from io import BytesIO

import pytest
from drawing import drawing
from PIL import Image
from web import Site, quick_folder, site

from sotediffusion.pictures.marks import read_marks
from sotediffusion.serve.storage.jobs import LOCAL, JobState
from sotediffusion.serve.walls.admission import Bounds

ASK = {"prompt": "1girl, cat ears", "size": "64x64", "seed": 7}


@pytest.fixture(scope="module")
def shared():
    with quick_folder() as folder, site(folder, bounds=Bounds(pixels=512 * 512, count=8)) as made:
        yield made


def ask(made: Site, **more):
    return made.client.post("/v1/images/generations", json=ASK | more)


def events(made: Site, seen=None, **more):
    """What is told of a drawing; `seen` is set with the first."""
    lines = []
    with made.client.stream("POST", "/v1/images/generations", json=ASK | more | {"stream": True}) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line and not line.startswith(":"):
                lines.append(line)
                if seen is not None:
                    seen.set()
    return [(name[7:], json.loads(data[6:])) for name, data in zip(lines[::2], lines[1::2], strict=True)]


def test_pictures_come_as_base64_in_the_format_asked_for_with_their_settings_inside(shared):
    with drawing(shared):
        reply = ask(shared, n=2, output_format="webp", size="60x57")
    said = reply.json()
    assert reply.status_code == 200, reply.text
    assert (said["size"], said["output_format"], [item["seed"] for item in said["data"]]) == ("64x64", "webp", [7, 8])
    for item in said["data"]:
        with Image.open(BytesIO(base64.b64decode(item["b64_json"]))) as image:
            assert (image.format, image.size) == ("WEBP", (64, 64)) and "cat ears" in read_marks(image)[0]


def test_pictures_come_as_addresses_that_anybody_may_follow(shared):
    with drawing(shared):
        url = ask(shared, response_format="url").json()["data"][0]["url"]
    assert url.startswith(shared.base)
    assert shared.client.get(url).headers["content-type"] == "image/png"


def test_previews_come_as_partial_images_and_then_each_picture(shared):
    seen = threading.Event()
    with drawing(shared, steps=3, seen=seen):
        found = events(shared, seen, partial_images=2, n=2)
    names = [name.removeprefix("image_generation.") for name, _ in found]
    assert names[-2:] == ["completed", "completed"] and set(names[:-2]) == {"partial_image"} and len(names) <= 4
    for index, (name, event) in enumerate(found):
        assert event["type"] == name and event["b64_json"] and event["size"] == "64x64"
        if name.endswith("partial_image"):
            assert event["partial_image_index"] == index
    assert events_without_partials(shared) == ["image_generation.completed"]


def events_without_partials(made):
    with drawing(made, steps=1):
        return [name for name, _ in events(made)]


def test_a_drawing_that_fails_in_mid_stream_ends_with_an_error(shared):
    def cancel():
        while not (live := shared.store.find(LOCAL, [JobState.QUEUED])):
            time.sleep(0.01)
        shared.store.cancel(live[0].id)

    thread = threading.Thread(target=cancel)
    thread.start()
    ((name, event),) = events(shared)
    thread.join()
    assert name == "error" and event["error"]["code"] == "cancelled"


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [({"prompt": " "}, 400, "prompt"), ({"n": 9}, 400, "n"), ({"size": "1024x1024"}, 422, "size"),
     ({"size": "9000x64"}, 422, "size"), ({"size": "wide"}, 400, "size"), ({"seed": -1}, 400, "seed"),
     ({"sampler": "x"}, 400, "sampler"), ({"model": "dall-e-3"}, 404, "model"), ({"prompt": "loli, nude"}, 400, "prompt"),
     ({"n": "\ud800"}, 400, "n"), ({"loras": [{"name": "none"}]}, 400, "loras")],
)  # fmt: skip
def test_faults_are_told_in_openais_shape(shared, more, status, param):
    reply = shared.client.post(
        "/v1/images/generations", content=json.dumps(ASK | more), headers={"Content-Type": "application/json"}
    )
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param) and error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_models_are_listed_with_their_licence(shared):
    said = shared.client.get("/v1/models").json()
    assert [(model["id"], model["object"], model["license"]) for model in said["data"]] == [
        ("tiny", "model", "apache-2.0"), ("other", "model", "faipl-1.0-sd"),
    ]  # fmt: skip
    assert shared.client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert shared.client.get("/v1/models/gpt").json()["error"]["code"] == "model_not_found"


def test_the_same_idempotency_key_gives_the_same_job(shared):
    with drawing(shared):
        key = {"Idempotency-Key": "once"}
        seeds = [shared.client.post("/v1/images/generations", json={**ASK, "seed": None}, headers=key).json()["data"][0]["seed"]
                 for _ in range(2)]  # fmt: skip
    assert seeds[0] == seeds[1]


def test_who_hangs_up_has_its_job_cancelled(shared):
    for more in ({}, {"stream": True}):
        with pytest.raises(Exception, match="(?i)time"):
            shared.client.post("/v1/images/generations", json=ASK | more, timeout=0.7)
        end = time.monotonic() + 20
        while shared.store.find(LOCAL, [JobState.QUEUED, JobState.RUNNING]):
            assert time.monotonic() < end, "the job lives on"
            time.sleep(0.02)
