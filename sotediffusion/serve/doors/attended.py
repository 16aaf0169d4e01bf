"""A job that lives as long as somebody waits for it: when the client hangs up, what it asked for is cancelled.

One with an idempotency key lives on, see `Gateway.leave`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

from sotediffusion.serve.gateway import TURN, ClientGone, Closing, Gateway
from sotediffusion.serve.storage.jobs import Job


async def attended(gateway: Gateway, owner: str, id: str) -> AsyncIterator[Job]:
    """The job at each change, the last one ended; not listened to until then, it is cancelled, unless the server ends."""
    ended = False
    try:
        async for job, _ in gateway.stream(owner, id):
            ended = job.state.ended
            yield job
    finally:
        if not ended:
            gateway.leave(owner, id)


async def awaited(gateway: Gateway, owner: str, id: str, gone: Callable[[], Awaitable[bool]]) -> Job:
    """The job when it has ended. Should `gone` say that the client has left, it is cancelled: ClientGone.

    When the server ends first, the job stays in the queue: Closing.
    """
    ended = False
    try:
        while not ended:
            job = await gateway.wait(owner, id, TURN)
            ended = job.state.ended
            if not ended and gateway.closing.is_set():
                raise Closing
            if not ended and await gone():
                raise ClientGone
        return job
    finally:
        if not ended:
            gateway.leave(owner, id)
