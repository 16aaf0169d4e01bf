"""The API of AUTOMATIC1111's web UI and SD.Next: /sdapi/v1. Pictures are drawn while the request waits."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from sotediffusion.serve.described import body_of
from sotediffusion.serve.doors.a1111_lists import CONSTANT, answers, options, png_info, prompt_styles
from sotediffusion.serve.doors.a1111_orders import (
    ORIGIN,
    DrawForm,
    ask_of,
    model_of,
    progress_of,
    reply_of,
    start_of,
    styled,
    unheard,
)
from sotediffusion.serve.doors.attended import awaited
from sotediffusion.serve.doors.endings import ending
from sotediffusion.serve.doors.forms import Form, as_text, faults, picture_in, read, schema
from sotediffusion.serve.gateway import Ask, Gateway, NoSuch
from sotediffusion.serve.storage.jobs import LIVE, Job, JobState
from sotediffusion.serve.walls.callers import Caller, needs
from sotediffusion.serve.walls.problems import Problem, Trouble, json_object

PREFIXES = ("/sdapi/",)
ROOT = "/sdapi/v1"
ERROR = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": ["string", "array"]}}}
OPTIONS = body_of({"sd_model_checkpoint": {"type": ["string", "null"], "description": "a title of sd-models, a name or a hash"}})
SAFETY_HEADER = "X-Sote-Image-Check"

# A1111's names of what is ours; an error names the field as the caller gave it.
_THEIRS = {
    "negative": "negative_prompt",
    "guidance": "cfg_scale",
    "decoder_steps": "refiner_steps",
    "decoder_guidance": "cfg_image",
    "count": "batch_size",
    "strength": "denoising_strength",
    "init": "init_images",
    "size": "width",
}
_MOST = 1000  # live jobs of a caller that are looked at


class PictureForm(Form):
    """The body of png-info."""

    image: str


def problem(trouble: Trouble) -> Response:
    """An error as A1111 tells it: a list for a body of the wrong shape, words for everything else."""
    headers = dict(trouble.headers)
    if trouble.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="id and secret of a key"'
    if isinstance(trouble.cause, ValidationError):
        listed = [fault | {"loc": ["body", *fault["loc"]]} for fault in faults(trouble.cause)]
        return JSONResponse({"detail": listed}, trouble.status, headers)
    field = _THEIRS.get(trouble.field or "", trouble.field)
    detail = f"{field}: {trouble.message}" if field else trouble.message
    return JSONResponse({"error": trouble.code, "detail": detail, "body": "", "errors": detail}, trouble.status, headers)


class Doors:
    """The handlers, and the one thing they keep: which model draws where none is named."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.model = gateway.menu.default

    async def txt2img(self, http: Http, caller: Caller) -> Response:
        """Draw from text."""
        body = await json_object(http)
        form = read(DrawForm, body)
        return await self._draw(http, caller, form, body, await self._ask(form, http))

    async def img2img(self, http: Http, caller: Caller) -> Response:
        """Draw from text and a picture."""
        body = await json_object(http)
        form = read(DrawForm, body)
        ask, (init, strength) = await self._ask(form, http), start_of(form)
        request = replace(ask.request, init=init, strength=strength)
        return await self._draw(http, caller, form, body, replace(ask, request=request))

    async def progress(self, caller: Caller, image: bool) -> dict[str, Any]:
        """How far the caller's own jobs are."""
        live = await self._live(caller)
        preview = live[0].progress.preview if live and live[0].progress else None
        return progress_of(live, await self._preview(preview) if preview and image else None)

    async def set_options(self, http: Http) -> Any:
        """Choose the model for orders that name none; what else is set has no meaning here."""
        wanted = (await json_object(http)).get("sd_model_checkpoint")
        if wanted:
            self.model = model_of(str(wanted), self.gateway.menu)
        return None

    async def styles(self) -> list[dict[str, str]]:
        """The styles of this server's file."""
        words = self.gateway.words
        return await self.gateway.do(words.styles) if words else []

    async def _ask(self, form: DrawForm, http: Http) -> Ask:
        whole = styled(form, await self.styles()) if form.styles else form
        return ask_of(whole, self.gateway.menu, self.model, http.headers.get("idempotency-key"))

    async def _draw(self, http: Http, caller: Caller, form: DrawForm, body: dict[str, Any], ask: Ask) -> Response:
        format = form.format
        job = await self.gateway.submit(caller.owner, ask)
        job = await awaited(self.gateway, caller.owner, job.id, http.is_disconnected)
        trouble = ending(job)
        if trouble is not None and job.state != JobState.CANCELLED:
            raise Problem(trouble)
        pictures = (job.pictures or ()) if form.send_images is not False else ()
        images = [as_text(await self.gateway.picture(picture, format)) for picture in pictures]
        notes = self.gateway.notes(job)
        headers = {SAFETY_HEADER: "none"} if notes else {}
        reply = reply_of(job, images, body, self.gateway.menu, [*notes, *unheard(form)])
        return Response(reply, media_type="application/json", headers=headers)

    async def _live(self, caller: Caller) -> list[Job]:
        """The caller's live jobs of this dialect: what runs before what waits, the earlier before the later."""
        jobs = await self.gateway.jobs(caller.owner, LIVE, _MOST)
        own = [job for job in reversed(jobs) if job.origin == ORIGIN]
        return sorted(own, key=lambda job: job.state != JobState.RUNNING)

    async def _preview(self, name: str) -> str | None:
        try:
            return as_text(await self.gateway.file(name))
        except NoSuch:  # its job has ended meanwhile
            return None


