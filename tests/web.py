"""A running app for tests: over a store and a shelf in a folder, with no worker but the words that one would say."""

import copy
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from PIL import Image

from sotediffusion.pictures.files import encode_picture
from sotediffusion.serve.app import create_app
from sotediffusion.serve.doors.words import Words
from sotediffusion.serve.gateway import Gateway
from sotediffusion.serve.house import House
from sotediffusion.serve.menu import Menu, Offer
from sotediffusion.serve.metrics import Metrics
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, Progress, StoredPicture
from sotediffusion.serve.storage.keys import KeyStore
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.serve.walls.admission import Bounds
from sotediffusion.serve.walls.callers import Doorkeeper
from sotediffusion.serve.walls.duties import LINKS, Duties
from sotediffusion.serve.walls.security import Walls
from sotediffusion.types import Picture

MENU = Menu(
    {
        "tiny": Offer("tiny", "/nowhere", "apache-2.0", width=64, height=64, compression=32.0, init=True, previews=True),
        "other": Offer("other", "/nowhere", "faipl-1.0-sd", "stabilityai/stable-cascade"),
    },
    ("ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "lcm"),
    ("default", "sgm_uniform", "karras", "exponential"),
)
ORDER = {"prompt": "1girl, cat ears", "width": 64, "height": 64, "seed": 5}
PAGE = {"prefix": "newest,", "negative": "oldest,", "chips": {}, "sizes": [[64, 64]]}


def png(width: int = 64, height: int = 64, **more: Any) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 120, 40)).save(file, "png", **more)
    return file.getvalue()


@dataclass
class Hand:
    """A worker's part, played on the store: it draws one flat colour."""

    store: JobStore
    shelf: Shelf
    name: str = "hand"

    def take(self) -> Job:
        (job,) = self.store.claim(self.name, list(MENU.models), 1, 60)
        return job

    def tell(self, job: Job, step: int, preview: bool = False) -> None:
        shown = self.shelf.put_preview(job.id, job.fence, _jpeg()) if preview else None
        progress = Progress("stage c", step, 40, 1.5, shown)
        self.store.heartbeat(self.name, {job.id: (job.fence, progress)}, 60)

    def finish(self, job: Job) -> Job:
        request = job.request
        stored = []
        for seed in range(request["seed"], request["seed"] + request["count"]):
            info = {"prompt": request["prompt"], "seed": seed, "model": job.model, "ai_generated": True}
            image = Image.new("RGB", (request["width"], request["height"]), (seed % 256, 80, 160))
            content = encode_picture(Picture(image, seed, info))
            name = self.shelf.put(job.id, content)
            stored.append(StoredPicture(name, *image.size, seed, bytes=len(content), info=info))
        assert self.store.succeed(job.id, job.fence, stored)
        ended = self.store.get(job.id)
        assert ended is not None
        return ended

    def draw(self) -> Job:
        return self.finish(self.take())


def _jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 16), "green").save(file, "jpeg")
    return file.getvalue()


@dataclass
class Site:
    """The parts of a running app, and a client that calls it."""

    folder: Path
    asks: bool = False
    limits: Limits = Limits()
    bounds: Bounds = Bounds()
    walls: Walls = Walls(links=LINKS)
    menu: Menu = MENU
    more: dict[str, Any] = field(default_factory=dict)  # of the gateway

    def __post_init__(self) -> None:
        self.database = Database(self.folder / "jobs.sqlite")
        self.store, self.shelf = JobStore(self.database, self.limits), Shelf(self.folder / "pictures", reserve=0)
        self.keys, words = KeyStore(self.database), Words(self.folder)
        self.gateway = Gateway(self.store, self.shelf, self.menu, self.bounds, words=words, **self.more)
        metrics = Metrics(self.store, lambda: True)
        presets = {"card": {}, "v2": {"steps": 28, "guidance": 6.0}}
        doorkeeper = Doorkeeper(self.keys, self.asks)
        self.house = House(self.gateway, doorkeeper, Duties(self.menu), words, metrics, self.walls, page=PAGE, presets=presets)
        self.app = create_app(self.house)
        self.hand = Hand(self.store, self.shelf)
        self.base, self.client = "", httpx2.Client()

    def key(self, name: str = "ann", scopes: tuple[str, ...] = ("generate",)) -> dict[str, str]:
        """The header of a new key."""
        return {"Authorization": f"Bearer {self.keys.add(name, scopes)[1]}"}

    def calling(self, headers: dict[str, str]) -> "Site":
        """The same app, called with these headers."""
        other = copy.copy(self)
        other.client = httpx2.Client(base_url=self.base, timeout=60, headers=headers)
        return other

    def submit(self, **more: Any) -> dict[str, Any]:
        reply = self.client.post("/api/v1/jobs", json=ORDER | more)
        assert reply.status_code == 202, reply.text
        said: dict[str, Any] = reply.json()
        return said

    def events(self, path: str, most: int, act: Callable[[int], None] = lambda n: None) -> list[tuple[str, Any]]:
        """The first events of a stream; `act` is called after each."""
        found: list[tuple[str, Any]] = []
        with self.client.stream("GET", path, timeout=30) as reply:
            assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    found.append((kind, json.loads(line[6:])))
                    act(len(found))
                    if len(found) == most:
                        break
        return found


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: many commits, and no power cut among them."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def site(folder: Path, **more: Any) -> Iterator[Site]:
    """An app on a free port of this machine, in a thread."""
    made = Site(folder, **more)
    config = uvicorn.Config(made.app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        made.base = f"http://127.0.0.1:{bound.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        made.client = httpx2.Client(base_url=made.base, timeout=60)
        try:
            yield made
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
            made.client.close()
            made.gateway.close()
            made.database.close()
