"""Where finished work is written down: pictures and previews onto the shelf, results into the store, beside the drawing.

One thread does it in order, so that an engine need not wait while a picture is encoded. What the store cannot take now is tried
again until it can, or until the job is somebody else's.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import chain, repeat
from typing import Any

from sotediffusion.pictures.files import encode_picture
from sotediffusion.serve.engine.pulse import Held
from sotediffusion.serve.storage.jobs import Failure, StoreDown, StoredPicture
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import Picture, UserError

PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # s before trying again; the last one over and over


class Desk:
    """Writes for one worker; `ended` is told of each job whose end is written."""

    def __init__(self, store: JobStore, shelf: Shelf, ended: Callable[[Held], None]):
        self.store, self.shelf, self.ended = store, shelf, ended
        self.leaving = threading.Event()  # from then on nothing is tried again
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="desk")
        self._pending: list[Future[None]] = []

    @property
    def pending(self) -> int:
        """How much is not written yet. Raises what went wrong in writing, where that was a fault of ours."""
        for task in [task for task in self._pending if task.done()]:
            self._pending.remove(task)
            task.result()
        return len(self._pending)

    def shelve(self, held: Held, picture: Picture) -> None:
        """Put a finished picture on the shelf; a full disk fails its job."""
        self._do(held, lambda: held.pictures.append(self._stored(held, picture)))

    def show(self, held: Held, picture: Picture) -> None:
        """Put a preview on the shelf in place of the one before."""

        def show() -> None:
            file = BytesIO()
            picture.image.save(file, "jpeg")
            held.preview = self.shelf.put_preview(held.id, held.fence, file.getvalue())

        self._do(held, show)

    def succeed(self, held: Held) -> None:
        """End a job with the pictures that were put on the shelf for it."""
        self._submit(lambda: self._end(held, lambda: self.store.succeed(held.id, held.fence, held.pictures)))

    def fail(self, held: Held, error: UserError) -> None:
        """End a job without pictures."""
        self._do(held, lambda: self._fail(held, error))

    def clear(self, held: Held) -> None:
        """Remove what was put on the shelf for a job that is not ours any more."""
        self._submit(lambda: self._clear(held))

    def close(self) -> None:
        """Write what is pending, each once at most, and end the thread."""
        self.leaving.set()
        self._writer.shutdown(wait=True)

    def _do(self, held: Held, task: Callable[[], Any]) -> None:
        """A task for a job that is still ours when its turn comes; a full disk fails the job."""

        def unless_over() -> None:
            try:
                if not held.over:
                    task()
            except UserError as error:
                self._fail(held, error)

        self._submit(unless_over)

    def _submit(self, task: Callable[[], None]) -> None:
        self._pending.append(self._writer.submit(task))

    def _stored(self, held: Held, picture: Picture) -> StoredPicture:
        content = encode_picture(picture)
        width, height = picture.image.size
        name = self.shelf.put(held.id, content)
        return StoredPicture(name, width, height, picture.seed, bytes=len(content), info=picture.settings)

    def _fail(self, held: Held, error: UserError) -> None:
        self._end(held, lambda: self.store.fail(held.id, held.fence, Failure(error.field, str(error))))
        self._clear(held)

    def _clear(self, held: Held) -> None:
        self.shelf.remove([picture.name for picture in held.pictures])

    def _end(self, held: Held, call: Callable[[], bool]) -> None:
        """Write a job's end as soon as the store takes it; what lies on the shelf for one that is not ours any more goes."""
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                if not call():
                    self._clear(held)
                return self.ended(held)
            except (StoreDown, UserError):
                if held.over or self.leaving.wait(pause):
                    return
