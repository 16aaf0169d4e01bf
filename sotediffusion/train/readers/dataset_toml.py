"""kohya's dataset.toml as subsets: [general], [[datasets]] and [[datasets.subsets]], the nearer setting before the farther.

An option that this trainer has under another name, or does not have, is refused by name; one that is off does no harm.
"""

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sotediffusion.buckets import CELL
from sotediffusion.config import read_toml
from sotediffusion.names import unknown
from sotediffusion.train.kohya_captions import KohyaCaptions
from sotediffusion.train.readers.kohya import EXTENSIONS, Subset
from sotediffusion.types import UserError

CAPTIONS = tuple(field.name for field in fields(KohyaCaptions))
BUCKETS = ("resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
FOLDERS = ("image_dir", "metadata_file", "num_repeats", "is_reg", "class_tokens", "caption_extension", "conditioning_data_dir",
           "alpha_mask")  # fmt: skip
RUNS = ("batch_size", "cache_info", "validation_split", "validation_seed")  # said elsewhere, or without meaning here
ELSEWHERE = {
    "flip_aug": "set data.fit.flip=true for all pictures",
    "random_crop": "set data.fit.crop=random and data.online=true for all pictures",
    "color_aug": "leave it out, colours are not changed here",
    "face_crop_aug_range": "leave it out, faces are not looked for here",
    "enable_wildcard": "leave it out, captions are one line here",
    "secondary_separator": "leave it out, tags have one separator here",
    "skip_image_resolution": "leave it out, or choose in a catalogue with data.where",
}
KNOWN = (*CAPTIONS, *BUCKETS, *FOLDERS, *RUNS, *ELSEWHERE, "custom_attributes")


def read_dataset(path: str) -> list[Subset]:
    """The subsets of a settings file; folders are relative to it. UserError for what is unknown or cannot be done."""
    values = read_toml(path)
    home = os.path.dirname(os.path.abspath(path))
    for key in values:
        if key not in ("general", "datasets"):
            raise unknown("data", key, ("general", "datasets"))
    general = _checked(values.get("general", {}))
    subsets = []
    for dataset in _tables(values, "datasets"):
        own = general | _checked({key: value for key, value in dataset.items() if key != "subsets"})
        subsets += [_subset(own | _checked(subset), home) for subset in _tables(dataset, "subsets")]
    if not subsets:
        raise UserError("data", f"{path} has no [[datasets.subsets]]; add one with an image_dir")
    return subsets


def _tables(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = values.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError("data", f"{name} is no list of tables; write [[{name}]]")
    return tables


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if key not in KNOWN:
            raise unknown("data", key, KNOWN)
        if key in ELSEWHERE and value:
            raise UserError(f"data.{key}", f"{value!r} of a subset cannot be done; {ELSEWHERE[key]}")
    return dict(values)


def _subset(values: dict[str, Any], home: str) -> Subset:
    folder, metadata, masks = (values.get(name) for name in ("image_dir", "metadata_file", "conditioning_data_dir"))
    for name in ("image_dir", "metadata_file", "conditioning_data_dir"):
        if not isinstance(values.get(name), str | None):
            raise UserError(f"data.{name}", f"{values[name]!r} is no path; write it in quotes")
    if not folder:
        raise UserError("data.image_dir", "a subset names no folder; add image_dir")
    extension = values.get("caption_extension")
    repeats = values.get("num_repeats", 1)
    if not isinstance(repeats, int) or repeats < 1:
        raise UserError("data.num_repeats", f"{repeats!r} is no number of times; give 1 or more")
    return Subset(
        os.path.abspath(os.path.join(home, folder)), repeats, values.get("class_tokens") or "",
        (str(extension),) if extension else EXTENSIONS,
        os.path.join(home, metadata) if metadata else None, os.path.abspath(os.path.join(home, masks)) if masks else None,
        bool(values.get("alpha_mask")), bool(values.get("is_reg")),
        {key: values[key] for key in CAPTIONS if key in values}, _buckets(values),
    )  # fmt: skip


def _buckets(values: dict[str, Any]) -> dict[str, Any]:
    """What the file says of buckets, in our names."""
    said: dict[str, Any] = {}
    if "resolution" in values:
        said["resolution"] = _resolution(values["resolution"])
    for ours, theirs in (("shortest", "min_bucket_reso"), ("longest", "max_bucket_reso")):
        if theirs in values:
            said[ours] = values[theirs]
    if step := values.get("bucket_reso_steps"):
        if step % CELL:
            raise UserError("data.bucket_reso_steps", f"{step} is no multiple of {CELL}, the px of a latent cell; take 64")
        said["cells"] = step // CELL
    if "enable_bucket" in values or "bucket_no_upscale" in values:
        enabled, still = values.get("enable_bucket", False), values.get("bucket_no_upscale", False)
        said["rule"] = ("kohya_no_upscale" if still else "kohya") if enabled else "one_size"
    return said


def _resolution(value: Any) -> int | tuple[int, int]:
    """1024, [1024, 768] or "1024,768"."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        sides = [int(part) for part in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UserError("data.resolution", f"{value!r} is no size; write 1024 or [1024, 768]")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
