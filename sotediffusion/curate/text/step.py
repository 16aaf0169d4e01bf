"""Text inside pictures, and captions in sentences: asked only where tags say there is something to ask, once, and kept.

What was read and how surely are columns; `says` makes the model card's tag of it when captions are composed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.curate.inference.runtime import wants_gpu
from sotediffusion.curate.lists import flatten
from sotediffusion.curate.step import DROP, Step, nulls
from sotediffusion.curate.text.answers import Answer, Asked, Pixels, ProseSettings, Reader, TextSettings
from sotediffusion.curate.text.endpoint import Endpoint, Secret, check_endpoint
from sotediffusion.curate.text.journal import Journal
from sotediffusion.curate.text.llava import Llava, dtype_of, model_digest, model_folder
from sotediffusion.curate.text.ocr import Ocr
from sotediffusion.names import unknown
from sotediffusion.safety.policy import check_tags
from sotediffusion.types import UserError

SAYS = "The text says"
REFUSED = "policy"  # the whole reason: what was read is not repeated

BACKENDS: dict[str, Callable[[TextSettings, Secret | None, Path | None], Reader]] = {
    "endpoint": lambda settings, key, models: Endpoint(settings, key),
    "llava": lambda settings, key, models: Llava(settings, models),
    "ocr": lambda settings, key, models: Ocr(settings),
}


def says(text: str | None) -> str | None:
    """The card's tag of a text, `The text says "..."`; None where there is none. Commas, which end tags, become full stops."""
    words = printable((text or "").replace("\n", " ").replace(",", ".")).strip()
    return f'{SAYS} "{words}"' if words else None


def printable(text: str) -> str:
    """Without control characters, which an answer could bring into captions and terminals."""
    return "".join(c for c in text if c.isprintable())


def words_of(answer: str, no_reading: tuple[str, ...] = ()) -> str:
    """The words read, from an answer in the manner of LLaVA; empty where it says that it could read nothing.

    With `says` this is the card's clean-up: the comma after "The text says" goes, the end loses newlines, full stops, blanks
    and quotation marks. Where the card's left one quotation mark alone (no opening one), ours has both.
    """
    kept = answer.strip().rstrip('\n. "')
    if kept.casefold().startswith(SAYS.casefold()):
        return kept[len(SAYS) :].lstrip(",: \n").removeprefix('"')
    return "" if _begins(kept, no_reading) else kept.removeprefix('"')


def sentences_of(answer: str, no_reading: tuple[str, ...] = ()) -> str:
    """A caption in sentences on one line; empty where the answer declines to give one."""
    kept = " ".join(answer.split())
    return "" if _begins(kept, no_reading) else kept


