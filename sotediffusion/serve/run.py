"""A whole server from its settings: opened, bound, served until it is asked to end, and drained."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from logging import getLogger
from pathlib import Path
from typing import Any

import uvicorn

from sotediffusion.config import build
from sotediffusion.pictures.decode import open_picture
from sotediffusion.safety.rating import Rater
from sotediffusion.serve import menu
from sotediffusion.serve.app import create_app
from sotediffusion.serve.cluster.replicas import Replicas
from sotediffusion.serve.cluster.scaling import Scaling
from sotediffusion.serve.doors.fal import webhook_body
from sotediffusion.serve.doors.words import Words
from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.engine.supervisor import Supervisor
from sotediffusion.serve.gateway import Gateway
from sotediffusion.serve.house import House
from sotediffusion.serve.keeper import Keeper
from sotediffusion.serve.metrics import Metrics
from sotediffusion.serve.storage.database import Database, masked
from sotediffusion.serve.storage.keys import KeyStore
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore, Limits
from sotediffusion.serve.walls import duties
from sotediffusion.serve.walls.admission import Bounds
from sotediffusion.serve.walls.callers import Doorkeeper
from sotediffusion.serve.walls.duties import Duties
from sotediffusion.serve.walls.security import Walls
from sotediffusion.serve.webhooks.delivery import Sender, Signer
from sotediffusion.serve.webhooks.outbox import Outbox
from sotediffusion.types import UserError

LEAVE_S = 5  # s that open connections are given at the end
LOOK_S = 0.2  # s between two looks whether the worker has ended
log = getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """A server as its operator wants it. Passwords in `jobs` and `shelf` are never shown."""

    data: Path  # words for the page, LoRA files, certificates
    jobs: str = field(repr=False)  # the database: a path or a PostgreSQL URL
    shelf: str = field(repr=False)  # where pictures lie: a folder or a URL that fsspec knows
    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()  # host names under which it is reached
    origins: tuple[str, ...] = ()  # of other pages that may use it
    behind_proxy: bool = False
    tls: tuple[Path, Path] | None = None  # certificate and key
    licence_acknowledged: bool = False
    source: str = ""
    rating: Path | None = None  # a tagger's folder, to rate pictures by
    webhooks: bool = False
    webhook_hosts: tuple[str, ...] = ()  # receivers that may be private or without TLS
    worker_here: bool = True  # False: others draw
    ray: str = ""  # the address of a Ray cluster, to draw there
    scaling: Scaling = Scaling()  # of the replicas there
    retention_s: float = 7 * 24 * 3600.0
    limits: Limits = Limits()
    bounds: Bounds = Bounds()
    body: int = Walls().body
    worker: dict[str, Any] = field(default_factory=dict)  # fields of WorkerSettings, beside the places
    page: dict[str, Any] = field(default_factory=dict)  # texts and sizes to begin with
    presets: dict[str, Any] = field(default_factory=dict)  # settings of a request by name

    @property
    def public(self) -> bool:
        """Whether others than this machine's users can reach it."""
        return self.behind_proxy or not is_loopback(self.host)


@dataclass
class Server:
    """The parts of one server, ready to run."""

    settings: Settings
    house: House
    keeper: Keeper
    notes: list[str]  # what the operator should know


def open_server(settings: Settings) -> Server:
    """Open stores and look at the models. UserError: something is missing, unsafe or not allowed."""
    database, shelf = Database(settings.jobs), Shelf(settings.shelf)
    keys = KeyStore(database)
    asks = settings.public or bool(keys.all())
    _check_bind(settings, keys)
    if settings.ray:
        _check_cluster(settings, database)
    offered = menu.ask(settings.models)
    offered = replace(offered, lora_folder=str(settings.data / "loras"))
    owed = Duties(offered, settings.source)
    notes = owed.check_public(settings.licence_acknowledged) if settings.public else []
    store, words = JobStore(database, settings.limits), Words(settings.data)
    rate = None if settings.rating is None else _rate(Rater(settings.rating))
    workers = _workers(settings, offered, store)
    receivers = settings.webhook_hosts if settings.webhooks else None
    gateway = Gateway(store, shelf, offered, settings.bounds, rate, workers.wake if workers else lambda: None, words, receivers)
    ready = (lambda: workers.ready) if workers else lambda: True
    metrics = Metrics(store, lambda: workers is not None and workers.ready)
    if workers:
        workers.on_ended = lambda id: _note(gateway, metrics, id)
    sender = _sender(settings, gateway) if settings.webhooks else None
    names = tuple(name.lower() for name in (*settings.names, settings.host))
    walls = Walls(names, settings.origins, settings.body, links=duties.LINKS)
    house = House(gateway, Doorkeeper(keys, asks), owed, words, metrics, walls, ready,
                  lambda: workers.trouble if workers else "", settings.public, settings.retention_s, settings.page,
                  settings.presets)  # fmt: skip
    return Server(settings, house, Keeper(store, shelf, settings.retention_s, workers, sender), notes)


