"""The proxy for fal's JavaScript client: what it wants from fal's hosts is answered here, and nothing is fetched."""

from urllib.parse import SplitResult, unquote, urlsplit

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sotediffusion.serve.walls.problems import Problem, Trouble

RUN, QUEUE = "/fal/run", "/fal/queue"
PATH = "/api/fal/proxy"
TARGET = "x-fal-target-url"
HOSTS = {"fal.run": RUN, "queue.fal.run": QUEUE}


def local_path(target: str | None) -> tuple[str, str]:
    """The path of ours and the query for an address of fal's. Problem 400 without one, 412 for any other address."""
    if target is None:
        raise Problem(Trouble(400, "bad_request", f"the header {TARGET} is missing"))
    try:
        parts = urlsplit(target)
        plain = parts.scheme == "https" and parts.netloc in HOSTS
    except ValueError:
        parts, plain = SplitResult("", "", "", "", ""), False
    if not plain or not parts.path.startswith("/fal-ai/") or ".." in unquote(parts.path):
        raise Problem(Trouble(412, "bad_request", f"{TARGET} must be an address at {' or '.join(HOSTS)}"))
    return HOSTS[parts.netloc] + parts.path, parts.query


class Inside(Response):
    """A request answered by another route of the same app, with the same method, headers and body."""

    def __init__(self, app: ASGIApp, path: str, query: str):
        super().__init__()
        self._app, self._path, self._query = app, path, query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Credentials are checked there, as for any request."""
        there = {name: scope[name] for name in scope if name not in ("route", "endpoint", "path_params")}
        there |= {"path": unquote(self._path), "raw_path": self._path.encode(), "query_string": self._query.encode()}
        await self._app(there, receive, send)


def add_proxy(routes: APIRouter) -> None:
    """The route; it lets every caller in, because the one it leads to does not."""

    @routes.api_route(PATH, methods=["GET", "POST", "PUT"], include_in_schema=False)
    async def proxy(http: Http) -> Response:
        path, query = local_path(http.headers.get(TARGET))
        return Inside(http.app.router, path, query)
