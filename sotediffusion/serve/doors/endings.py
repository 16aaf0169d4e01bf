"""How a job without pictures is told to who waited for them."""

from collections.abc import AsyncIterator, Callable

from sotediffusion.serve.gateway import NoSuch
from sotediffusion.serve.storage.jobs import Job, JobState, StoreDown
from sotediffusion.serve.walls.problems import CLIENT_CLOSED, Trouble, trouble_of
from sotediffusion.types import UserError

WORKER_DIED = "worker_died"


def ending(job: Job) -> Trouble | None:
    """Why an ended job has no pictures to give; None where it has."""
    if job.state == JobState.EXPIRED:
        why = job.error.message if job.error is not None else "its deadline came before it was done"
        return Trouble(504, "deadline", f"{why}; give it more time")
    if job.state == JobState.CANCELLED:
        return Trouble(CLIENT_CLOSED, "cancelled", "the job was cancelled before it was done")
    if job.state == JobState.FAILED:
        return _failed(job)
    return None if job.pictures else Trouble(410, "deleted", "the pictures of this job were deleted; ask for them anew")


async def to_the_end(events: AsyncIterator[str], told: Callable[[Trouble], str]) -> AsyncIterator[str]:
    """Events; where they break off, a last one says why, as there is no status any more to say it by."""
    try:
        async for event in events:
            yield event
    except (StoreDown, NoSuch, UserError) as error:
        yield told(trouble_of(error))


def _failed(job: Job) -> Trouble:
    """A failure's code is the field of a UserError, unless the job brought its worker down."""
    code, message = (job.error.code, job.error.message) if job.error is not None else (WORKER_DIED, "it failed")
    if code == WORKER_DIED:
        return Trouble(500, WORKER_DIED, message)
    return trouble_of(UserError(code, message.removeprefix(f"{code}: ")))
