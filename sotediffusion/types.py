"""The nouns that cross walls between rooms: what is asked, what is told while it is made, what comes out, what went wrong."""

from dataclasses import dataclass, field
from typing import Any


class UserError(Exception):
    """Something the user can mend, said in one sentence; entrances show it without a traceback.

    `field` is the name the user gave the thing by; `message` says the value, what is allowed and the next step.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets it travel from a worker process to the command."""
        return type(self), (self.field, self.message)


@dataclass(frozen=True)
class Request:
    """One drawing order: `count` pictures of one prompt. Defaults are the model card's; None means the model's own."""

    prompt: str
    negative: str = ""
    width: int | None = None  # px
    height: int | None = None  # px
    steps: int = 30  # Stage C
    guidance: float = 7.0
    decoder_steps: int = 10  # Stage B
    decoder_guidance: float = 2.0
    sampler: str = "ddpm"
    decoder_sampler: str = "ddpm"
    schedule: str = "default"
    decoder_schedule: str = "default"
    shift: float = 1.0
    decoder_shift: float = 1.0
    rescale: float = 0.0  # guidance rescale (Lin et al. 2023, eq. 16), 0 is off
    compression: float | None = None  # px per Stage C cell
    seed: int | None = None  # the first picture's; the next ones count on from it
    count: int = 1
    init: bytes | None = None  # an encoded picture to start from
    strength: float = 0.6  # how much of it is redrawn, (0, 1]
    loras: tuple[tuple[str, float], ...] = ()  # the path of each LoRA file, and how much of it
    embeddings: tuple[str, ...] = ()  # paths of files, each of which a word `embedding:name` of the prompt stands for


@dataclass(frozen=True)
class Event:
    """A sign of life of a job: where it is, and perhaps what it looks like now."""

    stage: str  # "text", "stage c", "stage b", "stage a", "done"
    step: int = 0
    steps: int = 0
    preview: "Picture | None" = None


@dataclass
class Picture:
    """A finished picture and everything needed to draw it again."""

    image: Any  # PIL.Image.Image, RGB
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
