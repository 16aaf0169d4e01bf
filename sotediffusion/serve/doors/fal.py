"""fal's API: /fal-ai/stable-cascade and /fal-ai/stable-cascade/sote-diffusion, run, streamed and through the queue.

The same addresses stand below /fal/run and /fal/queue, because fal tells running from queueing by the name of the host.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response, StreamingResponse

from sotediffusion.serve.described import EVENTS
from sotediffusion.serve.doors.attended import attended, awaited, steadily
from sotediffusion.serve.doors.endings import to_the_end
from sotediffusion.serve.doors.fal_orders import ALIAS, APPS, PRIORITIES, CascadeForm, Memo, ask_of, is_ours
from sotediffusion.serve.doors.fal_proxy import QUEUE, RUN, add_proxy
from sotediffusion.serve.doors.fal_replies import (
    ERROR,
    REQUEST_ID,
    headers_of,
    output,
    problem,
    progress_of,
    status_of,
    told,
    trouble_of_job,
    urls,
    webhook_body,
)
from sotediffusion.serve.doors.forms import read, schema
from sotediffusion.serve.events import event_stream, sse
from sotediffusion.serve.gateway import Ask, Gateway, NoSuch, StillLive
from sotediffusion.serve.storage.jobs import Job, JobState, StoreDown
from sotediffusion.serve.walls.callers import Caller, needs
from sotediffusion.serve.walls.problems import Problem, Trouble, json_object
from sotediffusion.serve.webhooks.delivery import Signer
from sotediffusion.types import UserError

__all__ = ["ERROR", "PREFIXES", "problem", "router", "webhook_body"]

PREFIXES = ("/fal-ai/", "/fal/", "/api/fal/")

_Mine = Depends(needs("generate"))


class Doors:
    """The handlers."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway

    async def run(self, http: Http, caller: Caller, form: type[CascadeForm]) -> Response:
        """Draw while the request waits."""
        job = await self.submit(http, caller, form)
        job = await awaited(self.gateway, caller.owner, job.id, http.is_disconnected)
        if trouble := trouble_of_job(job):
            raise Problem(trouble)
        reply = JSONResponse(await self._output(job, http), headers=headers_of(self.gateway, job))
        await self._forget_if_sync(caller, job)
        return reply

    async def stream(self, http: Http, caller: Caller, form: type[CascadeForm]) -> Response:
        """Draw and tell how far it is, with previews; the last event is the output."""
        job = await self.submit(http, caller, form)
        events = to_the_end(self._events(http, caller, job.id), _event)
        response = event_stream(events, closing=self.gateway.closing)
        response.headers.update(headers_of(self.gateway, job))
        return response

    async def queue(self, http: Http, caller: Caller, form: type[CascadeForm]) -> Response:
        """Take an order in; it is asked about at the addresses in the reply."""
        job = await self.submit(http, caller, form)
        position = await self.gateway.position(job)
        said = {"status": "IN_QUEUE", "request_id": job.id, **urls(_base(http), job.id), "queue_position": position or 0}
        return JSONResponse(said, headers={REQUEST_ID: job.id})

    async def submit(self, http: Http, caller: Caller, form: type[CascadeForm]) -> Job:
        """The job of a request."""
        ask = _ask(http, read(form, await json_object(http)))
        return await self.gateway.submit(caller.owner, ask)

    async def status(self, http: Http, caller: Caller, id: str) -> Response:
        """202 while it waits or runs, 200 when it has ended."""
        job = await self._job(caller, id)
        body = status_of(job, await self.gateway.position(job), _base(http), _wants_logs(http))
        return JSONResponse(body, 200 if job.state.ended else 202, {REQUEST_ID: id})

    async def status_stream(self, http: Http, caller: Caller, id: str) -> Response:
        """The status at each change."""
        await self._job(caller, id)

        async def events() -> AsyncIterator[str]:
            async for job, position in steadily(self.gateway, caller.owner, id):
                yield sse(status_of(job, position, _base(http), _wants_logs(http)))

        response = event_stream(to_the_end(events(), _event), closing=self.gateway.closing)
        response.headers[REQUEST_ID] = id
        return response

    async def result(self, http: Http, caller: Caller, id: str) -> Response:
        """The output, as running would have given it."""
        job = await self._job(caller, id)
        if not job.state.ended:
            message = f"the request is {job.state}; ask again when its status is COMPLETED"
            raise Problem(Trouble(400, "bad_request", message, headers={REQUEST_ID: id}))
        if trouble := trouble_of_job(job):
            raise Problem(trouble)
        return JSONResponse(await self._output(job, http), headers=headers_of(self.gateway, job))

    async def cancel(self, caller: Caller, id: str) -> Response:
        """End it; what runs stops at its next step."""
        try:
            await self._job(caller, id)
            before, _ = await self.gateway.cancel(caller.owner, id)
        except NoSuch:
            return JSONResponse({"status": "NOT_FOUND"}, 404)
        if before.ended:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400, {REQUEST_ID: id})
        if before == JobState.RUNNING:
            return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202, {REQUEST_ID: id})
        return JSONResponse({"status": "OK"}, 200, {REQUEST_ID: id})

    async def _job(self, caller: Caller, id: str) -> Job:
        job = await self.gateway.job(caller.owner, id)
        if not is_ours(job):
            raise NoSuch("request")
        return job

    async def _output(self, job: Job, http: Http) -> dict[str, Any]:
        return await self.gateway.do(output, self.gateway, job, str(http.base_url).rstrip("/"))

    async def _events(self, http: Http, caller: Caller, id: str) -> AsyncIterator[str]:
        async for job in attended(self.gateway, caller.owner, id):
            if not job.state.ended:
                yield sse(progress_of(job, await self._preview(job)))
        if trouble := trouble_of_job(job):
            yield _event(trouble)
            return
        yield sse(await self._output(job, http))
        await self._forget_if_sync(caller, job)

    async def _preview(self, job: Job) -> bytes | None:
        """A look at the picture; none where a checker is to rate it first, or where it cannot be had."""
        if job.progress is None or job.progress.preview is None or (self.gateway.rates and Memo.of(job).checked):
            return None
        try:
            return await self.gateway.file(job.progress.preview)
        except (NoSuch, UserError):
            return None

    async def _forget_if_sync(self, caller: Caller, job: Job) -> None:
        """With sync_mode the pictures are in the reply, and fal keeps none of them. What a webhook is to be told stays.

        What cannot be removed now goes with time: it is no reason to lose the reply.
        """
        if Memo.of(job).sync:
            with suppress(NoSuch, StillLive, StoreDown, UserError):
                await self.gateway.forget(caller.owner, job.id)


