"""A job that lives as long as somebody waits for it: when the client hangs up, what it asked for is cancelled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from sotediffusion.serve.gateway import TURN, ClientGone, Gateway, NoSuch
from sotediffusion.serve.storage.jobs import Job, StoreDown

_leaving: set[asyncio.Task[None]] = set()  # or they would be collected before they are done


async def attended(gateway: Gateway, owner: str, id: str) -> AsyncIterator[Job]:
    """The job at each change, the last one ended; not listened to until then, it is cancelled, unless the server ends."""
    ended = False
    try:
        async for job, _ in gateway.stream(owner, id):
            ended = job.state.ended
            yield job
    finally:
        if not ended:
            _leave(gateway, owner, id)


async def awaited(gateway: Gateway, owner: str, id: str, gone: Callable[[], Awaitable[bool]]) -> Job:
    """The job when it has ended. Should `gone` say that the client has left, it is cancelled: ClientGone."""
    ended = False
    try:
        while True:
            job = await gateway.wait(owner, id, TURN)
            ended = job.state.ended
            if ended:
                return job
            if await gone():
                raise ClientGone
    finally:
        if not ended:
            _leave(gateway, owner, id)


def _leave(gateway: Gateway, owner: str, id: str) -> None:
    """In a task of its own, for whoever was cancelled itself can wait for nothing any more."""
    if not gateway.closing.is_set():
        task = asyncio.create_task(_cancel(gateway, owner, id))
        _leaving.add(task)
        task.add_done_callback(_leaving.discard)


async def _cancel(gateway: Gateway, owner: str, id: str) -> None:
    with suppress(NoSuch, StoreDown):
        await gateway.cancel(owner, id)
