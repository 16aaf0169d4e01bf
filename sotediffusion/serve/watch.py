"""Waiting for jobs to change: one cheap question to the store for all who wait, a few times a second while anybody does."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

Ask = Callable[[Collection[str]], Awaitable[dict[str, int]]]  # the version of each job that exists
PAUSE = 0.1  # s between two questions
_MOST = 500  # jobs in a question


class Watch:
    """Tells whoever waits that a job is not as it was. Belongs to one event loop; `nudge` may be called from any thread."""

    def __init__(self, ask: Ask, pause: float = PAUSE):
        self._ask, self._pause = ask, pause
        self._waiting: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nudged = asyncio.Event()

    async def change(self, id: str, version: int, timeout: float) -> bool:
        """Wait until a job has another version than this, or is gone; False when the time is up."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = self._loop.create_future()
        entry = (version, future)
        self._waiting.setdefault(id, []).append(entry)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout):
                await future
            return True
        except TimeoutError:
            return False
        finally:
            self._forget(id, entry)

    def nudge(self) -> None:
        """Something has just happened: ask now."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._nudged.set)

    def _forget(self, id: str, entry: tuple[int, asyncio.Future[None]]) -> None:
        self._waiting[id].remove(entry)
        if not self._waiting[id]:
            del self._waiting[id]

    async def _look(self) -> None:
        while self._waiting:
            self._nudged.clear()
            ids = list(self._waiting)
            for place in range(0, len(ids), _MOST):
                batch = ids[place : place + _MOST]
                try:
                    versions = await self._ask(batch)
                except Exception as error:  # whoever waits shall hear of it
                    self._fail(batch, error)
                else:
                    self._tell(batch, versions)
            try:
                async with asyncio.timeout(self._pause):
                    await self._nudged.wait()
            except TimeoutError:
                pass

    def _tell(self, ids: Collection[str], versions: dict[str, int]) -> None:
        for id in ids:
            for version, future in self._waiting.get(id, ()):
                if versions.get(id) != version and not future.done():
                    future.set_result(None)

    def _fail(self, ids: Collection[str], error: Exception) -> None:
        for id in ids:
            for _, future in self._waiting.get(id, ()):
                if not future.done():
                    future.set_exception(error)