def _begins(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether the text begins with one of the phrases, as whole words."""
    folded = text.casefold()
    return any(folded.startswith(phrase) and not folded[len(phrase) :][:1].isalpha() for phrase in map(str.casefold, phrases))


class AskStep(Step):
    """Asks a reader about those pictures whose tags are among `settings.where`, and keeps every answer as it comes.

    `see` opens a picture by the path in the catalogue; a module's function or a partial of one, so that it pickles. `journal`
    is the folder for answers under way, `key` the endpoint's where it did not come as a file, `models` the folder that models
    lie in. Writes null where nothing was asked, an empty text where nothing could be read, and an error where there was no
    answer: such pictures are asked about again at the next run. Raises UserError for a backend that is unknown or cannot be
    reached.
    """

    reads = ("path", "sha256", "rating", "general")
    erases: ClassVar[bool] = True  # the one reason to drop a picture here is the policy
    errors: str
    tidy: ClassVar[Callable[..., str]]  # (answer, settings.no_reading) -> the words in it

    def __init__(self, settings: TextSettings, see: Callable[[str], Pixels], journal: Path, key: Secret | None = None,
                 models: Path | None = None):
        if settings.backend not in ("none", *BACKENDS):
            raise unknown(f"{self.name}.backend", settings.backend, ["none", *BACKENDS])
        if settings.backend == "endpoint":
            check_endpoint(settings.endpoint, f"{self.name}.endpoint")
        self.settings, self.see, self.key, self.models = settings, see, key, models
        self.workers = 1 if settings.backend in ("endpoint", "llava") else None  # one model, one count of requests
        self.gpus = float(settings.backend == "llava" and wants_gpu(settings.device))
        self.errors = f"{self.name}_error"
        self.folder = journal / f"{self.name}-{_digest(self._asks())}"
        self.writes = pa.schema([(self.name, pa.string()), (f"{self.name}_confidence", pa.float32()),
                                 (self.errors, pa.string()), (DROP + self.name, pa.string())])  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What is asked where, and of which model; not where it runs."""
        return self._asks() | {"where": list(self.settings.where)}

    def _asks(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        kept = {key: settings[key] for key in ("backend", "question", "max_new_tokens", "longest", "long_side")}
        kept |= {"version": self.version, "no_reading": list(self.settings.no_reading)}
        if self.settings.backend == "endpoint":
            kept["model"] = self.settings.model
        if self.settings.backend == "llava":
            folder = model_folder(self.settings.model, self.models)
            kept |= {"model": model_digest(folder), "dtype": dtype_of(self.settings)}
        if self.settings.backend == "ocr":
            kept |= {"model": f"rapidocr {_installed('rapidocr')}", "least_confidence": self.settings.least_confidence}
        return kept if self.settings.backend != "none" else {"backend": "none"}

    def setup(self) -> None:
        """Open the reader and take in the answers of earlier runs."""
        self.journal = Journal(self.folder)
        backend = BACKENDS.get(self.settings.backend)
        self.reader = backend(self.settings, self.key, self.models) if backend else None

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Ask about the rows that have something to read and no answer yet."""
        asked = self._asked(rows)
        table = rows.select(list(self.reads)).filter(pa.array(asked)).to_pylist()
        wanted = {row["sha256"]: row for row in table}
        self.journal.refresh()
        found: dict[str, dict[str, Any]] = {key: self.journal.answers[key] for key in wanted if key in self.journal.answers}
        for key, answer in self._ask([row for key, row in wanted.items() if key not in found]):
            found[key] = self._kept(wanted[key], answer)
            if answer.error is None:
                self.journal.add(key, found[key])
        answers = pa.RecordBatch.from_pylist([found.get(row["sha256"], {}) for row in table], self.writes)
        return answers.take(pa.array(np.cumsum(asked) - 1, mask=~asked))

    def give_up(self, rows: pa.RecordBatch, reason: str) -> pa.RecordBatch:
        """A picture that cannot be read to the end keeps its place without words."""
        return nulls(self.writes, len(rows), rows, {self.errors: reason})

    def _asked(self, rows: pa.RecordBatch) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Which rows have something to read."""
        if not self.reader or not self.settings.where:
            return np.full(len(rows), self.reader is not None)
        starts, tags = flatten(rows.column("general").cast(pa.list_(pa.string())))
        told = pc.is_in(pc.replace_substring(tags, "_", " "), pa.array(self.settings.where)).to_numpy(zero_copy_only=False)
        return np.diff(np.append(0, np.cumsum(told))[starts]) > 0  # type: ignore[no-any-return]

    def _ask(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, Answer]]:
        asked: list[Asked] = [(row["sha256"], _Opening(self.see, row["path"])) for row in rows]
        if asked and self.reader:
            yield from self.reader.read(asked)

    def _kept(self, row: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """The columns of an answer. What the policy refuses in words and tags together drops the picture and is forgotten."""
        if answer.error is not None:
            return {self.errors: answer.error}
        words = answer.words if answer.exact else type(self).tidy(answer.words, self.settings.no_reading)
        words = printable(words.replace("\n", " "))[: self.settings.longest]
        if check_tags([*(row["general"] or ()), row["rating"] or "", words]):
            return {DROP + self.name: REFUSED}
        return {self.name: words.strip(), f"{self.name}_confidence": answer.confidence}


class TextStep(AskStep):
    """`text`: what is written in the picture."""

    name, version = "text", 1
    tidy = staticmethod(words_of)


class ProseStep(AskStep):
    """`prose`: the picture in sentences."""

    name, version = "prose", 1
    tidy = staticmethod(sentences_of)

    def __init__(self, settings: ProseSettings, see: Callable[[str], Pixels], journal: Path, key: Secret | None = None,
                 models: Path | None = None):
        if settings.backend == "ocr":
            raise UserError("prose.backend", "'ocr' reads letters and writes no sentences; take llava, endpoint or none")
        super().__init__(settings, see, journal, key, models)


class _Opening:
    """Opens one picture when it is called, so that few are open at a time."""

    def __init__(self, see: Callable[[str], Pixels], path: str):
        self.see, self.path = see, path

    def __call__(self) -> Pixels:
        return self.see(self.path)


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