def router(gateway: Gateway) -> APIRouter:
    """The routes; `generate` is the scope they need."""
    routes, doors = APIRouter(tags=["fal"]), Doors(gateway)
    for app, form in APPS.items():
        for prefix, shown in (("", True), (RUN, False)):
            _add_order(routes, f"{prefix}/{app}", form, doors.run, shown)
            _add_order(routes, f"{prefix}/{app}/stream", form, doors.stream, shown, EVENTS)
        _add_order(routes, f"{QUEUE}/{app}", form, doors.queue, True)
        for prefix in ("", RUN, QUEUE):
            _add_requests(routes, f"{prefix}/{app}/requests/{{id}}", doors, prefix == QUEUE and app == ALIAS)
    add_proxy(routes)
    _add_keys(routes, gateway)
    return routes


def _add_order(routes: APIRouter, path: str, form: type[CascadeForm], door: Any, shown: bool, told: Any = None) -> None:
    async def handler(http: Http, caller: Caller = _Mine) -> Response:
        return await door(http, caller, form)

    add = partial(routes.add_api_route, include_in_schema=shown, response_model=None)
    add(path, handler, methods=["POST"], name=door.__name__, openapi_extra=schema(form), responses=told,
        response_class=StreamingResponse if told else JSONResponse)


def _add_requests(routes: APIRouter, path: str, doors: Doors, shown: bool) -> None:
    add = partial(routes.add_api_route, include_in_schema=shown, response_model=None)

    async def status(http: Http, id: str, caller: Caller = _Mine) -> Response:
        return await doors.status(http, caller, id)

    async def status_stream(http: Http, id: str, caller: Caller = _Mine) -> Response:
        return await doors.status_stream(http, caller, id)

    async def result(http: Http, id: str, caller: Caller = _Mine) -> Response:
        return await doors.result(http, caller, id)

    async def cancel(id: str, caller: Caller = _Mine) -> Response:
        return await doors.cancel(caller, id)

    add(f"{path}/status", status, methods=["GET"])
    add(f"{path}/status/stream", status_stream, methods=["GET"], responses=EVENTS, response_class=StreamingResponse)
    add(f"{path}/cancel", cancel, methods=["PUT"])
    add(path, result, methods=["GET"])
    add(f"{path}/response", result, methods=["GET"])


def _add_keys(routes: APIRouter, gateway: Gateway) -> None:
    @routes.get("/.well-known/jwks.json")
    async def keys() -> JSONResponse:
        """What the signatures of webhooks are checked with."""
        if gateway.receivers is None:
            raise NoSuch("key: this server tells no webhooks")
        return JSONResponse(await gateway.do(lambda: Signer(gateway.store.database).public_keys()))


def _event(trouble: Trouble) -> str:
    """An error in a stream."""
    return sse(told(trouble)[1])


def _ask(http: Http, form: CascadeForm) -> Ask:
    """The order with what its headers and its query say."""
    query = http.query_params
    longest = query.get("fal_max_queue_length")
    if longest is not None and not (longest.isascii() and longest.isdigit() and len(longest) < 10):
        raise Problem(Trouble(400, "bad_request", "fal_max_queue_length is no whole number"))
    webhook = query.get("fal_webhook")
    return ask_of(
        form,
        str(http.base_url).rstrip("/") if webhook else "",
        priority=PRIORITIES.get(http.headers.get("x-fal-queue-priority", ""), 0),
        start_s=_number(http, "x-fal-request-timeout"),
        webhook=webhook,
        idempotency=http.headers.get("idempotency-key"),
        longest=None if longest is None else int(longest),
    )


def _number(http: Http, header: str) -> float | None:
    """A number of seconds from a header. Problem 400."""
    text = http.headers.get(header)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 < seconds <= 24 * 3600:
        raise Problem(Trouble(400, "bad_request", f"{header} must be a number of seconds above 1 and at most 86400"))
    return seconds


def _wants_logs(http: Http) -> bool:
    return http.query_params.get("logs", "").lower() in ("1", "true")


def _base(http: Http) -> str:
    """The address that requests are asked about below: that of this request without what stands behind the alias."""
    return str(http.base_url).rstrip("/") + http.url.path.partition(f"/{ALIAS}")[0] + f"/{ALIAS}"
