"""The gateway: what every door asks of the server, each in its own words. It knows jobs, files and rules, and loads no torch."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

from sotediffusion.limits import SIDE_STEP
from sotediffusion.pictures.headers import sniff
from sotediffusion.serve.copies import in_format, thumbnail
from sotediffusion.serve.doors.words import Words
from sotediffusion.serve.menu import Menu
from sotediffusion.serve.storage.gallery import Gallery
from sotediffusion.serve.storage.jobs import Job, JobState, StoreDown, StoredPicture, new_id, pack
from sotediffusion.serve.storage.shelf import Shelf, with_thumbnails
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.walls import admission
from sotediffusion.serve.walls.admission import Ask, Bounds, Lora, Rate
from sotediffusion.serve.walls.signing import Seal
from sotediffusion.serve.watch import Watch

__all__ = ["Ask", "Bounds", "ClientGone", "Closing", "Gateway", "Lora", "NoSuch", "StillLive", "round_size"]

T = TypeVar("T")

PICTURE_LIFE = 24 * 3600.0  # s that an address of a picture holds at least
PICTURE_GRAIN = 3600.0  # s for which it stays the same
FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
TURN = 0.5  # s between two looks at the place of a waiting job, which changes without it
_SUFFIX = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_THREADS = 16
_ALL = 10_000


class NoSuch(Exception):
    """There is no such thing for this caller."""

    def __init__(self, what: str = "job"):
        super().__init__(f"there is no such {what}")


class StillLive(Exception):
    """The job has not ended yet, or its webhook has not been told, which must be before this."""


class Closing(Exception):
    """The server is about to end and takes nothing more in."""


class ClientGone(Exception):
    """Who asked has hung up; what was asked is cancelled, unless it may be asked for again."""


@dataclass
class Gateway:
    """Jobs and pictures of one server. Calls that wait for a disk or a database do so in threads.

    Every owner sees only its own. UserError, QueueFull and StoreDown come through as the stores raise them.
    """

    store: JobStore
    shelf: Shelf
    menu: Menu
    bounds: Bounds = Bounds()
    rate: Rate | None = None  # the rating of a picture's bytes, as a place in RATINGS
    wake: Callable[[], None] = lambda: None  # tells a worker of this machine that there is a new job
    words: Words | None = None  # wildcards that may stand in prompts, and styles around them
    receivers: Collection[str] | None = None  # hosts of webhooks that may be private or without TLS; None: no webhooks

    def __post_init__(self) -> None:
        self.gallery = Gallery(self.store.database)
        self.draining = asyncio.Event()  # the server is about to end: nothing more is taken in
        self.closing = asyncio.Event()  # it ends now, and so does every stream
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway")
        self._seal = Seal(self.store.database, "pictures")
        self.watch = Watch(partial(self.do, self.store.versions))

    async def do(self, work: Callable[..., T], *arguments: Any, **more: Any) -> T:
        """Blocking work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments, **more))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # Jobs

    async def submit(self, owner: str, ask: Ask) -> Job:
        """Accept an order. UserError: it may not be drawn, or there is no room; QueueFull, Closing."""
        if self.draining.is_set():
            raise Closing
        job = await self.do(self._submit, owner, ask)
        self.wake()
        return job

    async def job(self, owner: str, id: str) -> Job:
        """A job of the owner's. NoSuch."""
        job = await self.do(self.store.get, id, owner)
        if job is None:
            raise NoSuch
        return job

    async def jobs(
        self, owner: str, states: Collection[JobState] = (), limit: int = 100, before: str | None = None
    ) -> list[Job]:
        """The owner's jobs, the latest first."""
        return await self.do(self.store.find, owner, states, limit, before)

    async def position(self, job: Job) -> int | None:
        """How many jobs have their turn before this one; None unless it waits."""
        return await self.do(self.store.position, job.id) if job.state == JobState.QUEUED else None

    async def wait(self, owner: str, id: str, timeout: float | None = None) -> Job:
        """The job when it has ended, or as it is after `timeout` seconds. NoSuch."""
        end = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while not (job := await self.job(owner, id)).state.ended:
            left = 60.0 if end is None else end - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self.watch.change(id, job.version, left)
        return job

    def leave(self, owner: str, id: str) -> None:
        """Cancel what nobody waits for any more, unless the server ends. In a thread: who was cancelled can wait for nothing."""
        if not self.closing.is_set():
            self._threads.submit(self._leave, owner, id)

    async def stream(self, owner: str, id: str, seen: int | None = None) -> AsyncIterator[tuple[Job, int | None]]:
        """The job and its place in the queue, at each change of either; the last one has ended.

        `seen` is a version that is known already. NoSuch, also when it is forgotten meanwhile.
        """
        told: tuple[int | None, int | None] | None = None if seen is None else (seen, None)
        while True:
            job = await self.job(owner, id)
            now = (job.version, await self.position(job))
            if now != told:
                yield job, now[1]
                told = now
            if job.state.ended:
                return
            await self.watch.change(id, job.version, TURN if now[1] is not None else 60.0)

    async def cancel(self, owner: str, id: str) -> tuple[JobState, JobState]:
        """End a job; its states before and after. NoSuch."""
        states = await self.do(self.store.cancel, id, owner)
        if states is None:
            raise NoSuch
        self.wake()
        self.watch.nudge()
        return states

    async def interrupt(self, owner: str, dialect: str) -> None:
        """End the owner's jobs that run and were asked for in this dialect; those that wait keep their places."""
        for job in await self.jobs(owner, [JobState.RUNNING], _ALL):
            if job.dialect == dialect:
                await self.cancel(owner, job.id)

    async def move(self, owner: str, id: str, before: str | None) -> list[Job]:
        """Move a waiting job before another, or behind all; the owner's waiting jobs in order. NoSuch."""
        if not await self.do(self.store.reorder, id, owner, before):
            raise NoSuch("waiting job")
        return await self.do(self.store.waiting, owner)

    async def forget(self, owner: str, id: str) -> None:
        """Remove an ended job with its pictures. NoSuch, StillLive."""
        job = await self.job(owner, id)
        if not job.state.ended:
            raise StillLive(f"the job is {job.state}; cancel it first")
        if await self.do(self.store.untold, id):
            raise StillLive("the job's webhook is still to be told how it ended; forget it after that")
        await self.do(self.shelf.remove_job, id)
        await self.do(self.store.forget, [id])
        self.watch.nudge()

    async def discard(self, owner: str, id: str, picture: str) -> Job:
        """Take one picture out of a job and off the shelf; with the last one the job leaves the gallery. NoSuch."""
        if not await self.do(self.gallery.discard, owner, id, picture):
            raise NoSuch("picture")
        await self.do(self.shelf.remove, with_thumbnails(picture))
        self.watch.nudge()
        return await self.job(owner, id)

    async def favour(self, owner: str, id: str, picture: str, yes: bool) -> Job:
        """Mark a picture as a favourite, or as none. NoSuch."""
        if not await self.do(self.gallery.favour, owner, id, picture, yes):
            raise NoSuch("picture")
        self.watch.nudge()
        return await self.job(owner, id)

    def notes(self, job: Job) -> list[str]:
        """What a caller should know of a job's making."""
        return [admission.UNCHECKED] if job.request.get("init") and self.rate is None else []

    # Pictures

    @property
    def rates(self) -> bool:
        """Whether a rating tagger looks at pictures here."""
        return self.rate is not None

    async def file(self, name: str) -> bytes:
        """A file of the shelf. NoSuch."""
        try:
            return await self.do(self.shelf.read, name)
        except FileNotFoundError:
            raise NoSuch("picture") from None

    async def picture(self, stored: StoredPicture, format: str = "png", quality: int | None = None) -> bytes:
        """A finished picture as a file with its marks inside: as it was drawn, or in another format. NoSuch."""
        content = await self.file(stored.name)
        if format == "png":
            return content
        return await self.do(in_format, content, stored, format, quality)

    async def thumbnail(self, stored: StoredPicture, least: int) -> tuple[bytes, str]:
        """A finished picture in a size for a gallery, at least so many px wide, and its type. NoSuch."""
        try:
            return await self.do(thumbnail, self.shelf, stored, least)
        except FileNotFoundError:
            raise NoSuch("picture") from None

    def url(self, name: str, base: str = "", format: str = "png") -> str:
        """An address under which anybody may get this file for a day, signed."""
        expires, signature = self._seal.sign(name, PICTURE_LIFE, PICTURE_GRAIN)
        more = {} if format == "png" else {"format": format}
        return f"{base}/pictures/{name}?{urlencode({'expires': expires, 'signature': signature, **more})}"

    def may_see(self, name: str, expires: int, signature: str) -> bool:
        """Whether an address was signed here and has not expired."""
        return self._seal.holds(name, expires, signature)

    # In threads

    def _leave(self, owner: str, id: str) -> None:
        """A job with an idempotency key stays: whoever gave one says that it will be asked for again."""
        job = self.store.get(id, owner)
        if job is not None and job.idempotency is None:
            self.store.cancel(id, owner)
            self.wake()

    def _submit(self, owner: str, ask: Ask) -> Job:
        settled = admission.admit(ask, self.menu, self.bounds, self.receivers, self.words.wildcards if self.words else None)
        init, id = ask.request.init, new_id()
        if init is not None:
            admission.check_init(init, settled.request, self.menu.offer(settled.model), self.bounds, self.rate)
        self.shelf.check_room()
        name = None if init is None else self.shelf.put(id, init, _SUFFIX[sniff(init)])
        try:
            asked = None if ask.idempotency is None else admission.fingerprint(ask)
            job = self.store.submit(_job(id, owner, settled, name, self.store, asked), settled.longest)
        except StoreDown:  # it may be accepted all the same: a file that no job knows is swept later
            raise
        except BaseException:
            self.shelf.remove_job(id)
            raise
        if job.id != id and name is not None:  # it had been asked for before
            self.shelf.remove_job(id)
        return job


def round_size(width: int, height: int) -> tuple[int, int]:
    """A size as it can be drawn: each side up to the next multiple of 8."""
    return -(-width // SIDE_STEP) * SIDE_STEP, -(-height // SIDE_STEP) * SIDE_STEP


def _job(id: str, owner: str, ask: Ask, init: str | None, store: JobStore, asked: str | None) -> Job:
    request = pack(replace(ask.request, init=None), init)
    assert ask.model is not None
    loras = tuple(asdict(lora) for lora in ask.loras)
    return Job(
        id, owner, request, ask.model, loras, ask.origin, ask.priority, _after(ask.deadline_s, store),
        _after(ask.start_s, store), ask.webhook, ask.idempotency, asked,
    )  # fmt: skip


def _after(seconds: float | None, store: JobStore) -> float | None:
    """So many seconds from now, by the clock of the database."""
    if seconds is None:
        return None
    with store.database.read() as connection:
        return store.database.now(connection) + seconds
