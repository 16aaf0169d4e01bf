"""What everybody finds at the front: the page, pictures by signed addresses, health, numbers, licences, the API described."""

from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field
from starlette.staticfiles import StaticFiles

from sotediffusion.serve.gateway import FORMATS, NoSuch
from sotediffusion.serve.house import House
from sotediffusion.serve.metrics import KIND
from sotediffusion.serve.storage.jobs import StoredPicture
from sotediffusion.serve.walls.callers import Caller, needs

WEB = Path(__file__).parent / "web"
_SEEN: dict[int | str, dict[str, Any]] = {200: {"description": "The picture", "content": {"image/*": {}}}}
_KEPT = "private, max-age=86400, immutable"
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}

Operator = Annotated[Caller, Depends(needs("admin"))]
Anybody = Annotated[Caller, Depends(needs(None))]  # who is let in at all


class PictureAsked(BaseModel):
    """Which picture, and how."""

    expires: int = Field(0, ge=0, le=10**12)
    signature: str = Field("", max_length=100)
    format: Literal["png", "jpeg", "webp"] = "png"
    width: int | None = Field(None, ge=1, le=10**5, description="a small copy in WebP, at least so many px wide")
    download: bool = False


def add_front(app: FastAPI, house: House) -> None:
    """Put it all into the app, the page last: it takes every address that nothing else has."""
    routes = APIRouter(tags=["server"])
    for add in (_pictures, _health, _licences, _docs):
        add(routes, house)
    app.include_router(routes)
    if (WEB / "index.html").is_file():
        app.mount("/", Page(directory=WEB, html=True), name="page")


class Page(StaticFiles):
    """The page's files, which browsers keep but ask about: after an update nobody sees half of the old one."""

    def file_response(self, *arguments: Any, **more: Any) -> Response:
        response = super().file_response(*arguments, **more)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _pictures(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.get("/pictures/{name:path}", response_class=Response, responses=_SEEN)
    async def picture(name: str, asked: Annotated[PictureAsked, Query()]) -> Response:
        """A picture or preview. Its address comes with its job; it is signed and expires."""
        if not gateway.may_see(name, asked.expires, asked.signature):
            raise NoSuch("picture, or its address has expired")
        stem, _, suffix = name.rpartition("/")[2].rpartition(".")
        if stem.endswith("-preview"):
            return await _preview(house, name, _TYPES[suffix])
        if asked.width is not None:
            content, kind = await gateway.thumbnail(await _stored(house, name), asked.width)
        elif asked.format == "png":
            content, kind = await gateway.file(name), _TYPES[suffix]
        else:
            stored = await _stored(house, name)
            content, kind = await gateway.picture(stored, asked.format), FORMATS[asked.format]
        headers = {"Cache-Control": _KEPT}
        if asked.download:
            ending = kind.removeprefix("image/")
            headers["Content-Disposition"] = f'attachment; filename="sote-{stem[:12]}.{ending}"'
        return Response(content, media_type=kind, headers=headers)


async def _preview(house: House, name: str, kind: str) -> Response:
    """The latest preview, or nothing where its job has ended since the address was told."""
    fresh = {"Cache-Control": "no-store"}
    try:
        return Response(await house.gateway.file(name), media_type=kind, headers=fresh)
    except NoSuch:
        return Response(status_code=204, headers=fresh)


async def _stored(house: House, name: str) -> StoredPicture:
    """What is known of a picture by its name. NoSuch."""
    id = name.split("/")[1] if name.count("/") == 2 else ""
    job = await house.gateway.do(house.gateway.store.get, id)
    found = next((picture for picture in (job.pictures if job else None) or () if picture.name == name), None)
    if found is None:
        raise NoSuch("picture")
    return found


def _health(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> Response:
        """Whether jobs are taken in and drawn: the database answers and a worker of its own has its model open. 503 where not."""
        await gateway.do(gateway.store.depth)
        state = "closing" if gateway.draining.is_set() else "ready" if house.ready() else "no worker"
        said = {"status": state} | ({"trouble": trouble} if (trouble := house.trouble()) and not house.public else {})
        return JSONResponse(said, 200 if state == "ready" else 503)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(caller: Operator) -> Response:
        """Numbers for Prometheus. Needs the scope admin."""
        return Response(await gateway.do(house.metrics.render), headers={"Content-Type": KIND})


def _licences(routes: APIRouter, house: House) -> None:
    duties = house.duties

    @routes.get("/license", response_class=PlainTextResponse)
    async def license() -> str:
        """The licences of the models and of the program."""
        return await house.gateway.do(duties.texts)

    @routes.get("/source", response_class=PlainTextResponse)
    async def source() -> str:
        """Where the models and the program can be had."""
        return duties.sources()


def _docs(routes: APIRouter, house: House) -> None:
    @routes.get("/openapi.json", include_in_schema=False)
    async def described(http: Request, caller: Anybody) -> dict[str, Any]:
        schema: dict[str, Any] = http.app.openapi()
        return schema

    @routes.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs(http: Request, caller: Anybody) -> str:
        return _page_of(http.app.openapi())


def _page_of(schema: dict[str, Any]) -> str:
    """The API's description as a plain page: each address with its methods, what it does and what it takes."""
    entries = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            text = escape(about.get("description", about.get("summary", "")))
            taken = ", ".join(escape(parameter["name"]) for parameter in about.get("parameters", []))
            entries.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{text}</p>" + (f"<p>Takes: {taken}</p>" if taken else ""))
    title = escape(schema["info"]["title"])
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} API</title>'
    return f'{head}<h1>{title} API</h1><p>In full: <a href="/openapi.json">/openapi.json</a></p>{"".join(entries)}</html>'
