"""Who calls: by a key in a header, by the page's cookie, or anybody where no keys are asked for."""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from sotediffusion.serve.storage.allowances import Allowance
from sotediffusion.serve.storage.jobs import LOCAL
from sotediffusion.serve.storage.keys import SCOPES, KeyStore
from sotediffusion.serve.walls.problems import Problem, Trouble
from sotediffusion.serve.walls.signing import Seal

COOKIE = "sote_session"
SESSION_S = 30 * 24 * 3600.0
LOOK_S = 1.0  # between two looks for a first key


@dataclass(frozen=True)
class Caller:
    """Whose jobs are meant, and what may be done."""

    owner: str
    scopes: tuple[str, ...] = SCOPES
    allowance: Allowance = Allowance()


@dataclass
class Doorkeeper:
    """Knows callers. With `asks` False everybody is the one local owner, until the first key is made."""

    keys: KeyStore
    asks: bool
    looked: float = float("-inf")  # when that was looked for

    def __post_init__(self) -> None:
        self._seal = Seal(self.keys.database, "cookies")

    @property
    def open(self) -> bool:
        """Whether there was no key a moment ago, so that nobody need be asked for one."""
        return not self.asks and time.monotonic() - self.looked < LOOK_S

    def caller(self, authorization: str | None, cookie: str | None) -> Caller | None:
        """Who a request is from; None for nobody known. Blocks."""
        self._look()
        if not self.asks:
            return Caller(LOCAL)
        if authorization is not None:
            key = self.keys.check(key_in(authorization))
        else:
            owner = None if cookie is None else self._owner_of(cookie)
            key = None if owner is None else self.keys.valid(owner)
        return None if key is None else Caller(key.id, key.scopes, key.allowance)

    def session(self, text: str) -> str | None:
        """The value of a cookie that stands for a key, which must be right. Blocks."""
        key = self.keys.check(text)
        if key is None:
            return None
        expires, signature = self._seal.sign(key.id, SESSION_S)
        return f"{key.id}.{expires}.{signature}"

    def _look(self) -> None:
        """From the first key on, one is asked for; so it stays when the last is revoked."""
        if not self.asks and not self.open:
            self.looked = time.monotonic()
            self.asks = bool(self.keys.all())

    def _owner_of(self, cookie: str) -> str | None:
        id, _, rest = cookie.partition(".")
        expires, _, signature = rest.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 20):
            return None
        return id if self._seal.holds(id, int(expires), signature) else None


def key_in(authorization: str) -> str:
    """The key in an Authorization header: `Bearer id:secret`, `Key id:secret`, or Basic with id and secret as its halves."""
    scheme, _, text = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return text.strip()
    try:
        return base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


async def who(http: HTTPConnection) -> Caller | None:
    """The caller of a request, or None."""
    doorkeeper: Doorkeeper = http.app.state.doorkeeper
    if doorkeeper.open:
        return Caller(LOCAL)
    header, cookie = http.headers.get("authorization"), http.cookies.get(COOKIE)
    caller: Caller | None = await http.app.state.gateway.do(doorkeeper.caller, header, cookie)
    return caller


def needs(scope: str | None) -> Callable[[HTTPConnection], Awaitable[Caller]]:
    """A dependency of routes: the caller, who must have this scope; None: any key will do. Problem 401 or 403."""

    async def dependency(http: HTTPConnection) -> Caller:
        caller = await who(http)
        if caller is None:
            message = "a valid API key is needed; send it as `Authorization: Bearer ID:SECRET`, or enter it on the page"
            raise Problem(Trouble(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"}))
        if scope is not None and scope not in caller.scopes:
            raise Problem(Trouble(403, "forbidden", f"this key lacks the scope {scope}; use one that has it"))
        return caller

    return dependency
