"""Settings files: TOML to and from the rooms' frozen dataclasses, and `section.key=value` overrides."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sotediffusion.names import unknown
from sotediffusion.types import UserError

T = TypeVar("T")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; UserError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError("config", f"{path} cannot be read ({reason}); give the path of a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError("config", f"{path} is not TOML: {error}") from None


def load(kind: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Read a TOML file into the dataclass `kind`, with `section.key=value` overrides on top."""
    return build(kind, override(read_toml(path), overrides))


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with each `section.key=value` put in; the value is TOML, or else the bare text."""
    result = _copy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError("set", f"{assignment!r} is not section.key=value; write for example train.steps=1000")
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UserError("set", f"{path.strip()} goes into {key}, which is a value and no section; shorten the path")
        table[keys[-1]] = _parse(text.strip())
    return result


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass `kind` from plain values, checked against its type hints; errors name the dotted key.

    Left-out keys keep their defaults. Whole numbers become floats where a float is asked for, lists become tuples.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init]
    for key in _table(values, where):
        if key not in names:
            raise unknown(_dotted(where, key), key, names)
    made = {key: _convert(hints[key], value, _dotted(where, key)) for key, value in values.items()}
    try:
        return kind(**made)
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise UserError(where or "config", f"a value is missing: {missing}; add it") from None


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as the dicts, lists and strings that TOML and JSON know; None entries are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_toml(value: Any) -> str:
    """A dataclass or dict as TOML text that `build` reads back."""
    return "\n".join(_toml_table(plain(value), "")).lstrip("\n") + "\n"


def _toml_table(table: dict[str, Any], path: str) -> list[str]:
    lines = [f"{_toml_key(key)} = {_toml_value(item)}" for key, item in table.items() if not isinstance(item, dict)]
    for key, item in table.items():
        if isinstance(item, dict):
            inner = _dotted(path, _toml_key(key))
            lines += ["", f"[{inner}]", *_toml_table(item, inner)]
    return lines


def _toml_key(key: str) -> str:
    return key if key and key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml_key(key)} = {_toml_value(item)}' for key, item in value.items())}}}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _parse(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, str(value), [str(name) for name in arguments])
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return build(hint, _table(value, where), where)
    if origin is dict:
        return {key: _convert(arguments[1], item, _dotted(where, key)) for key, item in _table(value, where).items()}
    if origin in (list, tuple):
        return origin(_convert_items(origin, arguments, value, where))
    return _scalar(hint, value, where)


def _convert_union(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in hints:
        return None
    choices = [hint for hint in hints if hint is not NoneType]
    for hint in choices[:-1]:
        try:
            return _convert(hint, value, where)
        except UserError:
            continue
    return _convert(choices[-1], value, where)


def _convert_items(origin: Any, hints: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, value, "a list")
    if origin is list or (len(hints) == 2 and hints[1] is Ellipsis):
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _wrong(where, value, f"a list of {len(hints)}")
    return [_convert(hint, item, f"{where}[{place}]") for place, (hint, item) in enumerate(zip(hints, value, strict=True))]


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not isfinite(value):
            raise _wrong(where, value, "a finite number")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
        raise _wrong(where, value, words.get(hint, hint.__name__))
    return value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a section of keys")
    return value


def _wrong(where: str, value: Any, wanted: str) -> UserError:
    return UserError(where, f"{str(value)[:80]!r} is not {wanted}; give {wanted}")


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
