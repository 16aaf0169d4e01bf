"""What comes in: an order checked against this server's bounds, the model's ranges and the policy, before it becomes a job."""

import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from sotediffusion.limits import MAX_PROMPT, validate
from sotediffusion.names import unknown
from sotediffusion.pictures.decode import open_picture
from sotediffusion.safety.policy import check_request
from sotediffusion.safety.rating import RATINGS
from sotediffusion.serve.doors.wildcards import Wildcards
from sotediffusion.serve.menu import Menu, Offer
from sotediffusion.serve.storage.jobs import pack
from sotediffusion.serve.webhooks.addresses import check_url
from sotediffusion.types import Request, UserError

Rate = Callable[[bytes], int]  # a picture's bytes: the place of its rating in RATINGS

UNCHECKED = "no image check ran on the picture to start from: this server has no rating tagger"
MILD = RATINGS.index("sensitive")  # the most that a picture to start from may be rated
PRIORITIES = (-100, 100)
MAX_LORAS, MAX_WEIGHT = 8, 4.0
_WORD = re.compile(r"[\x21-\x7e]{1,200}")  # an idempotency key


@dataclass(frozen=True)
class Lora:
    """One of the server's LoRA files by name, and how strongly it counts."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Ask:
    """An order as a dialect understood it."""

    request: Request
    model: str | None = None  # None: the server's first
    loras: tuple[Lora, ...] = ()
    origin: str = "own"
    priority: int = 0
    deadline_s: float | None = None  # from now; after that it expires, waiting or running
    start_s: float | None = None  # from now; after that it expires unless it has begun
    webhook: str | None = None
    idempotency: str | None = None
    longest: int | None = None  # the caller's own bound of the queue


@dataclass(frozen=True)
class Bounds:
    """What one order may ask of this server; a model's own ranges hold besides."""

    pixels: int = 2048 * 2048
    count: int = 16
    steps: int = 150  # of each stage
    prompt: int = MAX_PROMPT  # characters
    init_pixels: int = 16_000_000  # of a picture to start from
    deadline_s: float = 24 * 3600.0


def admit(
    ask: Ask, menu: Menu, bounds: Bounds, receivers: Collection[str] | None = None, wildcards: Wildcards | None = None
) -> Ask:
    """The order with model, size, seed and wildcards settled. UserError for the first thing that is wrong with it.

    `receivers` are hosts of webhooks that may be private or without TLS; None: this server tells no webhooks.
    """
    offer = menu.offer(ask.model)
    request = ask.request
    assert not (request.loras or request.embeddings), "paths are the server's own; callers name LoRA in `ask.loras`"
    validate(request, menu.samplers, menu.schedules)
    _check_around(ask, menu, bounds, receivers)
    request = replace(
        request, width=request.width or offer.width, height=request.height or offer.height,
        compression=request.compression or offer.compression,
        seed=random_seed() if request.seed is None else request.seed,
    )  # fmt: skip
    if wildcards is not None:
        request = _filled(request, wildcards)
    _check_bounds(request, bounds)
    check_request(request.prompt, request.negative, request.guidance, request.decoder_guidance)
    return replace(ask, request=request, model=offer.name)


def fingerprint(ask: Ask) -> str:
    """A hash of an order as its caller said it, before a seed and the like are chosen: the same for the same words only."""
    init = None if ask.request.init is None else sha256(ask.request.init).hexdigest()
    said = {name: value for name, value in asdict(replace(ask, idempotency=None, longest=None)).items() if name != "request"}
    said["origin"] = [word for word in ask.origin.split(" ") if not word.startswith("base=")]  # by which of our names it came
    return sha256(json.dumps([said, pack(replace(ask.request, init=None), init)], sort_keys=True).encode()).hexdigest()


def random_seed() -> int:
    """A seed as the engine would choose one."""
    return secrets.randbelow(2**32)


def check_init(init: bytes, request: Request, offer: Offer, bounds: Bounds, rate: Rate | None) -> None:
    """Whether a picture may be started from. UserError: not this one, not by this model, or not with this prompt.

    Where no rating tagger looks at it, only plainly general prompts go with it: those that may be drawn with a child in them.
    """
    if not offer.init:
        raise UserError("init", f"{offer.name} has no EffNet encoder, so it starts from no picture; leave it out")
    open_picture(init, bounds.init_pixels, "init")
    if rate is None:
        _check_plainly_general(request)
    elif (place := rate(init)) > MILD:
        raise UserError("init", f"the picture to start from is rated {RATINGS[place]}; only {' and '.join(RATINGS[:MILD + 1])} "
                                "ones are taken")  # fmt: skip


def _filled(request: Request, wildcards: Wildcards) -> Request:
    seed = request.seed or 0
    prompt = wildcards.fill(request.prompt, seed, request.count)
    return replace(request, prompt=prompt, negative=wildcards.fill(request.negative, seed, request.count, "negative"))


def _check_plainly_general(request: Request) -> None:
    try:
        check_request(f"{request.prompt}, child", request.negative)
    except UserError:
        raise UserError("init", "this server has no rating tagger to look at the picture to start from, so that only plainly "
                                "general prompts are drawn from one; change the prompt, or leave the picture out") from None


def _check_bounds(request: Request, bounds: Bounds) -> None:
    assert request.width and request.height
    pixels = request.width * request.height
    if pixels > bounds.pixels:
        raise UserError("size", f"{request.width}x{request.height} has {pixels} pixels, and this server draws at most "
                                f"{bounds.pixels}; ask for a smaller picture")  # fmt: skip
    for field, most in (("steps", bounds.steps), ("decoder_steps", bounds.steps), ("count", bounds.count)):
        if getattr(request, field) > most:
            raise UserError(field, f"{getattr(request, field)} is more than this server draws; take at most {most}")
    for field in ("prompt", "negative"):
        if len(getattr(request, field)) > bounds.prompt:
            raise UserError(field, f"{len(getattr(request, field))} characters are too many; at most {bounds.prompt} are taken")


def _check_around(ask: Ask, menu: Menu, bounds: Bounds, receivers: Collection[str] | None) -> None:
    if not PRIORITIES[0] <= ask.priority <= PRIORITIES[1]:
        raise UserError("priority", f"{ask.priority} is out of range; take one from {PRIORITIES[0]} to {PRIORITIES[1]}")
    for field in ("deadline_s", "start_s"):
        seconds = getattr(ask, field)
        if seconds is not None and not 0 < seconds <= bounds.deadline_s:
            raise UserError(field, f"{seconds:g} is out of range; take more than 0 and at most {bounds.deadline_s:g}")
    if ask.idempotency is not None and not _WORD.fullmatch(ask.idempotency):
        raise UserError("Idempotency-Key", "it is no key; take 1 to 200 printable ASCII characters without spaces")
    if ask.webhook is not None:
        if receivers is None:
            raise UserError("webhook", "this server tells no webhooks; leave it out and ask for the job's state instead")
        check_url(ask.webhook, receivers)
    if len(ask.loras) > MAX_LORAS:
        raise UserError("loras", f"{len(ask.loras)} are too many; take at most {MAX_LORAS}")
    known = menu.loras if ask.loras else {}  # a look into their folder, so one for all
    for lora in ask.loras:
        if not known:
            raise UserError("loras", "this server has none; leave them out")
        if lora.name not in known:
            raise unknown("loras", lora.name, known)
        if not abs(lora.weight) <= MAX_WEIGHT:
            raise UserError("loras", f"a weight of {lora.weight:g} is out of range; take -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}")

