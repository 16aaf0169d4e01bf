"""Masks of the loss for any data: pictures in a folder of their own, or the transparency of the pictures themselves."""

import os
from collections.abc import Iterator

import pyarrow as pa

from sotediffusion.curate.scan.sources import PICTURES
from sotediffusion.train.samples import Samples
from sotediffusion.types import UserError

ALPHA = "alpha"


def with_masks(samples: Samples, where: str) -> Samples:
    """The samples with masks where they had none: of `where`, a folder on disk, or "alpha" for each picture's transparency.

    A mask is called like its picture, in the same folders below `where` or directly in it, with any suffix of a picture.
    UserError: no such folder, or no mask for any picture.
    """
    if not where:
        return samples
    if where == ALPHA:
        return samples.masked(samples.rows.column("path"))
    if not os.path.isdir(where):
        raise UserError("data.masks", f"{where} is no folder; give one with masks called like their pictures, or {ALPHA}")
    known = dict(_files(os.path.abspath(where)))
    found = [known.get(stem, known.get(os.path.basename(stem))) for stem in map(_stem, samples.rows.column("path").to_pylist())]
    there = sum(mask is not None for mask in found)
    if not there:
        raise UserError("data.masks", f"{where} has a mask for none of {len(samples)} pictures, such as "
                                      f"{_stem(samples.path(0))}.png; call masks like their pictures")  # fmt: skip
    samples = samples.masked(pa.array(found, pa.string()))
    samples.notes += (f"{there} of {len(samples)} pictures have a mask in {where}; the others count in full",)
    return samples


def _files(folder: str) -> Iterator[tuple[str, str]]:
    """Every picture below the folder: its path there without the suffix, and its whole path."""
    for at, _, names in os.walk(folder):
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in PICTURES - {""}:
                path = os.path.join(at, name)
                yield _stem(os.path.relpath(path, folder)), path


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]
