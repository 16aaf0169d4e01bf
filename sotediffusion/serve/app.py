"""The web app: the doors of all dialects, one way to tell errors, and the walls around it."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from sotediffusion import __version__
from sotediffusion.serve.described import describe
from sotediffusion.serve.doors import a1111, api, fal, openai
from sotediffusion.serve.front import add_front
from sotediffusion.serve.house import House
from sotediffusion.serve.walls import problems
from sotediffusion.serve.walls.problems import Trouble, trouble_of
from sotediffusion.serve.walls.security import Guard

DIALECTS: tuple[ModuleType, ...] = (fal, openai, a1111)  # each has PREFIXES, ERROR, router(gateway), problem(trouble)
SHOWN = ("Retry-After", "X-Fal-Request-Id", "X-Sote-Safety-Checker")


def create_app(house: House) -> ASGIApp:
    """The app within its walls."""
    app = inner(house)
    measured: ASGIApp = house.metrics.around(app)
    if house.walls.origins:
        origins, all = house.walls.origins, ("*",)
        measured = CORSMiddleware(measured, origins, allow_methods=all, allow_headers=all, expose_headers=SHOWN)
    return Guard(measured, house.walls, lambda path, trouble: _dialect_of(path)(trouble))


def inner(house: House) -> FastAPI:
    """The app without its walls."""
    app = FastAPI(title="SoteDiffusion", version=__version__, openapi_url=None)
    app.state.gateway, app.state.doorkeeper = house.gateway, house.doorkeeper
    for module in DIALECTS:
        app.include_router(module.router(house.gateway))
    app.include_router(api.router(house))
    add_front(app, house)
    _tell_errors(app)
    app.openapi = lambda: _openapi(app, house)  # type: ignore[method-assign]
    return app


def _dialect_of(path: str) -> Callable[[Trouble], Response]:
    """How a trouble is told to who asked for this path."""
    module = _module_of(path)
    return problems.own if module is None else module.problem


def _module_of(path: str) -> ModuleType | None:
    """The dialect that this path belongs to; None for the own API."""
    return next((module for module in DIALECTS if path.startswith(module.PREFIXES)), None)


def _tell_errors(app: FastAPI) -> None:
    async def tell(http: Request, error: Exception) -> Response:
        trouble = _misread(error) if isinstance(error, RequestValidationError) else trouble_of(error)
        return _dialect_of(http.url.path)(trouble)

    for kind in problems.KNOWN:
        app.add_exception_handler(kind, tell)
    app.add_exception_handler(RequestValidationError, tell)
    app.add_exception_handler(Exception, tell)


def _misread(error: RequestValidationError) -> Trouble:
    """A value in an address that is of the wrong kind."""
    first = error.errors()[0]
    name = problems.readable(str(first["loc"][-1]))
    return Trouble(422, "invalid", f"{problems.readable(str(first['msg']))}; see /docs for what is taken", name, cause=error)


def _openapi(app: FastAPI, house: House) -> dict[str, Any]:
    """The description of the API, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = describe(app, house.duties.named, lambda path: (_module_of(path) or problems).ERROR)
    return app.openapi_schema
