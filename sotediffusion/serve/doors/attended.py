"""A job that lives as long as somebody waits for it: when the client hangs up, what it asked for is cancelled.

One with an idempotency key lives on, see `Gateway.leave`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from sotediffusion.serve.gateway import TURN, ClientGone, Closing, Gateway
from sotediffusion.serve.storage.jobs import Job, StoreDown

PATIENCE_S = 30.0  # that a store may be away before who waits is told
AGAIN_S = 0.5  # between two questions to such a one


async def steadily(gateway: Gateway, owner: str, id: str) -> AsyncIterator[tuple[Job, int | None]]:
    """What `Gateway.stream` tells, over moments in which the store is away; after one the job is told as it is then."""
    away = None
    while True:
        try:
            async for told in gateway.stream(owner, id):
                away = None
                yield told
            return
        except StoreDown as error:
            away = await _borne(error, away)


async def attended(gateway: Gateway, owner: str, id: str) -> AsyncIterator[Job]:
    """The job at each change, the last one ended; not listened to until then, it is cancelled, unless the server ends."""
    ended = False
    try:
        async for job, _ in steadily(gateway, owner, id):
            ended = job.state.ended
            yield job
    finally:
        if not ended:
            gateway.leave(owner, id)


async def awaited(gateway: Gateway, owner: str, id: str, gone: Callable[[], Awaitable[bool]]) -> Job:
    """The job when it has ended. Should `gone` say that the client has left, it is cancelled: ClientGone.

    When the server ends first, the job stays in the queue: Closing.
    """
    ended, away = False, None
    try:
        while not ended:
            try:
                job = await gateway.wait(owner, id, TURN)
                ended, away = job.state.ended, None
            except StoreDown as error:
                away = await _borne(error, away)
            if not ended and gateway.closing.is_set():
                raise Closing
            if not ended and await gone():
                raise ClientGone
        return job
    finally:
        if not ended:
            gateway.leave(owner, id)


async def _borne(error: StoreDown, since: float | None) -> float:
    """Wait a little for a store that is away; since when it is. It has been away for too long: `error`."""
    now = asyncio.get_running_loop().time()
    since = now if since is None else since
    if now - since > PATIENCE_S:
        raise error
    await asyncio.sleep(AGAIN_S)
    return since
