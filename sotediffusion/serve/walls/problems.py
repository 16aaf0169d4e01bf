"""What went wrong, as a status, a word for programs and a sentence for people; each dialect puts it into its own JSON."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sotediffusion.serve.gateway import ClientGone, Closing, NoSuch, StillLive
from sotediffusion.serve.storage.jobs import KeyReused, QueueFull, StoreDown
from sotediffusion.types import UserError

ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["code", "field", "message"], "properties": {
        "code": {"type": "string"}, "field": {"type": ["string", "null"]}, "message": {"type": "string"}}}},
}  # fmt: skip
CLIENT_CLOSED = 499  # nobody reads it; what logs call a client that has left
REUSED = "key_reused"  # 422 in every dialect: clients repeat a 409 by themselves
_NO_ROOM = ("disk", "quota")
_WORDS = {404: ("not_found", "there is nothing at this address"), 405: ("wrong_method", "this address takes another method")}


@dataclasses.dataclass(frozen=True)
class Trouble:
    """An error as all dialects know it; `message` is always valid text."""

    status: int
    code: str
    message: str
    field: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cause: Exception | None = None


class Problem(Exception):
    """A trouble on its way to the client."""

    def __init__(self, trouble: Trouble):
        super().__init__(trouble.message)
        self.trouble = trouble


KNOWN: tuple[type[Exception], ...] = (Problem, UserError, QueueFull, StoreDown, Closing, NoSuch, StillLive, ClientGone,
                                      ClientDisconnect, HTTPException)  # fmt: skip # what `trouble_of` has words for


def trouble_of(error: Exception) -> Trouble:
    """What a client is told of an exception; of a fault of ours nothing but that it happened."""
    if isinstance(error, Problem):
        return error.trouble
    if isinstance(error, KeyReused):
        return Trouble(422, REUSED, error.message, error.field, cause=error)
    if isinstance(error, UserError):
        status, code = (507, "no_room") if error.field in _NO_ROOM else (422, "invalid")
        return Trouble(status, code, readable(error.message), readable(error.field), cause=error)
    if isinstance(error, QueueFull):
        return Trouble(429, "queue_full", str(error), headers=_later(error.retry_after), cause=error)
    if isinstance(error, StoreDown):
        message = "the server's database does not answer; nothing was lost, try again"
        return Trouble(503, "store_down", message, headers=_later(2), cause=error)
    if isinstance(error, Closing):
        return Trouble(503, "closing", "the server is about to end or to start anew; try again", headers=_later(10), cause=error)
    if isinstance(error, NoSuch):
        return Trouble(404, "not_found", str(error), cause=error)
    if isinstance(error, StillLive):
        return Trouble(409, "live", str(error), "id", cause=error)
    if isinstance(error, ClientGone | ClientDisconnect):
        return Trouble(CLIENT_CLOSED, "client_gone", "the client has left; what it asked for is cancelled", cause=error)
    if isinstance(error, HTTPException):
        code, message = _WORDS.get(error.status_code, ("refused", readable(str(error.detail))))
        return Trouble(error.status_code, code, message, headers=dict(error.headers or {}), cause=error)
    return Trouble(500, "internal", "the server made a mistake; its log says more", cause=error)


def own(trouble: Trouble) -> Response:
    """The own API's JSON of a trouble."""
    said = {"code": trouble.code, "field": trouble.field, "message": trouble.message}
    return JSONResponse({"error": said}, trouble.status, dict(trouble.headers))


def readable(text: str) -> str:
    """Text that any client can be sent: halves of surrogate pairs, which JSON may bring in, become question marks."""
    return text.encode(errors="replace").decode()


async def json_object(http: Request) -> dict[str, Any]:
    """The body of a request, which must be a JSON object of real numbers. Problem 400."""
    try:
        value = json.loads(await http.body() or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Problem(Trouble(400, "bad_json", "the body is no JSON that can be read; send one object")) from None
    if not isinstance(value, dict):
        raise Problem(Trouble(400, "bad_json", f"the body is a {type(value).__name__}; send one object"))
    return value


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _later(seconds: float) -> dict[str, str]:
    return {"Retry-After": f"{max(seconds, 1):.0f}"}
