"""What people said of pictures that look alike, remembered by content hash: it holds wherever the files move to."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

FORMAT = "sotediffusion verdicts 1"
FILE = "verdicts.json"  # in a catalogue
MAX_BYTES = 256 * 2**20
_HEX = set("0123456789abcdef")

Pair = tuple[str, str]  # two content hashes, the smaller first


@dataclass(frozen=True)
class Verdicts:
    """Pairs that are the same picture, pairs that are not, and pictures to keep before others of their group."""

    same: frozenset[Pair] = frozenset()
    different: frozenset[Pair] = frozenset()
    keep: frozenset[str] = frozenset()

    def then(self, later: "Verdicts") -> "Verdicts":
        """These and later ones, which win where they disagree."""
        overruled = {sha for pair in later.same if pair[0] in later.keep or pair[1] in later.keep for sha in pair}
        return Verdicts(
            (self.same - later.different) | later.same, (self.different - later.same) | later.different,
            (self.keep - overruled) | later.keep,
        )  # fmt: skip

    def named(self) -> set[str]:
        """Every content hash that a verdict is about."""
        return {sha for pair in self.same | self.different for sha in pair} | self.keep

    def digest(self) -> str:
        return hashlib.sha256(to_json(self).encode()).hexdigest()


def pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def to_json(verdicts: Verdicts) -> str:
    """The text of a verdicts file, the same for the same verdicts."""
    lists = {"same": sorted(verdicts.same), "different": sorted(verdicts.different), "keep": sorted(verdicts.keep)}
    return json.dumps({"format": FORMAT, **lists}, indent=1) + "\n"


def read(path: Path) -> Verdicts:
    """The verdicts in a file; none where it does not exist. UserError where it is something else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path, f"larger than {MAX_BYTES // 2**20} MiB")
        content = path.read_bytes()
    except FileNotFoundError:
        return Verdicts()
    except OSError as error:
        raise _wrong(path, "not to be read") from error
    return parse(content, path)


def held(store: Store) -> Verdicts:
    """A catalogue's own verdicts, wherever it lies; UserError as for `read`."""
    try:
        return parse(store.read(FILE), store.path(FILE))
    except FileNotFoundError:
        return Verdicts()


def parse(content: bytes, path: str | Path) -> Verdicts:
    """The verdicts in a file's content; `path` is what an error calls it."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "not to be read as JSON") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _wrong(path, f'without "format": "{FORMAT}"')
    lists = [_list(path, values, name) for name in ("same", "different", "keep")]
    keep = frozenset(_sha(path, sha) for sha in lists[2])
    return replace(_of_pairs(path, lists[0], lists[1]), keep=keep)


def _of_pairs(path: str | Path, same: list[Any], different: list[Any]) -> Verdicts:
    one, other = (frozenset(_pair(path, item) for item in items) for items in (same, different))
    if one & other:
        raise _wrong(path, "of two minds: a pair is both same and different")
    return Verdicts(one, other)


def _list(path: str | Path, values: dict[str, Any], name: str) -> list[Any]:
    items = values.get(name, [])
    if not isinstance(items, list):
        raise _wrong(path, f"wrong: {name} is no list")
    return items


def _pair(path: str | Path, item: Any) -> Pair:
    if not isinstance(item, list) or len(item) != 2 or item[0] == item[1]:
        raise _wrong(path, f"wrong: {str(item)[:80]} is no pair of two hashes")
    return pair(_sha(path, item[0]), _sha(path, item[1]))


def _sha(path: str | Path, value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or not _HEX.issuperset(value):
        raise _wrong(path, f"wrong: {str(value)[:80]!r} is no sha256 in hex")
    return value


def _wrong(path: str | Path, what: str) -> UserError:
    return UserError("verdicts", f"{path} is {what}; give the verdicts.json that the review page downloads")

