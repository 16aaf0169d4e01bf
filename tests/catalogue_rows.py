"""A small catalogue as a table: kept and dropped pictures, duplicates, strangers' markup, and one that the policy dropped."""

import numpy as np
import pyarrow as pa

from sotediffusion.curate.compose.cuts import TAGS
from sotediffusion.curate.compose.step import CAPTION

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("side_date", pa.string()),
        ("side_artist", TAGS),
        ("group", pa.int64()),
        ("distance", pa.int16()),
        ("score_aesthetic_shadow_v2", pa.float32()),
        ("score_aes_b32_v0", pa.float32()),
        ("tag_ids", pa.list_(pa.uint16())),
        ("tag_probs", pa.list_(pa.float16())),
        ("rating", pa.string()),
        ("general", TAGS),
        ("date", pa.string()),
        ("source", pa.string()),
        ("custom", TAGS),
        ("aesthetic", pa.string()),
        ("quality", pa.string()),
        ("caption", CAPTION),
        ("repeats", pa.int16()),
        ("drop_scan", pa.string()),
        ("drop_policy", pa.string()),
        ("drop_filter", pa.string()),
        ("drop_dedupe", pa.string()),
        ("dropped", pa.bool_()),
        ("reason", pa.string()),
    ]
)
EVIL = "<script>alert('name')</script>"
ARTIST = "<script>alert('artist')</script>"


def picture(row: int, **more) -> dict:
    """A kept picture."""
    base = {
        "row": row,
        "path": f"set/{row}.png",
        "sha256": f"{row:064x}",
        "bytes": 1000,
        "width": 1000,
        "height": 1500,
        "side_date": "2021-02-03",
        "score_aesthetic_shadow_v2": 0.95,
        "score_aes_b32_v0": 0.5,
        "tag_ids": [4],
        "tag_probs": [np.float16(0.75)],
        "rating": "general",
        "date": "recent",
        "source": "danbooru",
        "aesthetic": "extremely aesthetic",
        "quality": "normal quality",
        "repeats": 6,
        "caption": [{"group": "custom", "tags": [f"art by {ARTIST}"]}, {"group": "rest", "tags": ["1girl", "smile"]}],
    }
    return base | more


def left_out(row: int, step: str, reason: str, **more) -> dict:
    """One that a step dropped before tagging."""
    return {
        "row": row,
        "path": f"set/{row}.png",
        "sha256": f"{row:064x}",
        "bytes": 10,
        "width": 20,
        "height": 30,
        f"drop_{step}": reason,
        "dropped": True,
        "reason": reason,
        **more,
    }


def table() -> pa.Table:
    """Five kept, four left out."""
    rows = [
        picture(0, group=0, distance=0),
        picture(1, path=f"set/{EVIL}.png", side_artist=[ARTIST]),
        picture(2, rating="explicit nsfw", source="pixiv", date=None, repeats=1),
        picture(
            3,
            aesthetic=None,
            quality=None,
            score_aesthetic_shadow_v2=None,
            score_aes_b32_v0=float("nan"),
            repeats=1,
            caption=[{"group": "rest", "tags": ["1girl"]}],
        ),
        picture(4, source="anime wallpaper", date="newest", caption=[]),
        left_out(5, "dedupe", "duplicate: of set/0.png", group=0, distance=3),
        left_out(6, "filter", "too small: 20x30"),
        left_out(7, "scan", f"unreadable: {EVIL}", width=None, height=None),
        {"row": 8, "sha256": "f" * 64, "drop_policy": "policy", "dropped": True, "reason": "policy"},
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
