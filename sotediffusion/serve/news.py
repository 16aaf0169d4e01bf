"""All that changes among the jobs of one owner, as it happens, whichever process changes it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import sqlalchemy as sa

from sotediffusion.serve.gateway import Gateway
from sotediffusion.serve.storage.jobs import Job, JobState
from sotediffusion.serve.storage.schema import QUEUED, RUNNING, jobs

PAUSE = 0.25  # s between two looks
_WINDOW = 200  # the latest jobs of an owner that are watched, and all that wait or run
_TURNS = 4  # looks between two at the places of waiting jobs
_PLACES = 50  # waiting jobs whose places are told


@dataclass
class News:
    """What one listener has been told of an owner's jobs."""

    gateway: Gateway
    owner: str
    known: dict[str, int] = field(default_factory=dict)  # id: version
    places: dict[str, int | None] = field(default_factory=dict)  # of waiting jobs

    async def follow(self) -> AsyncIterator[tuple[str, Job | None, int | None]]:
        """Id, job and its place in the queue at each change; no job: it is gone. First comes what waits and runs."""
        self.known = await self._versions()  # first, so that what changes before its job is read is told as a change
        running = await self.gateway.jobs(self.owner, [JobState.RUNNING], _WINDOW)  # by themselves: all that wait may be newer
        waiting = await self.gateway.jobs(self.owner, [JobState.QUEUED], _WINDOW)
        for job in (*reversed(running), *reversed(waiting)):
            yield job.id, job, await self._place(job)
        looks = 0
        while True:
            await asyncio.sleep(PAUSE)
            now = await self._versions()
            lost = [id for id in self.known if id not in now]
            there = await self.gateway.do(self.gateway.store.versions, lost) if lost else {}  # ended, and newer ones are many
            changed = [id for id, version in (there | now).items() if self.known.get(id) != version]
            self.known = now
            for id in changed:
                if (news := await self._job(id)) is not None:
                    yield id, news, await self._place(news)
            for id in lost:
                if id not in there:
                    self.places.pop(id, None)
                    yield id, None, None
            looks += 1
            if looks % _TURNS == 0:
                async for moved in self._moved():
                    yield moved

    async def _moved(self) -> AsyncIterator[tuple[str, Job | None, int | None]]:
        """Jobs whose turn comes sooner or later than it did; that changes nothing in the jobs themselves."""
        for id, before in list(self.places.items())[:_PLACES]:
            job = await self._job(id)
            if job is None or job.state != JobState.QUEUED:
                self.places.pop(id, None)
            elif (place := await self._place(job)) != before:
                yield id, job, place

    async def _job(self, id: str) -> Job | None:
        return await self.gateway.do(self.gateway.store.get, id, self.owner)

    async def _place(self, job: Job) -> int | None:
        place = await self.gateway.position(job)
        self.places[job.id] = place
        if place is None:
            del self.places[job.id]
        return place

    async def _versions(self) -> dict[str, int]:
        return await self.gateway.do(_versions, self.gateway, self.owner)


def _versions(gateway: Gateway, owner: str) -> dict[str, int]:
    mine = sa.select(jobs.c.id, jobs.c.version).where(jobs.c.owner == owner)
    with gateway.store.database.snapshot() as connection:
        latest = connection.execute(mine.order_by(jobs.c.seq.desc()).limit(_WINDOW)).all()
        waiting = connection.execute(mine.where(QUEUED)).all()
        # Without the owner, by whose index SQLite would walk over all of its jobs; those that run are few.
        running = connection.execute(sa.select(jobs.c.id, jobs.c.version, jobs.c.owner).where(RUNNING)).all()
    return {row.id: row.version for row in (*waiting, *(row for row in running if row.owner == owner), *latest)}
