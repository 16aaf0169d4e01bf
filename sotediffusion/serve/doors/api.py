"""The product's own JSON API, which the page uses too: jobs, their events, and what helps in writing prompts."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from sotediffusion.pictures.recall import recall
from sotediffusion.serve.described import EVENTS, body_of
from sotediffusion.serve.doors.asked import order_schema, read_order
from sotediffusion.serve.doors.views import about_view, job_view
from sotediffusion.serve.events import event_stream, sse
from sotediffusion.serve.gateway import Gateway, NoSuch
from sotediffusion.serve.house import House
from sotediffusion.serve.news import News
from sotediffusion.serve.storage.jobs import JobState
from sotediffusion.serve.walls.callers import COOKIE, SESSION_S, Caller, needs, who
from sotediffusion.serve.walls.problems import Problem, Trouble, json_object
from sotediffusion.types import UserError

PREFIX = "/api/v1"
PICTURE = {"requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
BEFORE = body_of({"before": {"type": ["string", "null"], "description": "the id of a waiting job; null: behind all"}})
FAVOURITE = body_of({"picture": {"type": "string", "description": "its name"}, "favourite": {"type": "boolean", "default": True}},
                    ("picture",))  # fmt: skip
KEY = body_of({"key": {"type": "string", "description": "ID:SECRET, as it was shown"}}, ("key",))
TEXT = body_of({"text": {"type": "string", "default": ""}, "model": {"type": ["string", "null"]}})
MOST = 200  # jobs in a reply


class JobsAsked(BaseModel):
    """Which jobs are wanted."""

    state: list[JobState] = []
    limit: int = Field(50, ge=1, le=MOST)
    before: str | None = Field(None, max_length=64)
    q: str = Field("", max_length=500)
    favourite: bool = False


Mine = Annotated[Caller, Depends(needs("generate"))]
Start = Annotated[str, Query(max_length=100)]
Few = Annotated[int, Query(ge=1, le=100)]


def router(house: House) -> APIRouter:
    """The routes of the own API."""
    routes = APIRouter(prefix=PREFIX, tags=["own API"])
    for add in (_about, _submit, _jobs, _change, _events, _session, _words, _settings):
        add(routes, house)
    return routes


def _about(routes: APIRouter, house: House) -> None:
    @routes.get("/about")
    async def about(http: Request) -> dict[str, Any]:
        """What can be asked for here: models, samplers, ranges, defaults, texts to begin with."""
        return await house.gateway.do(about_view, house, await who(http))  # in a thread, as it looks for LoRA files


def _submit(routes: APIRouter, house: House) -> None:
    gateway = house.gateway
    schema = order_schema(gateway.menu, gateway.bounds, house.presets)

    @routes.post("/jobs", status_code=202, openapi_extra=schema)
    async def submit(http: Request, caller: Mine, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, Any]:
        """Submit a job. It is kept from then on, whatever dies; follow it at /jobs/ID/events. 429: the queue is full."""
        ask = read_order(await json_object(http), house.presets, idempotency_key)
        if ask.priority > 0 and "admin" not in caller.scopes:  # it goes before the turns that keys take
            message = "above 0 a job goes before those of other keys, which needs a key with the scope admin; take 0 or less"
            raise Problem(Trouble(403, "forbidden", message, "priority"))
        job = await gateway.submit(caller.owner, ask)
        return job_view(gateway, job, await gateway.position(job))


def _jobs(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.get("/jobs")
    async def jobs(caller: Mine, asked: Annotated[JobsAsked, Query()]) -> dict[str, Any]:
        """The caller's jobs, the latest first. With words or favourites only finished ones are found."""
        if asked.q or asked.favourite:
            find = gateway.gallery.find
            found = await gateway.do(find, caller.owner, asked.q, asked.favourite, asked.limit, asked.before)
        else:
            found = await gateway.jobs(caller.owner, asked.state, asked.limit, asked.before)
        views = [job_view(gateway, job, await gateway.position(job)) for job in found]
        return {"jobs": views, "next": found[-1].id if len(found) == asked.limit else None}

    @routes.get("/jobs/{id}")
    async def job(id: str, caller: Mine) -> dict[str, Any]:
        """A job: how far it is, and its pictures when it has ended."""
        found = await gateway.job(caller.owner, id)
        return job_view(gateway, found, await gateway.position(found))


