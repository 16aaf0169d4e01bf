"""OpenAI's images API: /v1/images/generations, whole or streamed with previews as partial images, and /v1/models.

Beside OpenAI's fields a body may have ours (`extra_body` in OpenAI's clients): negative_prompt, seed, steps, guidance, ...
"""

import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices, Field

from sotediffusion.serve.described import EITHER
from sotediffusion.serve.doors.attended import attended, awaited
from sotediffusion.serve.doors.endings import ending, to_the_end
from sotediffusion.serve.doors.forms import Form, as_text, read, schema
from sotediffusion.serve.events import event_stream, sse
from sotediffusion.serve.gateway import Ask, Gateway, Lora, NoSuch, round_size
from sotediffusion.serve.storage.jobs import Job, StoredPicture
from sotediffusion.serve.walls.callers import Caller, needs
from sotediffusion.serve.walls.problems import REUSED, Problem, Trouble, json_object, readable
from sotediffusion.types import Request, UserError

PREFIXES = ("/v1/",)
ORIGIN = "openai"
_TEXT = {"type": ["string", "null"]}
ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"], "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT}}},
}  # fmt: skip

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)
_NO_DETAILS = {"image_tokens": 0, "text_tokens": 0}
_NO_USAGE = {"input_tokens": 0, "input_tokens_details": _NO_DETAILS, "output_tokens": 0, "total_tokens": 0}  # nothing is billed
# OpenAI's names of what is ours; an error names the field as the caller gave it.
_THEIRS = {"negative": "negative_prompt", "count": "n", "width": "size", "height": "size"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded", 500: "server_error"}


class LoraForm(Form):
    """A LoRA of this server."""

    name: str
    weight: float = 1.0


class ImagesForm(Form):
    """The body of /v1/images/generations; OpenAI's quality, style, moderation and user are taken and change nothing."""

    prompt: str
    model: str | None = None
    n: int | None = Field(1, ge=1, le=10)
    size: str | None = "auto"
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    background: Literal["opaque", "auto"] | None = None
    stream: bool | None = False
    partial_images: int | None = Field(0, ge=0, le=3)
    # Ours
    negative_prompt: str = ""
    seed: int | None = None
    steps: int = Field(Request.steps, validation_alias=AliasChoices("steps", "num_inference_steps"))
    guidance: float = Field(Request.guidance, validation_alias=AliasChoices("guidance", "guidance_scale"))
    decoder_steps: int = Request.decoder_steps
    decoder_guidance: float = Request.decoder_guidance
    sampler: str = Request.sampler
    decoder_sampler: str = Request.decoder_sampler
    schedule: str = Request.schedule
    decoder_schedule: str = Request.decoder_schedule
    loras: list[LoraForm] = []

    @property
    def format(self) -> str:
        """Of the pictures."""
        return self.output_format or "png"


_SAME = ("seed", "steps", "guidance", "decoder_steps", "decoder_guidance",
         "sampler", "decoder_sampler", "schedule", "decoder_schedule")  # fmt: skip


def ask_of(form: ImagesForm, idempotency: str | None = None) -> Ask:
    """The order that a form stands for. Problem 400: a size that is none."""
    width, height = size_of(form.size)
    same = {name: getattr(form, name) for name in _SAME}
    request = Request(form.prompt, form.negative_prompt, width, height, count=form.n or 1, **same)
    loras = tuple(Lora(lora.name, lora.weight) for lora in form.loras)
    return Ask(request, form.model, loras, ORIGIN, idempotency=idempotency)


def size_of(text: str | None) -> tuple[int | None, int | None]:
    """Width and height of "WxH", rounded up to what can be drawn; the model's own for "auto"."""
    if text is None or text == "auto":
        return None, None
    found = _SIZE.fullmatch(text)
    if found is None:
        message = f"{readable(text[:40])!r} is no size; take auto, or one like 1024x1536"
        raise Problem(Trouble(400, "invalid", message, "size"))
    return round_size(int(found[1]), int(found[2]))


def problem(trouble: Trouble) -> Response:
    """An error as OpenAI's clients read it. A fault in a body is 400 there; a picture too large for this server and a
    key used again for another order are 422."""
    error = error_of(trouble)
    same = error["param"] == "size" or trouble.code == REUSED
    status = 400 if trouble.status == 422 and not same else trouble.status
    return JSONResponse({"error": error}, status, dict(trouble.headers))


def error_of(trouble: Trouble) -> dict[str, Any]:
    """OpenAI's four words on an error."""
    kind = _TYPES.get(trouble.status, "server_error" if trouble.status >= 500 else "invalid_request_error")
    param = _THEIRS.get(trouble.field or "", trouble.field)
    code = "model_not_found" if trouble.field == "model" else _CODES.get(trouble.status, trouble.code)
    return {"message": trouble.message, "type": kind, "param": param, "code": code}


async def answer(gateway: Gateway, job: Job, form: ImagesForm, base: str) -> dict[str, Any]:
    """OpenAI's reply for a job with pictures: as base64, or as addresses below `base` that hold for a day."""
    pictures = job.pictures or ()
    if form.response_format == "url":
        data = [{"url": gateway.url(picture.name, base, form.format)} for picture in pictures]
    else:
        data = [{"b64_json": await encoded(gateway, picture, form)} for picture in pictures]
    shown = [item | {"seed": picture.seed} for item, picture in zip(data, pictures, strict=True)]
    first = pictures[0]
    return {"created": int(job.created), "data": shown, "background": "opaque", "output_format": form.format,
            "size": f"{first.width}x{first.height}"}  # fmt: skip


async def encoded(gateway: Gateway, picture: StoredPicture, form: ImagesForm) -> str:
    """A finished picture in the format asked for, as base64."""
    return as_text(await gateway.picture(picture, form.format, form.output_compression))


async def stream_of(gateway: Gateway, jobs: AsyncIterator[Job], form: ImagesForm) -> AsyncIterator[str]:
    """Events: up to `partial_images` previews spread over the drawing, then each finished picture, or an error."""
    shown = 0
    async for job in jobs:
        if job.state.ended:
            async for event in _finished(gateway, job, form):
                yield event
        elif _is_due(job, shown, form.partial_images or 0) and (partial := await _partial(gateway, job, shown)):
            shown += 1
            yield partial


async def _finished(gateway: Gateway, job: Job, form: ImagesForm) -> AsyncIterator[str]:
    trouble = ending(job)
    if trouble is not None:
        yield _failure(trouble)
        return
    for picture in job.pictures or ():
        size = f"{picture.width}x{picture.height}"
        more = {"output_format": form.format, "usage": _NO_USAGE, "seed": picture.seed}
        yield _event("completed", await encoded(gateway, picture, form), size, more)


async def _partial(gateway: Gateway, job: Job, index: int) -> str | None:
    """A preview as an event; None where it is gone already or cannot be read."""
    assert job.progress is not None and job.progress.preview is not None
    try:
        content = await gateway.file(job.progress.preview)
    except (NoSuch, UserError):
        return None
    size = f"{job.request['width']}x{job.request['height']}"
    return _event("partial_image", as_text(content), size, {"output_format": "jpeg", "partial_image_index": index})


def _event(kind: str, content: str, size: str, more: Mapping[str, Any]) -> str:
    name = f"image_generation.{kind}"
    event = {"type": name, "b64_json": content, "created_at": int(time.time()), "size": size}
    return sse({**event, "quality": "auto", "background": "opaque", **more}, name)


def _failure(trouble: Trouble) -> str:
    return sse({"type": "error", "error": error_of(trouble)}, "error")


def _is_due(job: Job, shown: int, wanted: int) -> bool:
    progress = job.progress
    if progress is None or progress.preview is None or shown >= wanted:
        return False
    return progress.step * (wanted + 1) >= progress.steps * shown


def router(gateway: Gateway) -> APIRouter:
    """The routes; `generate` is the scope they need."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/images/generations", openapi_extra=schema(ImagesForm), responses=EITHER)
    async def generate(http: Http, caller: Caller = Depends(needs("generate"))) -> Response:
        form = read(ImagesForm, await json_object(http))
        if form.model is not None:
            _known(gateway, form.model)
        ask = ask_of(form, http.headers.get("idempotency-key"))
        job = await gateway.submit(caller.owner, ask)
        if form.stream:
            events = stream_of(gateway, attended(gateway, caller.owner, job.id), form)
            return event_stream(to_the_end(events, _failure), closing=gateway.closing)
        job = await awaited(gateway, caller.owner, job.id, http.is_disconnected)
        if trouble := ending(job):
            raise Problem(trouble)
        return JSONResponse(await answer(gateway, job, form, str(http.base_url).rstrip("/")))

    @routes.get("/v1/models")
    async def models(caller: Caller = Depends(needs("generate"))) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(gateway, name) for name in gateway.menu.models]})

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, caller: Caller = Depends(needs("generate"))) -> JSONResponse:
        _known(gateway, name)
        return JSONResponse(_model(gateway, name))

    return routes


def _known(gateway: Gateway, name: str) -> None:
    """Problem 404 for a model that is not served, in OpenAI's words."""
    if name not in gateway.menu.models:
        message = f"the model {readable(name[:80])!r} is not served; served are {', '.join(gateway.menu.models)}"
        raise Problem(Trouble(404, "model_not_found", message, "model"))


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    more = {"license": gateway.menu.models[name].license, "source": "/source"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "sotediffusion"} | more
