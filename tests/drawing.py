"""A hand that draws all that is asked of a test's site, as a worker would: taken, told of with previews, finished."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from web import Hand, Site


@contextmanager
def drawing(made: Site, steps: int = 0) -> Iterator[None]:
    """Draw all jobs of a site meanwhile; `steps` of each are told, so slowly that whoever watches sees them."""
    stop = threading.Event()

    def draw() -> None:
        hand = Hand(made.store, made.shelf, "drawing")
        while not stop.wait(0.01):
            for job in made.store.claim(hand.name, list(made.menu.models), 1, 60):
                for step in range(1, steps + 1):
                    hand.tell(job, step * 40 // (steps + 1), preview=True)
                    stop.wait(0.15)
                hand.finish(job)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
