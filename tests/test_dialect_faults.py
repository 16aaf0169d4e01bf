"""Whatever a stranger sends to the dialects, the answer is one of theirs, never a fault of ours; another's jobs stay unseen."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import Site, quick_folder, site

from sotediffusion.serve.storage.jobs import JobState
from sotediffusion.serve.storage.store import Limits
from sotediffusion.serve.walls.admission import Bounds

QUEUE = "/fal/queue/fal-ai/stable-cascade"
POSTS = (f"{QUEUE}/sote-diffusion", QUEUE, "/sdapi/v1/png-info", "/sdapi/v1/options")
DRAWS = ("/fal-ai/stable-cascade", "/fal/run/fal-ai/stable-cascade/sote-diffusion/stream", "/v1/images/generations",
         "/sdapi/v1/txt2img", "/sdapi/v1/img2img")  # fmt: skip
NASTY = (
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"prompt": NaN}', b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"prompt": "\\ud800"}', b'{"prompt": "a\\u0000"}', b'{"prompt": "a", "seed": 1' + b"0" * 4000 + b"}",
    b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}", b'{"prompt": "a", "guidance_scale": 1e999}',
    b'{"prompt": "a", "\\udfff": 1}', b'{"prompt": {"a": []}}', b'{"prompt": "a", "image_size": {"width": -1}}',
    b'{"image": "\\ud800"}', b'{"image": ["x"]}', b'{"sd_model_checkpoint": {"a": "\\ud800"}}',
    b'{"prompt": "a", "override_settings": {"samples_format": ["\\ud800"]}}',
    b'{"prompt": "a", "alwayson_scripts": {"x": {"args": {}}}}',
    b'{"prompt": "a", "init_images": ["data:image/png;base64,aGk="]}', b'{"prompt": "a", "init_images": [""]}',
)  # fmt: skip
JSON = {"Content-Type": "application/json"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("prompt", "negative_prompt", "seed", "image_size", "num_images", "sync_mode", "guidance_scale", "first_stage_steps",
          "size", "n", "model", "loras", "stream", "partial_images", "output_format", "steps", "width", "height", "sampler_name",
          "scheduler", "init_images", "denoising_strength", "override_settings", "alwayson_scripts", "batch_size")  # fmt: skip


@pytest.fixture(scope="module")
def full():
    """A server on which no job has room, so that nothing is waited for."""
    with quick_folder() as folder, site(folder, limits=Limits(queued=0), bounds=Bounds(pixels=512 * 512)) as made:
        yield made


def is_told(reply) -> None:
    """The answer is JSON of a dialect, and no fault of ours."""
    assert reply.status_code < 500, (reply.status_code, reply.text[:500])
    said = reply.json()
    if reply.status_code >= 400:
        assert {"detail", "error", "status"} & set(said)


@pytest.mark.parametrize("path", POSTS + DRAWS)
def test_no_body_breaks_a_door(full, path):
    for body in NASTY:
        is_told(full.client.post(path, content=body, headers=JSON))
    assert full.client.post(path, content=b"a=b", headers={"Content-Type": "text/plain"}).status_code == 415


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(path=st.sampled_from(DRAWS + POSTS[:2]), body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_no_field_breaks_a_door(full, path, body):
    reply = full.client.post(path, content=json.dumps({"prompt": "a"} | body), headers=JSON)
    is_told(reply)
    assert reply.status_code != 200


@pytest.mark.parametrize(
    "path",
    [f"{QUEUE}/requests/x", f"{QUEUE}/requests/{'0' * 32}/status", f"{QUEUE}/requests/%00/status",
     f"{QUEUE}/requests/%ff/status/stream", f"{QUEUE}/requests/{'a' * 3000}", "/fal/nothing",
     "/v1/models/%ff", "/v1/models/%00", "/v1/nothing", "/sdapi/v1/nothing", "/sdapi/v1/progress?skip_current_image=maybe"],
)  # fmt: skip
def test_no_address_breaks_a_door(full, path):
    reply = full.client.get(path)
    is_told(reply)
    assert 400 <= reply.status_code < 500


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Fal-Request-Timeout", "inf"), ("X-Fal-Request-Timeout", "1e3000"), ("X-Fal-Queue-Priority", "highest"),
     ("Idempotency-Key", "a b"), ("Idempotency-Key", "k" * 500), ("Authorization", "Key :"),
     ("x-fal-target-url", "https://[/"), ("Host", "localhost start=x")],
)  # fmt: skip
def test_no_header_breaks_a_door(full, name, value):
    for path in (f"{QUEUE}?fal_webhook=%00", "/api/fal/proxy", "/v1/images/generations"):
        is_told(full.client.post(path, json={"prompt": "a"}, headers={name: value}))


def test_a_key_sees_and_ends_nothing_of_anothers():
    with quick_folder() as folder, site(folder, asks=True) as made:
        ann, bob = made.calling(made.key()), made.calling(made.key("bob"))
        id = ann.client.post(f"{QUEUE}/sote-diffusion", json={"prompt": "a", "seed": 1}).json()["request_id"]
        assert bob.client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
        for path in ("", "/status", "/status/stream", "/response"):
            assert bob.client.get(f"{QUEUE}/requests/{id}{path}").status_code == 404
            assert made.client.get(f"{QUEUE}/requests/{id}{path}").status_code == 401
        assert bob.client.put(f"{QUEUE}/requests/{id}/cancel").status_code == 404
        assert bob.client.post("/sdapi/v1/interrupt").status_code == 200
        assert made.store.get(id).state == JobState.QUEUED
        assert_nobody_enters(made)


def assert_nobody_enters(made: Site) -> None:
    for path in POSTS + DRAWS + ("/sdapi/v1/interrupt", "/sdapi/v1/skip", "/sdapi/v1/refresh-checkpoints"):
        assert made.client.post(path, json={"prompt": "a"}).status_code == 401, path
    for path in ("/v1/models", "/sdapi/v1/sd-models", "/sdapi/v1/progress", "/sdapi/v1/options", "/sdapi/v1/memory"):
        assert made.client.get(path).status_code == 401, path
