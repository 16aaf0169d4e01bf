"""Bodies of callers read by the schema of their dialect, and pictures that came as text in them."""

import base64
import binascii
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sotediffusion.serve.walls.problems import Problem, Trouble, readable
from sotediffusion.types import UserError

F = TypeVar("F", bound="Form")

_SHOWN = 200  # characters of a value that an error repeats


class Form(BaseModel):
    """A body with known fields; what else it has is ignored, as the servers do that these dialects come from."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True, protected_namespaces=())


def read(form: type[F], body: dict[str, Any]) -> F:
    """The body as a form. Problem 422 whose cause is pydantic's error; its field and message are those of the first fault."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = faults(error)[0]
        field = ".".join(map(str, first["loc"]))
        raise Problem(Trouble(422, "invalid", first["msg"], field, cause=error)) from None


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """All that is wrong, as FastAPI lists it without the leading "body"; values only where they are short and plain."""
    return [
        {"loc": [_plain(part) for part in fault["loc"]], "msg": readable(fault["msg"]), "type": fault["type"]}
        | ({"input": _plain(fault["input"])} if isinstance(fault["input"], str | int | float | None) else {})
        | ({"ctx": {name: _plain(value) for name, value in fault["ctx"].items()}} if "ctx" in fault else {})
        for fault in error.errors(include_url=False)
    ]


@cache
def schema(form: type[Form]) -> dict[str, Any]:
    """What OpenAPI is told of a route that reads this form."""
    whole = form.model_json_schema()
    inner = whole.pop("$defs", {})  # inside of OpenAPI a reference to them would lead nowhere
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(whole, inner)}}}}


def _inlined(part: Any, inner: dict[str, Any]) -> Any:
    """A schema with the parts themselves where it refers to them."""
    if isinstance(part, list):
        return [_inlined(item, inner) for item in part]
    if not isinstance(part, dict):
        return part
    here = {**inner[part["$ref"].rpartition("/")[2]], **part} if "$ref" in part else part
    return {name: _inlined(value, inner) for name, value in here.items() if name != "$ref"}


def picture_in(text: str, field: str) -> bytes:
    """The file that came as base64, with or without `data:image/...;base64,` before it. UserError: it is none, or an address."""
    head, comma, rest = text.partition(",")
    if not comma and "://" in text[:20]:
        raise UserError(field, "addresses are not fetched; send the picture itself, as base64 or as a data: URL")
    if comma and not (head.startswith("data:image/") and head.endswith(";base64")):
        raise UserError(field, "it is no picture as base64; send base64, or data:image/png;base64,...")
    try:
        return base64.b64decode(rest if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(field, "it is no picture as base64; send base64, or data:image/png;base64,...") from None


def as_text(content: bytes) -> str:
    """A file as base64."""
    return base64.b64encode(content).decode()


def data_url(content: bytes, type: str) -> str:
    """A file as an address that holds it."""
    return f"data:{type};base64,{as_text(content)}"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**63):  # not infinity
        return value
    return readable(str(value)[:_SHOWN])
