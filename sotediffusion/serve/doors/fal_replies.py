"""fal's words for what became of an order: status, output, errors, and what a webhook is told."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import ValidationError

from sotediffusion.safety.policy import RULE
from sotediffusion.serve.doors.endings import ending
from sotediffusion.serve.doors.fal_orders import THEIRS, Memo
from sotediffusion.serve.doors.forms import data_url, faults
from sotediffusion.serve.gateway import Gateway, NoSuch
from sotediffusion.serve.storage.jobs import Job, JobState, StoredPicture
from sotediffusion.serve.walls.admission import MILD
from sotediffusion.serve.walls.problems import REUSED, Trouble

REQUEST_ID = "x-fal-request-id"
CHECKER = "X-Sote-Safety-Checker"
ERROR = {
    "type": "object",
    "anyOf": [{"required": ["detail"]}, {"required": ["status"]}],
    "properties": {"detail": {"type": ["string", "array"]}, "error_type": {"type": "string"}, "status": {"type": "string"}},
}
AROUND = ("webhook", "Idempotency-Key", "priority", "deadline_s", "start_s")  # fields that stand in no body

_ERROR_TYPES = {
    "bad_json": "bad_request",
    "bad_request": "bad_request",
    "cancelled": "client_cancelled",
    "client_gone": "client_disconnected",
    "closing": "runner_disconnected",
    "deadline": "request_timeout",
    "internal": "internal_error",
    "store_down": "runner_connection_error",
    "worker_died": "runner_server_error",
}


def problem(trouble: Trouble) -> Response:
    """An error as fal tells it: a list for what is wrong in a body, words and a type for everything else."""
    status, body, headers = told(trouble)
    return JSONResponse(body, status, {**trouble.headers, **headers})


def told(trouble: Trouble) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error."""
    if trouble.status == 422 and trouble.field not in AROUND:
        return 422, {"detail": _listed(trouble)}, {}
    status = 400 if trouble.status == 422 and trouble.code != REUSED else trouble.status
    kind = "bad_request" if status in (400, 422) else _ERROR_TYPES.get(trouble.code)
    if kind is None:
        return status, {"detail": trouble.message}, {}
    headers = {"X-Fal-Error-Type": kind, "X-Fal-Retryable": "true" if status in (502, 503) else "false"}
    if kind == "request_timeout":
        headers["X-Fal-Request-Timeout-Type"] = "user"
    return status, {"detail": trouble.message, "error_type": kind}, headers


def _listed(trouble: Trouble) -> list[dict[str, Any]]:
    if isinstance(trouble.cause, ValidationError):
        return [fault | {"loc": ["body", *fault["loc"]]} for fault in faults(trouble.cause)]
    field = THEIRS.get(trouble.field or "", trouble.field)
    kind = "content_policy_violation" if RULE in trouble.message else "value_error"
    return [{"loc": ["body", *([field] if field else [])], "msg": trouble.message, "type": kind}]


def trouble_of_job(job: Job) -> Trouble | None:
    """Why an ended job has no output; None where it has."""
    trouble = ending(job)
    if trouble is None:
        return None
    return replace(trouble, headers={**trouble.headers, REQUEST_ID: job.id})


def urls(base: str, id: str) -> dict[str, str]:
    """Where a job is asked about; `base` is the address that it was submitted below."""
    place = f"{base}/requests/{id}"
    return {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}


def status_of(job: Job, position: int | None, base: str, logs: bool) -> dict[str, Any]:
    """A status body."""
    named = {"request_id": job.id, **urls(base, job.id)}
    if job.state == JobState.QUEUED:
        return {"status": "IN_QUEUE", **named, "queue_position": position or 0}
    if job.state == JobState.RUNNING:
        return {"status": "IN_PROGRESS", **named, "logs": _logs(job) if logs else None}
    metrics = {"inference_time": _took(job)} if job.started is not None else {}
    trouble = trouble_of_job(job)
    failed = {}
    if trouble is not None:
        body = told(trouble)[1]
        failed = {"error": trouble.message, "error_type": body.get("error_type") or body["detail"][0]["type"]}
    return {"status": "COMPLETED", **named, "logs": _logs(job) if logs else None, "metrics": metrics, **failed}