def is_loopback(host: str) -> bool:
    """Whether a bind address is reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_bind(settings: Settings, keys: KeyStore) -> None:
    if not settings.public:
        return
    if not any(key.revoked is None for key in keys.all()):
        raise UserError("host", "others can reach this server and there is no API key; make one by `sote serve keys add NAME`")
    if settings.tls is None and not settings.behind_proxy:
        raise UserError("host", f"others can reach {settings.host} and keys would cross the network in the clear; give --tls-cert"
                                " and --tls-key, or --tls-self-signed, or --behind-proxy where a proxy speaks TLS")  # fmt: skip


def _check_cluster(settings: Settings, database: Database) -> None:
    if not settings.worker_here:
        raise UserError("ray", "--ray places workers and --no-worker wants none; give one of them")
    if not database.shared:
        raise UserError("ray", f"{masked(settings.jobs)} is SQLite, which other machines cannot open; set SOTE_JOBS to "
                        "postgresql://user@host/name")  # fmt: skip


def _workers(settings: Settings, offered: menu.Menu, store: JobStore) -> Supervisor | Replicas | None:
    """Who draws: a process of this machine, replicas on a cluster, or others."""
    if settings.ray:
        return Replicas(settings.ray, partial(_worker, settings, offered), store, settings.scaling)
    return Supervisor(_worker(settings, offered, offered.device), store) if settings.worker_here else None


def _worker(settings: Settings, offered: menu.Menu, device: str) -> WorkerSettings:
    places = {name: offer.place for name, offer in offered.models.items()}
    device = settings.worker.get("device", device)
    usual = {"device": device, "dtype": "float32" if device == "cpu" else "bfloat16"}
    fixed = {"jobs": settings.jobs, "shelf": settings.shelf, "models": places, "loras": offered.lora_folder}
    return build(WorkerSettings, {**usual, **settings.worker, **fixed}, "worker")


def _rate(rater: Rater) -> Callable[[bytes], int]:
    return lambda content: rater(open_picture(content))


def _sender(settings: Settings, gateway: Gateway) -> Sender:
    database = gateway.store.database
    return Sender(Outbox(database), Signer(database), lambda job: webhook_body(gateway, job), settings.webhook_hosts)


def _note(gateway: Gateway, metrics: Metrics, id: str) -> None:
    """A worker has ended a job: whoever waits for it hears of it now."""
    gateway.watch.nudge()
    job = gateway.store.get(id)
    if job is not None:
        metrics.note(job)


class _Web(uvicorn.Server):
    """uvicorn without signal handlers of its own."""

    def capture_signals(self) -> Any:
        return nullcontext()


def run(server: Server, started: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT: nothing more is taken in, the worker finishes, and the doors close. A second one hurries.

    `started` is told the address as soon as it can be called. UserError: it cannot be bound.
    """
    with _bound(server.settings) as bound:
        asyncio.run(_serve(server, bound, started))


@contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(found[4], family=found[0], backlog=512)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise UserError("port", f"{place} cannot be bound ({error.strerror or error}); take another --port or --host") from None
    with bound:
        yield bound


async def _serve(server: Server, bound: socket.socket, started: Callable[[str], None]) -> None:
    web = _Web(_config(server))
    loop, gateway = asyncio.get_running_loop(), server.house.gateway
    asked = 0

    def end() -> None:
        nonlocal asked
        asked += 1
        web.force_exit = asked > 1
        if asked > 1:
            server.keeper.stop()
        gateway.draining.set()

    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, end)
    server.keeper.start()
    serving = asyncio.create_task(web.serve([bound]))
    while not web.started and not serving.done():
        await asyncio.sleep(0.01)
    if web.started:
        started(url_of(server.settings, bound.getsockname()[1]))
    draining = asyncio.create_task(_drain(server, web))
    await serving
    draining.cancel()
    await asyncio.to_thread(server.keeper.stop)
    gateway.close()


async def _drain(server: Server, web: uvicorn.Server) -> None:
    """When it is time: let the worker come to its end, then the doors close."""
    await server.house.gateway.draining.wait()
    try:
        server.keeper.drain()
        while not server.keeper.drained and not web.force_exit:
            await asyncio.sleep(LOOK_S)
    finally:  # a server that was asked to end does, whatever is wrong with its worker
        server.house.gateway.closing.set()
        web.should_exit = True


def _config(server: Server) -> uvicorn.Config:
    settings = server.settings
    certificate, key = settings.tls or (None, None)
    return uvicorn.Config(
        create_app(server.house), log_config=None, access_log=False, server_header=False, date_header=False, lifespan="off",
        proxy_headers=settings.behind_proxy, forwarded_allow_ips="127.0.0.1,::1", timeout_graceful_shutdown=LEAVE_S,
        timeout_keep_alive=65, ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip


def url_of(settings: Settings, port: int) -> str:
    """The address that somebody on this machine can open."""
    host = settings.host if is_loopback(settings.host) else settings.names[0] if settings.names else settings.host
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if settings.tls else 'http'}://{host}:{port}"
