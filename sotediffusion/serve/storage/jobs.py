"""The nouns of the queue: what is asked and by whom, how far it is, how it ended; standard library only."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sotediffusion.types import Request, UserError

LOCAL = "local"  # the owner where no keys are asked for


class JobState(StrEnum):
    """Where a job is. It leaves `queued` and `running` once and for all: what has ended never changes again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its deadline came first

    @property
    def ended(self) -> bool:
        return self not in LIVE


LIVE = (JobState.QUEUED, JobState.RUNNING)
ENDED = tuple(state for state in JobState if state not in LIVE)


@dataclass(frozen=True)
class Progress:
    """How far a running job is, and the name of its latest preview on the shelf."""

    phase: str  # as in types.Event.stage
    step: int = 0
    steps: int = 0
    eta: float | None = None  # s
    preview: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job has no pictures: a word for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True)
class StoredPicture:
    """A finished picture that lies on the shelf."""

    name: str  # the shelf's
    width: int  # px
    height: int  # px
    seed: int
    type: str = "image/png"
    bytes: int = 0
    info: dict[str, Any] = field(default_factory=dict)  # settings and marks, as in Picture.settings
    favourite: bool = False  # its job is kept beyond the retention


@dataclass(frozen=True)
class Job:
    """One drawing order and all that is known of it. Times are seconds since 1970, None where the thing has not happened."""

    id: str  # 32 hex digits
    owner: str  # the id of a key, or LOCAL
    request: dict[str, Any]  # a Request as JSON, settled at submission; see `pack`
    model: str
    loras: tuple[Any, ...] = ()  # JSON
    origin: str = "own"  # whose words it was asked in: fal, openai, a1111, own; behind that what the dialect must remember
    priority: int = 0  # higher goes first
    deadline: float | None = None  # when it expires, waiting or running
    start_by: float | None = None  # when it expires unless a worker has begun it; None from its first claim on
    webhook: str | None = None  # who is told of its end
    idempotency: str | None = None  # the caller's word for "this one order", however often it arrives
    asked: str | None = None  # a hash of all that the caller said, where there is such a word; see `fingerprint`
    created: float = 0.0
    started: float | None = None  # the last claim
    finished: float | None = None
    state: JobState = JobState.QUEUED
    alone: bool = False  # it ran when a worker died and runs with no neighbours until it ends
    attempts: int = 0  # how often it was charged with a worker's death
    fence: int = 0  # goes up at each claim: who claimed earlier writes no more
    worker: str | None = None
    lease_until: float | None = None
    progress: Progress | None = None
    error: Failure | None = None
    pictures: tuple[StoredPicture, ...] | None = None
    version: int = 0  # goes up at each change that a caller can see

    @property
    def dialect(self) -> str:
        """Whose words it was asked in, without what the caller said besides."""
        return self.origin.split(" ")[0]


class QueueFull(Exception):
    """No more jobs are taken for now, or of this owner (`own`); `retry_after` seconds are a fair time to wait."""

    def __init__(self, length: int, retry_after: float, own: bool = False):
        whose = f"{length} of your jobs wait already, as many as you may have" if own else f"{length} jobs wait already"
        super().__init__(f"{whose}; try again in {retry_after:.0f} s")
        self.length = length
        self.retry_after = retry_after


class KeyReused(UserError):
    """The caller's word for one order came with another one."""

    def __init__(self) -> None:
        super().__init__("Idempotency-Key", "another order was sent with this key before; take a new one for each order, or send "
                                            "the same order to hear of it again")  # fmt: skip


class StoreDown(Exception):
    """The database does not answer. Nothing of the call was done, or all of it: calling again is safe."""


def new_id() -> str:
    """A name that nobody guesses."""
    return secrets.token_hex(16)


def pack(request: Request, init: str | None = None) -> dict[str, Any]:
    """A request as JSON; `init` is the name on the shelf of the picture it starts from."""
    return asdict(request) | {"init": init}


def unpack(packed: Mapping[str, Any], init: bytes | None = None) -> Request:
    """The request that `pack` was given, with the content of the picture it starts from."""
    loras, embeddings = (packed.get(name, ()) for name in ("loras", "embeddings"))  # JSON has lists only
    return Request(**{**packed, "init": init, "loras": tuple(map(tuple, loras)), "embeddings": tuple(embeddings)})
