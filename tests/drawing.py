"""A hand that draws all that is asked of a test's site, as a worker would: taken, told of with previews, finished."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from web import Hand, Site


@contextmanager
def drawing(made: Site, steps: int = 0, seen: threading.Event | None = None) -> Iterator[None]:
    """Draw all jobs of a site meanwhile; `steps` of each are told slowly, and none is finished before `seen` is set."""
    stop = threading.Event()

    def draw() -> None:
        hand = Hand(made.store, made.shelf, "drawing")
        while not stop.wait(0.01):
            for job in made.store.claim(hand.name, list(made.menu.models), 1, 60):
                for step in range(1, steps + 1):
                    hand.tell(job, step * 40 // (steps + 1), preview=True)
                    stop.wait(0.15)
                while seen is not None and not stop.is_set() and not seen.wait(0.05):
                    pass
                hand.finish(job)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
