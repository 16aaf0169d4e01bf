"""Tagging: which of a tagger's tags a picture has and how surely, for taggers in the WD contract through ONNX Runtime.

The contract: `model.onnx` takes float32 (N, size, size, 3), BGR, 0..255, and answers probabilities (N, tags) in the order of
`selected_tags.csv`: four ratings, general tags, characters. Probabilities above a floor are kept; thresholds are cut later.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.inference.published import file_hash, find_model
from sotediffusion.curate.inference.runtime import AUTO, open_session, wants_gpu
from sotediffusion.curate.inference.views import TAGGER, Array, square_view
from sotediffusion.curate.policy import SEEN
from sotediffusion.curate.step import PictureStep
from sotediffusion.curate.tag.taglist import FILE, RATINGS, TagList, read_taglist
from sotediffusion.types import UserError

MODEL = "model.onnx"


@dataclass(frozen=True)
class TagSettings:
    """How pictures are tagged."""

    model: str = "wd-swinv2-tagger-v3"  # its folder's name in the models folder
    provider: str = AUTO  # or cpu, cuda, migraphx, openvino
    batch: int = 8
    threads: int = 0  # of ONNX Runtime on a CPU; 0: one per core
    floor: float = 0.05  # probabilities below it are not kept; at most what the policy still looks at
    size: int = TAGGER  # px


class Tagger:
    """An open tagger. `provider` is ONNX Runtime's name of the one that runs, which is the one asked for."""

    def __init__(self, folder: str | Path, provider: str = AUTO, threads: int = 0):
        """UserError: a file is missing, the model keeps another contract, or the provider is not here."""
        folder = Path(folder)
        self.path = folder / MODEL
        if not self.path.is_file():
            raise UserError("model", f"{folder} has no {MODEL}; give the folder of a tagger in the WD contract")
        self.tags = read_taglist(folder / FILE)
        self.session = open_session(self.path, provider, threads)
        self.provider: str = self.session.get_providers()[0]
        taken = self.session.get_inputs()[0]
        batch, height, width, channels = taken.shape if len(taken.shape) == 4 else (0, 0, 0, 0)
        if channels != 3 or height != width or taken.type != "tensor(float)":
            raise UserError("model", f"{self.path} takes {taken.type} {taken.shape}; a tagger in the WD contract takes "
                                     "tensor(float) [N, size, size, 3]")  # fmt: skip
        self.input: str = taken.name
        self.size = height if isinstance(height, int) else TAGGER  # px
        self.batch = batch if isinstance(batch, int) and batch > 0 else None  # pictures at a time; None: any number

    def probabilities(self, pictures: Array) -> Array:
        """Of each tag: (N, size, size, 3) BGR 0..255 -> float32 (N, tags)."""
        step = self.batch or max(len(pictures), 1)
        parts = [self._run(pictures[start : start + step]) for start in range(0, len(pictures), step)]
        return np.concatenate([np.zeros((0, len(self.tags.names)), np.float32), *parts])

    def _run(self, pictures: Array) -> Array:
        inputs = np.asarray(pictures, np.float32)
        if self.batch:
            empty = np.zeros((self.batch - len(pictures), *inputs.shape[1:]), np.float32)
            inputs = np.concatenate([inputs, empty])
        outputs: Array = self.session.run(None, {self.input: inputs})[0][: len(pictures)]
        if outputs.shape != (len(pictures), len(self.tags.names)):
            raise UserError("model", f"{self.path} answers {outputs.shape[1:]} numbers a picture and its list names "
                                     f"{len(self.tags.names)} tags; fetch both from one place")  # fmt: skip
        return outputs.astype(np.float32, copy=False)


class TagStep(PictureStep):
    """Writes the tags above the floor, by their place in the tagger's list, and the probabilities of the four ratings."""

    name = "tag"
    version = 1
    reads = ()
    writes = pa.schema([
        ("tag_ids", pa.list_(pa.uint16())),
        ("tag_probs", pa.list_(pa.float16())),
        ("rating_probs", pa.list_(pa.float32(), RATINGS)),
    ])  # fmt: skip

    def __init__(self, settings: TagSettings, models: str | Path):
        """`models`: the folder that holds the tagger's folder. UserError where the tagger is not there, or for the floor."""
        check_floor(settings.floor)
        self.settings = settings
        self.folder = find_model(models, settings.model, (MODEL, FILE))
        self.views = (square_view(settings.size),)
        self.gpus = float(wants_gpu(settings.provider))

    @property
    def taglist(self) -> Path:
        """The tagger's list of tags, which a catalogue keeps a copy of."""
        return self.folder / FILE

    @property
    def tags(self) -> TagList:
        """The list, read."""
        return read_taglist(self.taglist)

    def identity(self) -> dict[str, Any]:
        """The model, its list, the floor and the size; not where it runs, nor how many at a time."""
        hashes = {"model": file_hash(self.folder / MODEL), "tags": file_hash(self.taglist)}
        return {**hashes, "floor": self.settings.floor, "size": self.settings.size}

    def setup(self) -> None:
        """Open the tagger."""
        self.tagger = Tagger(self.folder, self.settings.provider, self.settings.threads)
        if self.tagger.size != self.settings.size:
            raise UserError("tag.size", f"{self.settings.size} is not what {self.tagger.path} takes; set {self.tagger.size}")

    def look(self, rows: pa.RecordBatch, pictures: dict[str, Array]) -> pa.RecordBatch:
        """Tag each picture, `settings.batch` at a time."""
        seen, step = pictures[self.views[0].name], self.settings.batch
        parts = [self.tagger.probabilities(seen[start : start + step]) for start in range(0, len(seen), step)]
        return above_floor(np.concatenate(parts or [self.tagger.probabilities(seen)]), self.settings.floor)


def check_floor(floor: float) -> None:
    """UserError for a floor under which tags would be lost that the policy decides by."""
    if floor > SEEN:
        raise UserError("tag.floor", f"{floor:g} would hide tags from the policy, which counts them from {SEEN}; take one up to "
                        f"{SEEN}, and leave tags out of captions with cut.general")  # fmt: skip


def above_floor(probabilities: Array, floor: float) -> pa.RecordBatch:
    """TagStep's columns of probabilities (N, tags); tags stay in the order of the list."""
    kept = probabilities[:, RATINGS:] >= np.float32(floor)
    rows, places = np.nonzero(kept)
    ids = (places + RATINGS).astype(np.uint16)
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    ratings = pa.FixedSizeListArray.from_arrays(pa.array(probabilities[:, :RATINGS].ravel(), pa.float32()), RATINGS)
    lists = (pa.array(ids), pa.array(probabilities[rows, ids].astype(np.float16)))
    return pa.record_batch([*(pa.ListArray.from_arrays(offsets, values) for values in lists), ratings], schema=TagStep.writes)
