"""Streams of server-sent events, and what a server that closes still tells on them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sotediffusion.serve import events


def told(items: AsyncIterator[str], closing: asyncio.Event, every: float = 60.0) -> list[str]:
    async def read() -> list[str]:
        return [str(item) async for item in events.event_stream(items, every, closing).body_iterator]

    return asyncio.run(asyncio.wait_for(read(), 60))


def test_a_server_that_closes_still_tells_how_its_last_job_ended():
    closing = asyncio.Event()

    async def last() -> AsyncIterator[str]:
        yield "running"
        closing.set()
        await asyncio.sleep(0.05)  # as long as a question of the job's state may take
        yield "last step"
        await asyncio.sleep(0.05)
        yield "succeeded"

    assert told(last(), closing) == ["running", "last step", "succeeded"]


@pytest.mark.parametrize("pause", [0.01, 3600.0])
def test_a_server_that_closes_is_held_by_no_stream_busy_or_silent(monkeypatch, pause):
    monkeypatch.setattr(events, "LAST", 0.1)
    closing = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        yield "first"
        closing.set()
        while True:
            await asyncio.sleep(pause)
            yield "more"

    heard = told(endless(), closing)
    assert heard[0] == "first" and set(heard[1:]) <= {"more"}


def test_a_silent_stream_is_kept_open_by_comments():
    async def slow() -> AsyncIterator[str]:
        await asyncio.sleep(0.2)
        yield "first"

    *comments, first = told(slow(), asyncio.Event(), every=0.05)
    assert first == "first" and comments and set(comments) == {": still here\n\n"}
