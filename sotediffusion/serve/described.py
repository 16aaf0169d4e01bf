"""The API described for programs, OpenAPI 3.1: what the routes say of themselves, and how each dialect tells errors."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

JSON = "application/json"
_EVENTS = "text/event-stream"
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "Server-sent events", "content": {_EVENTS: {}}}}
EITHER: dict[int | str, dict[str, Any]] = {200: {"description": "JSON, or events", "content": {JSON: {}, _EVENTS: {}}}}


def body_of(fields: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """What OpenAPI is told of a small body: an object with these fields, each as a JSON schema."""
    schema = {"type": "object", "properties": fields, "required": list(required)}
    return {"requestBody": {"required": bool(required), "content": {JSON: {"schema": schema}}}}


def describe(app: FastAPI, licence: str, error_of: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The description of the app; `error_of` gives the schema of an error at a path."""
    schema = FastAPI.openapi(app)
    schema["info"]["license"] = {"name": licence, "url": "/license"}
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "ID:SECRET, as `sote serve keys add` shows it"}
    schema["security"] = [{"key": []}]
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            told = operation["responses"]
            told.pop("422", None)  # the framework's own words, which no caller ever hears
            told["default"] = {"description": "Why not", "content": {JSON: {"schema": error_of(path)}}}
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"].get("schemas", {}).pop(unused, None)
    return schema
