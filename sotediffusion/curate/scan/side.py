"""What is noted of one picture, in one form whatever wrote it, and as columns of the catalogue."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

_LIST = pa.list_(pa.string())
SIDE = (
    ("side_tags", _LIST), ("side_general", _LIST), ("side_character", _LIST), ("side_series", _LIST), ("side_artist", _LIST),
    ("side_meta", _LIST), ("side_rating", pa.string()), ("side_date", pa.string()), ("side_site", pa.string()),
    ("side_id", pa.string()), ("side_score", pa.int32()), ("side_text", pa.string()), ("side_extra", pa.string()),
)  # fmt: skip
MAX_TAGS = 2000
_MAX_EXTRA = 16_000  # characters of JSON
_HTML = re.compile(r"<[^<>]{0,400}>")


@dataclass
class Side:
    """All that is noted of one picture; tags as found, in their order."""

    tags: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)  # general, character, series, artist, meta
    rating: str | None = None  # g, s, q, e
    date: str | None = None  # ISO, UTC
    site: str | None = None
    id: str | None = None
    score: int | None = None
    text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def take(self, other: "Side") -> None:
        """Add what another sidecar says; where both say one thing, the other is believed."""
        self.tags = list(dict.fromkeys([*self.tags, *other.tags]))
        for name, tags in other.groups.items():
            self.groups[name] = list(dict.fromkeys([*self.groups.get(name, []), *tags]))
        for name in ("rating", "date", "site", "id", "score", "text"):
            if getattr(other, name) is not None:
                setattr(self, name, getattr(other, name))
        self.extra.update(other.extra)

    def columns(self) -> dict[str, Any]:
        """The columns of SIDE."""
        groups = {f"side_{name}": self.groups.get(name) for name in ("general", "character", "series", "artist", "meta")}
        return {
            "side_tags": self.tags or None, **groups, "side_rating": self.rating, "side_date": self.date, "side_site": self.site,
            "side_id": self.id, "side_score": self.score, "side_text": self.text,
            "side_extra": _json(self.extra) if self.extra else None,
        }  # fmt: skip


def _json(extra: dict[str, Any]) -> str:
    text = json.dumps(extra, ensure_ascii=False, default=str)
    while len(text) > _MAX_EXTRA:
        extra = dict(list(extra.items())[: len(extra) // 2])
        text = json.dumps(extra, ensure_ascii=False, default=str)
    return text


def unescaped(tag: str) -> str:
    r"""A tag without the backslashes that prompts put before brackets: `a \(b\)` is `a (b)`."""
    return tag.replace("\\(", "(").replace("\\)", ")")


def plain_text(text: str) -> str | None:
    plain = re.sub(r"[ \t]+", " ", _HTML.sub(" ", storable(text))).strip()
    return plain[:4000] or None


def storable(text: str) -> str:
    """Text that a table can hold: halves of surrogate pairs replaced, NULs gone."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def clip(tags: list[str]) -> list[str]:
    """Tags without doubles, none endless, not endlessly many."""
    return list(dict.fromkeys(storable(tag)[:200] for tag in tags[:MAX_TAGS]))
