"""An order that is sent twice under one key is one job; another order under it is refused, in the words of each dialect."""

import time
from dataclasses import replace

import pytest
from drawing import drawing
from hypothesis import given
from hypothesis import strategies as st
from job_places import clock, order, place, quick, server, store  # noqa: F401  fixtures
from web import Site, png, quick_folder, site

from sotediffusion.serve.doors.forms import as_text
from sotediffusion.serve.storage.jobs import KeyReused
from sotediffusion.serve.walls.admission import Ask, Lora, fingerprint
from sotediffusion.types import Request

# ruff: noqa: F811  fixtures are arguments

QUEUE = "/fal/queue/fal-ai/stable-cascade"
ONCE = {"Idempotency-Key": "order-17"}
ASK = Ask(Request("1girl"), idempotency="k")
OTHERS = [
    replace(ASK, request=Request("1boy")), replace(ASK, request=Request("1girl", seed=1)), replace(ASK, model="tiny"),
    replace(ASK, request=Request("1girl", init=b"a")), replace(ASK, request=Request("1girl", init=b"b")),
    replace(ASK, loras=(Lora("ink"),)), replace(ASK, loras=(Lora("ink", 0.5),)), replace(ASK, origin="fal"),
    replace(ASK, origin="fal sync"), replace(ASK, priority=-1), replace(ASK, deadline_s=5.0), replace(ASK, start_s=5.0),
    replace(ASK, webhook="https://there.example"),
]  # fmt: skip


def test_each_thing_that_a_caller_says_makes_another_order():
    assert len({fingerprint(ask) for ask in (ASK, *OTHERS)}) == 1 + len(OTHERS)
    same = (replace(ASK, idempotency="other"), replace(ASK, longest=3))
    assert {fingerprint(ask) for ask in same} == {fingerprint(ASK)}
    assert fingerprint(replace(ASK, origin="fal base=one")) == fingerprint(replace(ASK, origin="fal base=two"))


@given(st.text(), st.text())
def test_no_two_prompts_are_one_order(one, other):
    said = [fingerprint(replace(ASK, request=Request(prompt))) for prompt in (one, other)]
    assert (said[0] == said[1]) == (one == other)


def test_a_key_stands_for_one_order_of_its_owner(store):
    first = store.submit(order(idempotency="k", asked="one"))
    assert store.submit(order(idempotency="k", asked="one")).id == first.id
    with pytest.raises(KeyReused):
        store.submit(order(idempotency="k", asked="two"))
    assert store.submit(order("ben", idempotency="k", asked="two")).id != first.id
    old = store.submit(order(idempotency="old"))  # of a release that kept no hash
    assert store.submit(order(idempotency="old", asked="two")).id == old.id


@pytest.fixture(scope="module")
def shared():
    with quick_folder() as folder, site(folder) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "told"),
    [("/api/v1/jobs", lambda said: said["error"]["message"]), (QUEUE, lambda said: said["detail"])],
)
def test_another_order_with_a_used_key_is_refused_and_the_same_one_is_the_same_job(shared: Site, path, told):
    key = {"Idempotency-Key": path}

    def sent(prompt):
        return shared.client.post(path, json={"prompt": prompt}, headers=key)

    first, again, other = sent("1girl"), sent("1girl"), sent("1boy")
    name = "id" if path == "/api/v1/jobs" else "request_id"
    assert first.json()[name] == again.json()[name]
    assert other.status_code == 422 and "take a new one for each order" in told(other.json())


@pytest.mark.parametrize(
    ("path", "told"),
    [("/v1/images/generations", lambda said: (said["error"]["message"], said["error"]["code"] == "key_reused")),
     ("/sdapi/v1/txt2img", lambda said: (said["detail"], said["error"] == "key_reused")),
     ("/fal/run/fal-ai/stable-cascade", lambda said: (said["detail"], said["error_type"] == "bad_request"))],
)  # fmt: skip
def test_a_dialect_that_waits_refuses_it_at_once(shared: Site, path, told):
    shared.client.post("/api/v1/jobs", json={"prompt": "1girl"}, headers=ONCE)
    reply = shared.client.post(path, json={"prompt": "1girl"}, headers=ONCE)
    message, right = told(reply.json())
    assert reply.status_code == 422 and right and "take a new one for each order" in message


WAITING = [
    ("/v1/images/generations", {"prompt": "1girl", "size": "64x64"}),
    ("/v1/images/generations", {"prompt": "1girl", "size": "64x64", "stream": True}),
    ("/sdapi/v1/txt2img", {"prompt": "1girl", "width": 64, "height": 64}),
    ("/fal/run/fal-ai/stable-cascade", {"prompt": "1girl", "image_size": {"width": 64, "height": 64}}),
    ("/fal/run/fal-ai/stable-cascade/stream", {"prompt": "1girl", "image_size": {"width": 64, "height": 64}}),
]


def test_who_hangs_up_and_asks_again_under_the_same_key_gets_the_picture():
    with quick_folder() as folder, site(folder) as made:
        keys = [{"Idempotency-Key": f"again-{number}"} for number in range(len(WAITING))]
        for (path, body), key in zip(WAITING, keys, strict=True):
            with pytest.raises(Exception, match="(?i)time"):
                made.client.post(path, json=body, headers=key, timeout=0.3)
        time.sleep(1.5)  # by then the server has seen that they are gone
        with drawing(made):
            replies = [made.client.post(path, json=body, headers=key) for (path, body), key in zip(WAITING, keys, strict=True)]
    assert [(reply.status_code, "cancelled" in reply.text) for reply in replies] == [(200, False)] * len(WAITING)


def test_a_picture_of_a_refused_order_is_not_kept(shared: Site):
    key = {"Idempotency-Key": "with-a-picture"}
    order = {"prompt": "1girl, solo", "init": as_text(png())}
    id = shared.client.post("/api/v1/jobs", json=order, headers=key).json()["id"]
    kept = set(shared.shelf.jobs())
    assert id in kept
    assert shared.client.post("/api/v1/jobs", json=order | {"strength": 0.5}, headers=key).status_code == 422
    assert set(shared.shelf.jobs()) == kept
