"""What is sexual with minors or child-coded tags is dropped, always: at scan on what sidecars say, and again right after tagging.

There is no setting. Such a picture leaves a hash of its content and a count; its path, tags and all else are erased.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa

from sotediffusion.curate.scan.side import Side
from sotediffusion.curate.step import DROP, Step
from sotediffusion.curate.tag.taglist import TagList
from sotediffusion.safety import policy as safety

REASON = "policy"
SEEN = 0.25
WORDS = {"g": "general", "s": "sensitive", "q": "questionable", "e": "explicit"}
_SIDE = ("side_tags", "side_general", "side_character", "side_series", "side_meta", "side_rating", "side_text")


def refuses(tags: Iterable[str], text: str = "", path: str = "") -> bool:
    """Whether a picture with these tags (its rating among them), this prose and this name may not be kept.

    The rule needs something childlike, which is a matter of each tag by itself; most pictures have none and are done with that.
    """
    told = [*tags, text] if text else list(tags)
    if any(map(_childlike, told)) and safety.check_tags(told) is not None:
        return True
    return safety.check_tags([PurePosixPath(path.replace("::", "/")).stem]) is not None if path else False


def _childlike(tag: str) -> bool:
    return _childlike_tag(tag) if len(tag) <= 100 else _breaks_with_nude(tag)


def _breaks_with_nude(tag: str) -> bool:
    return safety.check_tags([tag, "nude"]) is not None


_childlike_tag = lru_cache(maxsize=1 << 17)(_breaks_with_nude)


def is_refused(path: str, side: Side) -> bool:
    """The same of a picture just found."""
    groups = [tag for name, tags in side.groups.items() if name != "artist" for tag in tags]
    rating = [WORDS[side.rating]] if side.rating else []
    return refuses([*side.tags, *groups, *rating], side.text or "", path)


class PolicyStep(Step):
    """The rule on what the sidecars say; also of quarantined pictures, whose names and tags must go too."""

    name = "policy"
    version = 1
    reads = ("path", "drop_scan", *_SIDE)
    writes = pa.schema([(DROP + "policy", pa.string())])
    sees_dropped: ClassVar[bool] = True
    erases: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        """The words of the rule, so that a longer list is applied to pictures already there."""
        return {"rule": rule_digest()}

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return _answer(self, [row["drop_scan"] == REASON or _side_refused(row) for row in rows.to_pylist()])


def _side_refused(row: dict[str, Any], seen: Iterable[str] = ()) -> bool:
    tags = [tag for name in _SIDE[:5] for tag in row[name] or ()]
    rating = row["side_rating"]
    return refuses([*tags, *seen, *([WORDS[rating]] if rating in WORDS else [])], row["side_text"] or "", row["path"] or "")


def _answer(step: Step, refused: list[bool]) -> pa.RecordBatch:
    reasons = [REASON if drop else None for drop in refused]
    return pa.RecordBatch.from_arrays([pa.array(reasons, pa.string())], schema=step.writes)


@lru_cache(maxsize=1)
def rule_digest() -> str:
    """A hash of every word list of the rule."""
    import hashlib

    from sotediffusion.safety import terms

    lists = {
        name: sorted(map(str, value)) for name, value in vars(terms).items() if name.isupper() and not isinstance(value, str)
    }
    return hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()[:16]


class TagPolicyStep(Step):
    """The same rule again right after tagging, on what the tagger sees together with what the sidecars say.

    The sidecars of copies that were left out for this picture speak too. A tag counts from a probability of SEEN, lower than any
    caption's threshold, and so does each rating beside the likeliest.
    """

    name = "policy_tags"
    version = 1
    reads = ("tag_ids", "tag_probs", "rating_probs", "group_tags", *_SIDE)
    writes = pa.schema([(DROP + "policy_tags", pa.string())])
    erases: ClassVar[bool] = True

    def __init__(self, tags: TagList):
        """`tags`: the list that tag_ids point into."""
        self.tags = tags

    def identity(self) -> dict[str, Any]:
        return {"rule": rule_digest(), "tags": self.tags.sha256, "seen": SEEN}

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return _answer(self, [_side_refused({"path": "", **row}, self._seen(row)) for row in rows.to_pylist()])

    def _seen(self, row: dict[str, Any]) -> list[str]:
        ids, probs, ratings = row["tag_ids"] or (), row["tag_probs"] or (), row["rating_probs"] or ()
        seen = [self.tags.names[place] for place, p in zip(ids, probs, strict=True) if p >= SEEN]
        likely = [name for name, p in zip(self.tags.names, ratings, strict=False) if p >= SEEN or p == max(ratings)]
        return [*seen, *likely, *(row["group_tags"] or ())]
