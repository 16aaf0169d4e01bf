"""A database or a shelf that fails for a moment costs nobody who waits for a picture that picture, nor an answer."""

import asyncio
import json

import pytest
from web import Site, quick_folder, site

from sotediffusion.serve.doors import attended
from sotediffusion.serve.storage.jobs import JobState, StoreDown
from sotediffusion.types import UserError

FAL, OPENAI, A1111 = "/fal-ai/stable-cascade", "/v1/images/generations", "/sdapi/v1/txt2img"
FAL_ASK = {"prompt": "1girl, cat ears", "image_size": {"width": 64, "height": 64}}
OPENAI_ASK = {"prompt": "1girl, cat ears", "size": "64x64"}
WHOLE = {FAL: FAL_ASK, OPENAI: OPENAI_ASK, A1111: {"prompt": "1girl, cat ears", "width": 64, "height": 64}}
STREAMS = {f"{FAL}/stream": FAL_ASK, OPENAI: OPENAI_ASK | {"stream": True}}


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(attended, "AGAIN_S", 0.01)
    with quick_folder() as folder, site(folder) as made:
        yield made


def down(*arguments):
    raise StoreDown("away")


def away(made: Site, monkeypatch, times: int) -> None:
    """The store answers nobody who waits so many times; then the job is drawn."""
    ask, asked = made.gateway.watch._ask, [0]

    async def answer(ids):
        asked[0] += 1
        if asked[0] <= times:
            raise StoreDown("away")
        if live := made.store.find(states=[JobState.QUEUED]):
            await asyncio.to_thread(made.hand.draw)
            assert made.store.get(live[0].id).state == JobState.SUCCEEDED
        return await ask(ids)

    monkeypatch.setattr(made.gateway.watch, "_ask", answer)


def last_event(made: Site, path: str, ask: dict) -> dict:
    with made.client.stream("POST", path, json=ask) as reply:
        assert reply.status_code == 200
        return [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")][-1]


@pytest.mark.parametrize("path", WHOLE)
def test_who_waits_gets_the_picture_though_the_store_was_away_meanwhile(made, monkeypatch, path):
    away(made, monkeypatch, 3)
    reply = made.client.post(path, json=WHOLE[path])
    assert reply.status_code == 200 and reply.json().get("images", reply.json().get("data"))


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_ends_with_the_picture_though_the_store_was_away_meanwhile(made, monkeypatch, path):
    away(made, monkeypatch, 3)
    last = last_event(made, path, STREAMS[path])
    assert last.get("images") or last.get("b64_json")


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_says_so_where_the_store_stays_away(made, monkeypatch, path):
    monkeypatch.setattr(attended, "PATIENCE_S", 0.0)

    async def answer(ids):
        monkeypatch.setattr(made.store, "get", down)
        raise StoreDown("away")

    monkeypatch.setattr(made.gateway.watch, "_ask", answer)
    assert "the server's database does not answer" in json.dumps(last_event(made, path, STREAMS[path]))


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_says_so_where_the_picture_cannot_be_read(made, monkeypatch, path):
    def fails(name):
        raise UserError("disk", "the shelf fails")

    monkeypatch.setattr(made.shelf, "read", fails)
    away(made, monkeypatch, 0)
    ask = STREAMS[path] | ({"sync_mode": True} if path.startswith(FAL) else {})
    assert "the shelf fails" in json.dumps(last_event(made, path, ask))


def test_a_preview_that_cannot_be_read_ends_no_drawing(made, monkeypatch):
    read = made.shelf.read

    def fails(name):
        if "preview" in name:
            raise UserError("disk", "the shelf fails")
        return read(name)

    monkeypatch.setattr(made.shelf, "read", fails)
    ask, shown = made.gateway.watch._ask, []

    async def answer(ids):
        if not shown:
            shown.append(await asyncio.to_thread(made.hand.take))
            await asyncio.to_thread(made.hand.tell, shown[0], 1, True)
        elif shown[0].state == JobState.RUNNING:
            shown[0] = await asyncio.to_thread(made.hand.finish, shown[0])
        return await ask(ids)

    monkeypatch.setattr(made.gateway.watch, "_ask", answer)
    assert last_event(made, OPENAI, OPENAI_ASK | {"stream": True, "partial_images": 3})["b64_json"]


def test_a_reply_is_not_lost_where_its_job_cannot_be_forgotten(made, monkeypatch):
    monkeypatch.setattr(made.store, "forget", down)
    away(made, monkeypatch, 0)
    assert made.client.post(FAL, json=FAL_ASK | {"sync_mode": True}).json()["images"]
