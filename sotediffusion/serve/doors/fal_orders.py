"""fal's words for an order: the schemas of its two Stable Cascade endpoints, and what must be remembered until the reply."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

from pydantic import Field

from sotediffusion.serve.doors.forms import Form
from sotediffusion.serve.gateway import Ask, round_size
from sotediffusion.serve.storage.jobs import Job
from sotediffusion.types import Request

ORIGIN = "fal"
PRIORITIES = {"low": -1}  # every other word is the usual 0
SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
# fal's names of what is ours; an error names the field as the caller gave it.
THEIRS = {
    "negative": "negative_prompt",
    "steps": "first_stage_steps",
    "decoder_steps": "second_stage_steps",
    "guidance": "guidance_scale",
    "decoder_guidance": "second_stage_guidance_scale",
    "width": "image_size",
    "height": "image_size",
    "size": "image_size",
    "count": "num_images",
}

Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
_Side = Annotated[int, Field(gt=0, le=14142)]
_Guidance = Annotated[float, Field(ge=0, le=20)]


class ImageSize(Form):
    """A size in numbers; what is left out is 512."""

    width: _Side = 512
    height: _Side = 512


class CascadeForm(Form):
    """The input of fal-ai/stable-cascade."""

    prompt: str
    negative_prompt: str = ""
    first_stage_steps: int = Field(20, ge=4, le=40)
    second_stage_steps: int = Field(10, ge=4, le=24)
    guidance_scale: _Guidance = 4.0
    second_stage_guidance_scale: _Guidance = 0.0
    image_size: Preset | ImageSize = "square_hd"
    seed: int | None = None
    enable_safety_checker: bool = True
    num_images: int = Field(1, ge=1, le=4)
    sync_mode: bool = False


class SoteForm(CascadeForm):
    """The input of fal-ai/stable-cascade/sote-diffusion: the same with other defaults."""

    first_stage_steps: int = Field(25, ge=4, le=50)
    guidance_scale: _Guidance = 8.0
    second_stage_guidance_scale: _Guidance = 2.0
    image_size: Preset | ImageSize = ImageSize(width=1024, height=1536)


ALIAS = "fal-ai/stable-cascade"
APPS: dict[str, type[CascadeForm]] = {ALIAS: CascadeForm, f"{ALIAS}/sote-diffusion": SoteForm}


@dataclass(frozen=True)
class Memo:
    """What a reply must know of how it was asked for. It stands as words in the job's origin, behind the dialect's name."""

    sync: bool = False  # pictures come inside the reply
    checked: bool = True  # the safety checker was asked for
    base: str = ""  # of addresses told to a webhook, which has no request to take it from

    def words(self) -> str:
        """As an origin."""
        words = {"sync": self.sync, "unchecked": not self.checked}
        words |= {f"base={quote(self.base, safe='')}": bool(self.base)}
        return " ".join([ORIGIN, *(word for word, said in words.items() if said)])

    @classmethod
    def of(cls, job: Job) -> "Memo":
        """What `words` was given."""
        words = job.origin.split(" ")[1:]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        return cls("sync" in words, "unchecked" not in words, unquote(values.get("base", "")))


def is_ours(job: Job) -> bool:
    """Whether a job was asked for in this dialect."""
    return job.dialect == ORIGIN


def request_of(form: CascadeForm) -> Request:
    """The order that a form stands for."""
    return Request(
        form.prompt,
        form.negative_prompt,
        *_size(form),
        steps=form.first_stage_steps,
        guidance=form.guidance_scale,
        decoder_steps=form.second_stage_steps,
        decoder_guidance=form.second_stage_guidance_scale,
        seed=form.seed,
        count=form.num_images,
    )


def ask_of(form: CascadeForm, base: str = "", **around: Any) -> Ask:
    """The same with what stands around it: priority, start_s, webhook, idempotency, longest."""
    memo = Memo(form.sync_mode, form.enable_safety_checker, base)
    return Ask(request_of(form), origin=memo.words(), **around)


def _size(form: CascadeForm) -> tuple[int, int]:
    if isinstance(form.image_size, ImageSize):
        return round_size(form.image_size.width, form.image_size.height)
    return round_size(*SIZES[form.image_size])