def _change(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.post("/jobs/{id}/cancel")
    async def cancel(id: str, caller: Mine) -> dict[str, Any]:
        """End a job that waits or runs; one that has ended stays as it is."""
        await gateway.cancel(caller.owner, id)
        return job_view(gateway, await gateway.job(caller.owner, id), None)

    @routes.post("/jobs/{id}/move", openapi_extra=BEFORE)
    async def move(id: str, http: Request, caller: Mine) -> dict[str, Any]:
        """Move a waiting job before another of the caller's, `before`, or behind all of them; they come back in order."""
        before = (await json_object(http)).get("before")
        waiting = await gateway.move(caller.owner, id, None if before is None else str(before))
        return {"jobs": [job_view(gateway, job, await gateway.position(job)) for job in waiting]}

    @routes.delete("/jobs/{id}", status_code=204)
    async def forget(id: str, caller: Mine) -> Response:
        """Forget an ended job with its pictures. 409 while it is live."""
        await gateway.forget(caller.owner, id)
        return Response(status_code=204)

    @routes.put("/jobs/{id}/favourite", openapi_extra=FAVOURITE)
    async def favour(id: str, http: Request, caller: Mine) -> dict[str, Any]:
        """Mark `picture` as a favourite, or with `favourite` false as none; its job is kept while it has one."""
        body = await json_object(http)
        name, yes = body.get("picture"), body.get("favourite", True)
        if not isinstance(name, str) or not isinstance(yes, bool):
            raise UserError("picture", 'say which by {"picture": NAME, "favourite": true or false}')
        return job_view(gateway, await gateway.favour(caller.owner, id, name, yes), None)

    @routes.delete("/jobs/{id}/pictures/{name:path}")
    async def discard(id: str, name: str, caller: Mine) -> dict[str, Any]:
        """Delete one picture of a job; with its last one the job leaves the gallery."""
        return job_view(gateway, await gateway.discard(caller.owner, id, name), None)


def _events(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.get("/jobs/{id}/events", response_class=StreamingResponse, responses=EVENTS)
    async def events(id: str, caller: Mine, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
        """Server-sent events: the job at each change, until it has ended."""
        await gateway.job(caller.owner, id)
        seen = int(last_event_id) if last_event_id is not None and last_event_id.isdecimal() else None
        return event_stream(_told(gateway, caller.owner, id, seen), closing=gateway.closing)

    @routes.get("/events", response_class=StreamingResponse, responses=EVENTS)
    async def all_events(caller: Mine) -> StreamingResponse:
        """Server-sent events of all the caller's jobs: `job` at each change, `gone` when one is forgotten."""
        return event_stream(_all_told(gateway, caller.owner), closing=gateway.closing)


async def _told(gateway: Gateway, owner: str, id: str, seen: int | None) -> AsyncIterator[str]:
    try:
        async for job, position in gateway.stream(owner, id, seen):
            yield sse(job_view(gateway, job, position), "job", job.version)
    except NoSuch:  # forgotten in the meantime
        yield sse({"id": id}, "gone")


async def _all_told(gateway: Gateway, owner: str) -> AsyncIterator[str]:
    async for id, job, position in News(gateway, owner).follow():
        yield sse({"id": id}, "gone") if job is None else sse(job_view(gateway, job, position), "job", job.version)


def _session(routes: APIRouter, house: House) -> None:
    gateway = house.gateway

    @routes.post("/session", status_code=204, openapi_extra=KEY)
    async def enter(http: Request) -> Response:
        """Exchange a key for a cookie, which a page cannot read and other sites cannot send."""
        key = (await json_object(http)).get("key")
        value = await gateway.do(house.doorkeeper.session, key) if isinstance(key, str) else None
        if value is None:
            raise Problem(Trouble(401, "unauthorized", "this is no valid key; it looks like ID:SECRET", "key"))
        reply = Response(status_code=204)
        reply.set_cookie(COOKIE, value, int(SESSION_S), secure=http.url.scheme == "https", httponly=True, samesite="strict")
        return reply

    @routes.delete("/session", status_code=204)
    async def leave() -> Response:
        """Forget the cookie."""
        reply = Response(status_code=204)
        reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return reply


def _words(routes: APIRouter, house: House) -> None:
    gateway, words = house.gateway, house.words

    @routes.post("/tokens", openapi_extra=TEXT)
    async def tokens(http: Request, caller: Mine) -> dict[str, int]:
        """How many tokens `text` has for `model`, and in how many chunks of 77."""
        body = await json_object(http)
        text, model = body.get("text", ""), body.get("model")
        if not isinstance(text, str) or not isinstance(model, str | None):
            raise UserError("text", 'it is no text; send {"text": PROMPT}')
        return await gateway.do(words.count, text, gateway.menu.offer(model))

    @routes.get("/tags")
    async def tags(caller: Mine, q: Start, limit: Few = 20) -> dict[str, Any]:
        """Tags that begin with these letters, the most frequent first."""
        return {"tags": await gateway.do(words.complete, q, limit)}

    @routes.get("/styles")
    async def styles(caller: Mine) -> dict[str, Any]:
        """Texts by name that are put around a prompt; `{prompt}` in one stands for it."""
        return {"styles": await gateway.do(words.styles)}

    @routes.get("/wildcards")
    async def wildcards(caller: Mine) -> dict[str, Any]:
        """Names that may stand in a prompt as `__name__`, with the lines of which one is drawn."""
        return {"wildcards": await gateway.do(words.wildcards.all)}


def _settings(routes: APIRouter, house: House) -> None:
    @routes.post("/settings", openapi_extra=PICTURE)
    async def settings(http: Request, caller: Mine) -> dict[str, Any]:
        """The settings inside a picture, the body, whichever program drew it; `notes` says what of them has no place here."""
        found = await house.gateway.do(recall, await http.body())
        return asdict(found)
