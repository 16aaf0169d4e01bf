"""Server-sent events: messages as text, and a response that keeps the line alive while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from starlette.responses import StreamingResponse

from sotediffusion.serve.storage.jobs import StoreDown

LAST = 1.0  # s in which a server that closes still tells what has just happened: how its last job ended
EVERY = 15.0  # s of silence after which a comment is sent, so that nobody in between takes the line for dead
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse(data: Any, event: str | None = None, id: str | int | None = None) -> str:
    """One message; `data` becomes a line of JSON."""
    lines = [f"event: {event}"] * (event is not None) + [f"id: {id}"] * (id is not None)
    return "\n".join([*lines, f"data: {json.dumps(data, allow_nan=False)}", "", ""])


def event_stream(items: AsyncIterator[str], every: float = EVERY, closing: asyncio.Event | None = None) -> StreamingResponse:
    """A response of such messages, which ends with `items`, or when the server is `closing`."""
    return StreamingResponse(_alive(items, every, closing), media_type="text/event-stream", headers=HEADERS)


async def _alive(items: AsyncIterator[str], every: float, closing: asyncio.Event | None) -> AsyncIterator[str]:
    over: asyncio.Task[Any] | None = asyncio.create_task(closing.wait()) if closing is not None else None
    coming: asyncio.Task[Any] | None = None
    end: float | None = None
    try:
        while end is None or monotonic() < end:
            coming = coming or asyncio.create_task(_next(items))
            await asyncio.wait([coming, *([over] if over else [])], timeout=every, return_when=asyncio.FIRST_COMPLETED)
            if over is not None and over.done():
                end = end or monotonic() + LAST
                await asyncio.wait([coming], timeout=end - monotonic())
            if coming.done():
                try:
                    yield coming.result()
                except (StopAsyncIteration, StoreDown):  # who listens comes again
                    return
                coming = None
            elif end is None:
                yield ": still here\n\n"
    finally:
        for task in (coming, over):
            if task is not None:
                task.cancel()


async def _next(items: AsyncIterator[str]) -> str:
    return await anext(items)