def router(gateway: Gateway) -> APIRouter:
    """The routes. `generate` is the scope they need, options need `admin`."""
    routes, doors = APIRouter(prefix=ROOT, tags=["A1111 / SD.Next"]), Doors(gateway)
    _add_drawing(routes, doors)
    _add_options(routes, doors)
    _add_questions(routes, doors)
    return routes


def _add_drawing(routes: APIRouter, doors: Doors) -> None:
    @routes.post("/txt2img", openapi_extra=schema(DrawForm))
    async def txt2img(http: Http, caller: Caller = Depends(needs("generate"))) -> Response:
        return await doors.txt2img(http, caller)

    @routes.post("/img2img", openapi_extra=schema(DrawForm))
    async def img2img(http: Http, caller: Caller = Depends(needs("generate"))) -> Response:
        return await doors.img2img(http, caller)

    @routes.get("/progress")
    async def progress(skip_current_image: bool = False, caller: Caller = Depends(needs("generate"))) -> JSONResponse:
        return JSONResponse(await doors.progress(caller, not skip_current_image))

    @routes.post("/interrupt")
    @routes.post("/skip")
    async def interrupt(caller: Caller = Depends(needs("generate"))) -> JSONResponse:
        await doors.gateway.interrupt(caller.owner, ORIGIN)
        return JSONResponse({})  # 204 would break clients that read JSON


def _add_options(routes: APIRouter, doors: Doors) -> None:
    @routes.get("/options", dependencies=[Depends(needs("admin"))])
    async def get_options() -> JSONResponse:
        return JSONResponse(options(doors.gateway.menu, doors.model))

    @routes.post("/options", openapi_extra=OPTIONS, dependencies=[Depends(needs("admin"))])
    async def set_options(http: Http) -> JSONResponse:
        return JSONResponse(await doors.set_options(http))


def _add_questions(routes: APIRouter, doors: Doors) -> None:
    gateway = doors.gateway

    @routes.post("/png-info", openapi_extra=schema(PictureForm), dependencies=[Depends(needs("generate"))])
    async def info(http: Http) -> Response:
        content = picture_in(read(PictureForm, await json_object(http)).image, "image")
        return _escaped(await gateway.do(png_info, content))

    @routes.get("/prompt-styles", dependencies=[Depends(needs("generate"))])
    async def styles() -> JSONResponse:
        return JSONResponse(prompt_styles(await doors.styles()))

    # Nothing to do: LoRA, styles and wildcards are read anew each time, models are those that the server was started with.
    for name in ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings"):
        _add(routes, gateway, name, lambda: None, "POST")
    for name, answer in (answers(gateway.menu) | {name: _constant(value) for name, value in CONSTANT.items()}).items():
        _add(routes, gateway, name, answer, "GET")


def _add(routes: APIRouter, gateway: Gateway, name: str, answer: Callable[[], Any], method: str) -> None:
    async def handler() -> JSONResponse:
        return JSONResponse(await gateway.do(answer))  # in a thread, as some look for files

    routes.add_api_route(f"/{name}", handler, methods=[method], name=name, dependencies=[Depends(needs("generate"))])


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _escaped(value: Any) -> Response:
    """Text of strangers as JSON in ASCII, which holds also what UTF-8 cannot."""
    return Response(json.dumps(value), media_type="application/json")
