"""From the user's words for data to a source of batches: a catalogue or kohya's folders read, latents made, a stream opened."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from torch import nn

from sotediffusion.buckets import BucketSettings, Fits
from sotediffusion.curate import catalogue
from sotediffusion.curate.engine.store import SCHEME, Store
from sotediffusion.text.tokenizer import Tokenizer
from sotediffusion.train import fit, order
from sotediffusion.train.captions import CaptionSettings
from sotediffusion.train.fields import CachedLatents, Field, Masks, OnlineLatents, Pictures
from sotediffusion.train.fill import Encoder, Loader, Progress, fill
from sotediffusion.train.fit import Faults, FitSettings
from sotediffusion.train.latents import LatentCache, check_place
from sotediffusion.train.masks import with_masks
from sotediffusion.train.order import Ranks
from sotediffusion.train.readers.catalogue import is_catalogue, read_catalogue
from sotediffusion.train.readers.dataset_toml import read_dataset
from sotediffusion.train.readers.kohya import Subset, read_kohya, subsets_of
from sotediffusion.train.readers.metadata import pictures_of
from sotediffusion.train.samples import Samples
from sotediffusion.train.stream import Making, Stream, fits_of
from sotediffusion.train.wording import Wording, part_settings
from sotediffusion.types import UserError


@dataclass(frozen=True)
class DataSettings:
    """What is trained on, and how pictures and captions are read."""

    version: str | None = None  # of a catalogue, the latest if none is named
    where: str | None = None  # a condition in SQL on a catalogue's columns
    source: str | None = None  # where a catalogue's pictures are now, if they have moved
    cache: str | None = None  # where latents are kept, a folder or URL; none: beside the run
    online: bool = False  # latents are made anew at each reading, without a cache
    repeats: bool = True  # a picture is seen as often in an epoch as its catalogue or folder says; false: once
    skip: int = 100  # pictures that may be unreadable before the run stops
    empty_captions: bool = False  # whether a picture without a caption may be among them
    masks: str = ""  # of the loss: a folder of pictures called like those trained on, or "alpha", their own transparency
    prior_loss_weight: float = 1.0  # of kohya's pictures of regularisation
    held_out: float = 0.0  # share of the pictures that is kept for validation
    last: str = "keep"  # or "fill": an epoch's last step is made whole with further samples
    fit: FitSettings = FitSettings()
    buckets: BucketSettings = BucketSettings()
    captions: CaptionSettings = CaptionSettings()


@dataclass(frozen=True)
class Makers:
    """What the run has that data is made with."""

    effnet: nn.Module | None  # on its device; none where no latents of it are wanted
    tokenizer: Tokenizer
    text_mask: str = "masked"
    fields: tuple[str, ...] = ("effnet",)  # or "pictures" too, or instead


@dataclass(frozen=True)
class Data:
    """Samples as read, and how they lie in their buckets."""

    samples: Samples
    fits: Fits


def read_data(place: str, settings: DataSettings, memory: str) -> Data:
    """The samples of a catalogue, a kohya folder, its dataset.toml or its metadata JSON. No picture is opened that is known.

    What was read is written down in the folder or URL `memory`. Raises UserError for data that cannot be trained on.
    """
    fit.check(settings.fit)
    if settings.fit.crop == "random" and not settings.online:
        raise UserError("data.fit.crop", "'random' cuts differ, kept latents do not; set data.online=true, or take centre")
    if not 0 <= settings.held_out < 1:
        raise UserError("data.held_out", f"{settings.held_out:g} is no share; give 0 or more and less than 1")
    order.check(settings.last)
    samples = _catalogue(place, settings, memory) if is_catalogue(place) else _kohya(place, settings, memory)
    for part in samples.parts:
        part_settings(settings.captions, part.captions)
    if not settings.empty_captions:
        _check_captions(samples)
    samples = with_masks(samples if settings.repeats else samples.once(), settings.masks)
    return Data(samples, fits_of(samples, settings.buckets))


def check_cache(settings: DataSettings, made: Makers, cache: str) -> None:
    """UserError where the cache has latents of another EffNet; nothing is written."""
    encoder = _encoder(made, settings)
    if encoder and not settings.online:
        check_place(settings.cache or cache, encoder.about)


def prepare(data: Data, settings: DataSettings, made: Makers, cache: str, ranks: Ranks, progress: Progress) -> Faults:
    """Make the latents that are not there yet; of several ranks each makes its part, without waiting for the others.

    Returns the pictures that could not be read. Raises UserError for too many of them and for a cache of another EffNet.
    """
    faults = Faults(settings.skip)
    encoder = _encoder(made, settings)
    if encoder and not settings.online:
        loader = Loader(data.samples, settings.fit, faults, checked=True)
        fill(data.samples, data.fits, LatentCache(settings.cache or cache, encoder.about), encoder, loader, ranks, progress)
    return faults


def open_data(data: Data, settings: DataSettings, made: Makers, cache: str, ranks: Ranks = Ranks(), held: bool = False) -> Stream:
    """The stream of batches for this rank; with `held` that of the pictures kept for validation."""
    if settings.held_out:
        rows = data.samples.held(settings.held_out) == held
        data = Data(data.samples.take(np.flatnonzero(rows)), data.fits[rows])
    samples, fits = data.samples, data.fits
    faults, encoder = Faults(settings.skip), _encoder(made, settings)
    loader = Loader(samples, settings.fit, faults)
    fields: dict[str, Field] = {}
    if encoder and settings.online:
        fields["effnet"] = OnlineLatents(loader, encoder)
    elif encoder:
        kept = LatentCache(settings.cache or cache, encoder.about)
        fields["effnet"] = CachedLatents(samples, fits, kept, faults, settings.fit.flip)
    if "pictures" in made.fields:
        fields["pictures"] = Pictures(loader, settings.buckets.scale)
    if samples.rows.column("mask").null_count < len(samples):
        fields["mask"] = Masks(loader)
    wording = Wording(samples, settings.captions, made.tokenizer, made.text_mask)
    making = Making(settings.fit, settings.captions, settings.last, settings.buckets.scale, encoder.about if encoder else {})
    return Stream(samples, fits, fields, wording, making, ranks, faults)


def _encoder(made: Makers, settings: DataSettings) -> Encoder | None:
    if "effnet" not in made.fields:
        return None
    assert made.effnet is not None
    return Encoder(made.effnet, settings.fit)


def _catalogue(place: str, settings: DataSettings, memory: str) -> Samples:
    """The samples of a version, which never changes: read once, then mapped."""
    chosen = catalogue.find_version(Store(place), settings.version)
    about = json.dumps([place, chosen.name, chosen.number, chosen.created, settings.where, settings.source])
    path = Path(memory) / f"samples-{chosen.name}-{hashlib.blake2b(about.encode(), digest_size=6).hexdigest()}.arrow"
    if SCHEME in memory:
        return read_catalogue(place, chosen.name, settings.where, settings.source)
    if not path.is_file():
        read_catalogue(place, chosen.name, settings.where, settings.source).save(path)
    return Samples.open(path)


def _kohya(place: str, settings: DataSettings, memory: str) -> Samples:
    if settings.version:
        raise UserError("data.version", f"{place} is no catalogue; leave it out, or make one with `sote curate run`")
    if settings.where:  # perhaps the preset's
        raise UserError("data.where", f"{place} is no catalogue and has no columns to choose pictures by {settings.where!r}; "
                                      "train on all of it with -s data.where='', or make a catalogue with `sote curate run`")
    said: Iterable[str] = ()
    if place.endswith(".toml"):
        subsets = read_dataset(place)
    elif place.endswith(".json"):
        subsets = [Subset(pictures_of(place), metadata=os.path.abspath(place))]
    elif os.path.isdir(place):
        subsets, said = subsets_of(place)
    else:
        raise UserError("data", f"{place} is no catalogue, folder, dataset.toml or metadata .json; give the place of one")
    faults = Faults(settings.skip)
    samples = read_kohya(subsets, Store(memory), faults, settings.prior_loss_weight)
    samples.notes += (*said, *([faults.sentence()] if faults.found else ()))
    return samples


def _check_captions(samples: Samples) -> None:
    """Raise UserError where a picture has no caption, naming the first ones."""
    tags = pc.fill_null(pc.list_value_length(samples.rows.column("tags")), 0).to_numpy()
    text = pc.fill_null(pc.binary_length(samples.rows.column("text")), 0).to_numpy()
    empty = np.flatnonzero((tags == 0) & (text == 0))
    if len(empty):
        first = ", ".join(samples.path(row) for row in empty[:3].tolist())
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UserError("data", f"{len(empty)} of {len(samples)} pictures have no caption: {first}{more}; write them, or set "
                                "data.empty_captions=true")  # fmt: skip
