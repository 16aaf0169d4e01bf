"""The walls around the app: which names and pages may reach it, how much they may send, and what browsers must forbid."""

import asyncio
import ipaddress
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sotediffusion.serve.walls.problems import Problem, Trouble

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SAFE = ("GET", "HEAD", "OPTIONS")
log = getLogger(__name__)
_YEAR = 365 * 24 * 3600

Respond = Callable[[str, Trouble], Response]


@dataclass(frozen=True)
class Walls:
    """What the operator lets in."""

    names: tuple[str, ...] = ()  # under which it is reached, besides localhost and bare addresses
    origins: tuple[str, ...] = ()  # of other pages that may use it, `https://host`
    body: int = 24 * 2**20  # bytes of a request
    patience_s: float = 30.0  # without a byte of a request's body, after which it is given up
    links: str = ""  # a Link header for every reply


class Guard:
    """Stands before an app and lets pass what the walls allow.

    Host names must be known, which stops pages that turn their own name to this machine's address (DNS rebinding); a bare address
    cannot be turned. Pages of other origins may neither change anything nor read, and bodies that forms of other pages can send
    are not taken.
    """

    def __init__(self, app: ASGIApp, walls: Walls, respond: Respond):
        self.app, self.walls, self.respond = app, walls, respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        sending = _Sending(self.walls, scope["scheme"] == "https", send)
        trouble = self._stranger(scope["method"], Headers(scope=scope))
        if trouble is not None:
            return await self.respond(scope["path"], trouble)(scope, receive, sending)
        try:
            await self.app(scope, self._measured(receive), sending)
        except Exception:
            if not sending.done:
                raise
            log.exception("a fault of ours in %s", getattr(scope.get("route"), "path", "no route"))  # the client was told of one

    def _stranger(self, method: str, headers: Headers) -> Trouble | None:
        """Why a request is not let in."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return Trouble(421, "host", "this server does not go by that name; the operator can add it with --name")
        if self._is_foreign(method, headers, hosts[0]):
            return Trouble(403, "origin", "pages of other origins may not use this server; the operator can allow one by --cors")
        return None if method in SAFE else self._bad_body(headers)

    def _is_foreign(self, method: str, headers: Headers, host: str) -> bool:
        """Whether another origin's page asks, other than by a link that somebody follows."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if method in SAFE and headers.get("sec-fetch-mode") == "navigate":
            return False
        if origin is not None:
            return _netloc(origin) != host.lower() and origin not in self.walls.origins
        return site in ("cross-site", "same-site") and not (method in SAFE and self.walls.origins)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name in self.walls.names or _is_address(name)

    def _bad_body(self, headers: Headers) -> Trouble | None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            return Trouble(400, "bad_length", "Content-Length is no number")
        if int(length) > self.walls.body:
            return self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        taken = kind == "application/json" or kind.endswith("+json") or kind.startswith("image/")
        if (int(length) or "transfer-encoding" in headers) and not taken:
            return Trouble(415, "content_type", "the body's kind is not taken; send JSON with Content-Type: application/json")
        return None

    def _too_large(self) -> Trouble:
        return Trouble(413, "too_large", f"the body is larger than {self.walls.body} bytes; send a smaller one")

    def _measured(self, receive: Receive) -> Receive:
        """Counts what comes in, and gives up on a client that stops sending in the middle."""
        taken, more = 0, True

        async def counting() -> Message:
            nonlocal taken, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout(self.walls.patience_s):
                    message = await receive()
            except TimeoutError:
                raise Problem(Trouble(408, "timeout", "the body did not come in time; send it again")) from None
            taken += len(message.get("body", b""))
            more = message.get("more_body", False)
            if taken > self.walls.body:
                raise Problem(self._too_large())
            return message

        return counting


@dataclass
class _Sending:
    """Sends with our headers, and knows when a reply is complete."""

    walls: Walls
    secure: bool
    send: Send
    done: bool = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._add(MutableHeaders(scope=message))
        await self.send(message)
        self.done = message["type"] == "http.response.body" and not message.get("more_body", False)

    def _add(self, headers: MutableHeaders) -> None:
        shared = "cross-origin" if self.walls.origins else "same-origin"
        for name, value in {**HEADERS, "Cross-Origin-Resource-Policy": shared, "Cache-Control": "no-store"}.items():
            headers.setdefault(name, value)
        if self.secure:
            headers["Strict-Transport-Security"] = f"max-age={_YEAR}"
        if self.walls.links:
            headers["Link"] = self.walls.links


def _netloc(origin: str) -> str:
    """The host and port of an origin, "" of one that is none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