def progress_of(job: Job, preview: bytes | None) -> dict[str, Any]:
    """An event of the stream before the output: how far the job is, with a look at the picture where there is one."""
    far = job.progress
    if job.state == JobState.QUEUED or far is None:
        return {"status": "IN_QUEUE" if job.state == JobState.QUEUED else "IN_PROGRESS", "request_id": job.id}
    event = {"status": "IN_PROGRESS", "request_id": job.id, "phase": far.phase, "step": far.step, "steps": far.steps}
    shown = [] if preview is None else [{"url": data_url(preview, "image/jpeg"), "content_type": "image/jpeg"}]
    return event | {"eta": far.eta} | ({"images": shown} if shown else {})


def output(gateway: Gateway, job: Job, base: str) -> dict[str, Any]:
    """The output of a finished job; addresses of pictures are below `base`. Blocks. NoSuch: a picture is gone."""
    memo, pictures = Memo.of(job), job.pictures or ()
    shown = [_shown(gateway, picture, memo, base) for picture in pictures]
    return {
        "images": [image for image, _ in shown],
        "timings": {"inference": _took(job)},
        "seed": job.request["seed"],
        "has_nsfw_concepts": [nsfw for _, nsfw in shown],
        "prompt": job.request["prompt"],
    }


def headers_of(gateway: Gateway, job: Job) -> dict[str, str]:
    """What a reply about a job says beside its body: its id, and who looked at the pictures."""
    checker = "none" if gateway.rate is None else "rating" if Memo.of(job).checked else "off"
    notes = {"X-Sote-Image-Check": "none"} if gateway.notes(job) else {}
    return {REQUEST_ID: job.id, CHECKER: checker, **notes}


def webhook_body(gateway: Gateway, job: Job) -> bytes:
    """What a webhook is told of the end of a job. Blocks."""
    named = {"request_id": job.id, "gateway_request_id": job.id}
    trouble = trouble_of_job(job)
    if trouble is None:
        said = {**named, "status": "OK", "payload": output(gateway, job, Memo.of(job).base)}
    else:
        status, body, _ = told(trouble)
        said = {**named, "status": "ERROR", "error": f"Invalid status code: {status}", "payload": body}
    return json.dumps(said).encode()


def _shown(gateway: Gateway, picture: StoredPicture, memo: Memo, base: str) -> tuple[dict[str, Any], bool | None]:
    """A picture and whether it is for adults, None where nobody looked. One that is comes as black, as fal's checker does it."""
    rate = gateway.rate if memo.checked else None
    content = _content(gateway, picture) if memo.sync or rate else b""
    nsfw = None if rate is None else rate(content) > MILD
    kind, size = picture.type, picture.bytes or None
    if nsfw:
        content, kind = _black(picture), "image/png"
        size = len(content)
    url = data_url(content, kind) if nsfw or memo.sync else gateway.url(picture.name, base)
    image = {"url": url, "width": picture.width, "height": picture.height, "content_type": kind}
    return {**image, "file_name": None, "file_size": size}, nsfw


def _content(gateway: Gateway, picture: StoredPicture) -> bytes:
    try:
        return gateway.shelf.read(picture.name)
    except FileNotFoundError:
        raise NoSuch("picture") from None


def _black(picture: StoredPicture) -> bytes:
    file = BytesIO()
    Image.new("RGB", (picture.width, picture.height)).save(file, "png")
    return file.getvalue()


def _took(job: Job) -> float:
    return round((job.finished or 0) - (job.started or job.finished or 0), 3)


def _logs(job: Job) -> list[dict[str, Any]]:
    """The one line there is: how far the job is."""
    if job.progress is None:
        return []
    message = f"{job.progress.phase}: step {job.progress.step} of {job.progress.steps}"
    at = datetime.fromtimestamp(job.finished or job.started or job.created, UTC).isoformat()
    return [{"message": message, "level": "INFO", "source": "USER", "timestamp": at}]
