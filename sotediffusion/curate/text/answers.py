"""What is asked of a picture and what comes back: the settings and the nouns that all readers of text share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Pixels = np.ndarray[Any, Any]  # RGB uint8 (H, W, 3), upright, alpha on white
Asked = tuple[str, Callable[[], Pixels]]  # a content hash, and how to open that picture

PROSE = "Describe this picture in a few plain sentences: who and what is there, the place, the style. Do not guess names."
TEXT_TAGS = ("english text", "speech bubble", "thought bubble", "translation request", "sign", "text focus", "cover page",
             "comic", "4koma", "sound effects", "watermark text", "ranguage", "engrish text")  # fmt: skip
NO_READING = ("there is no", "there are no", "there isn't", "no text", "none", "n/a", "the image", "the picture",
              "this image", "this picture", "i cannot", "i can't", "i'm unable", "i am unable", "the text is",
              "the text cannot", "unreadable", "illegible")  # fmt: skip


@dataclass(frozen=True)
class EndpointSettings:
    """An OpenAI-compatible server, and how hard it may be worked."""

    url: str = "http://127.0.0.1:8000/v1"  # without /chat/completions; a key is never part of it
    key_file: Path | None = None  # a file that holds nothing but the key; the environment is the other place for it
    concurrency: int = 8  # requests at once, of each process that runs the step
    timeout: float = 120.0  # seconds that an answer may take
    retries: int = 6  # after the first try
    backoff: float = 1.0  # seconds before the second try, doubled each time
    longest_wait: float = 300.0  # seconds; a server that asks for more stops the step
    logprobs: bool = True  # ask for the confidence too; some servers refuse that


@dataclass(frozen=True)
class TextSettings:
    """Which pictures are asked what, and who answers. `backend` is a key of `text.BACKENDS`, or "none" to ask nobody."""

    backend: str = "llava"  # the card's
    model: str = "llava-1.5-7b-hf"  # llava: a folder, or its name among the models; endpoint: what the server calls it
    question: str = "what does the text say?"
    where: tuple[str, ...] = TEXT_TAGS  # asked only where one of these tags is; empty asks everywhere
    no_reading: tuple[str, ...] = NO_READING  # answers that begin so say that nothing could be read
    max_new_tokens: int = 64
    longest: int = 300  # characters of an answer that are kept
    long_side: int = 1024  # px, larger pictures are shrunk before they are sent or read
    batch: int = 8  # pictures that llava reads at once
    device: str = "cpu"  # llava: cpu, cuda, cuda:1 ...
    dtype: str = ""  # llava: float16, bfloat16 or float32; left out, float32 on a CPU and float16 elsewhere
    least_confidence: float = 0.5  # ocr: lines read with less are left out
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)


@dataclass(frozen=True)
class ProseSettings(TextSettings):
    """The same for captions in sentences, of every picture unless `where` says otherwise."""

    backend: str = "none"
    question: str = PROSE
    where: tuple[str, ...] = ()
    no_reading: tuple[str, ...] = ("i cannot", "i can't", "i'm unable", "i am unable", "i'm sorry")
    max_new_tokens: int = 200
    longest: int = 1500


@dataclass(frozen=True)
class Answer:
    """What a reader says of a picture, word for word, and how sure it is in [0, 1]; or why it could not say."""

    words: str = ""
    confidence: float | None = None
    error: str | None = None
    exact: bool = False  # the words are those in the picture, with no sentence about them


class Reader(Protocol):
    """Reads pictures; made in the worker that uses it."""

    def read(self, asked: Iterable[Asked]) -> Iterator[tuple[str, Answer]]:
        """The answer to each picture by its content hash, as soon as it is there, in any order."""


def opened(see: Callable[[], Pixels], long_side: int) -> Any:
    """A PIL image of a picture, at most `long_side` px long; an Answer with the error where it cannot be read."""
    try:
        return shrunk(see(), long_side)
    except (OSError, ValueError) as error:
        return Answer(error=f"unreadable: {str(error)[:200]}")


def shrunk_pixels(pixels: Pixels, long_side: int) -> Pixels:
    """The same as pixels again; for where a picture is opened apart from who reads it."""
    return np.asarray(shrunk(pixels, long_side))


def shrunk(pixels: Pixels, long_side: int) -> Any:
    """A PIL image of the pixels, at most `long_side` px long."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) <= long_side:
        return image
    scale = long_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
