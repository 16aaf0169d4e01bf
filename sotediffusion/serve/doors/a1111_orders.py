"""AUTOMATIC1111's and SD.Next's words for an order, and for what became of it.

SD.Next's for a cascade: `steps` and `cfg_scale` are the prior's, `refiner_steps` and `cfg_image` the decoder's.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sotediffusion import __version__
from sotediffusion.names import unknown
from sotediffusion.pictures.infotext import SAMPLERS, SCHEDULES, Infotext, infotext_of, settings_of
from sotediffusion.serve.doors.forms import Form, picture_in
from sotediffusion.serve.gateway import round_size
from sotediffusion.serve.menu import Menu
from sotediffusion.serve.storage.jobs import Job, JobState, StoredPicture
from sotediffusion.serve.walls.admission import Ask, Lora
from sotediffusion.types import Request, UserError

ORIGIN = "a1111"
STRENGTH = 0.75  # of img2img where none is asked for
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}

_LORA = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")
_SETTINGS = ("sd_model_checkpoint", "samples_format")  # what override_settings may hold here
_ECHOED = 8000  # characters of a value that the reply repeats


class DrawForm(Form):
    """The body of txt2img and img2img, as far as it changes a picture here."""

    prompt: str = ""
    negative_prompt: str | None = ""
    styles: list[str] | None = None
    seed: int | None = -1
    steps: int | None = None
    cfg_scale: float | None = None
    refiner_steps: int | None = None
    cfg_image: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: int | None = 1
    n_iter: int | None = 1
    sampler_name: str | None = None
    sampler_index: str | None = None  # the older name of sampler_name
    scheduler: str | None = None
    denoising_strength: float | None = None
    init_images: list[str] | None = None
    mask: str | None = None
    enable_hr: bool | None = False
    tiling: bool | None = False
    restore_faces: bool | None = False
    subseed_strength: float | None = 0.0
    script_name: str | None = None
    alwayson_scripts: dict[str, Any] | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool | None = True

    @property
    def format(self) -> str:
        """Of the pictures, as `samples_format` says it."""
        asked = str((self.override_settings or {}).get("samples_format") or "png")
        if asked not in FORMATS:
            raise unknown("samples_format", asked, FORMATS)
        return FORMATS[asked]


def ask_of(form: DrawForm, menu: Menu, model: str, idempotency: str | None = None) -> Ask:
    """The order that a txt2img form stands for, drawn with `model` unless it names another. UserError: what we cannot do."""
    _refuse_missing(form)
    prompt, loras = split_loras(form.prompt)
    sampler, schedule = sampler_of(form.sampler_name or form.sampler_index, form.scheduler)
    width, height = _size(form)
    request = Request(
        prompt,
        form.negative_prompt or "",
        width,
        height,
        steps=Request.steps if form.steps is None else form.steps,
        guidance=Request.guidance if form.cfg_scale is None else form.cfg_scale,
        decoder_steps=form.refiner_steps or Request.decoder_steps,
        decoder_guidance=Request.decoder_guidance if form.cfg_image is None else form.cfg_image,
        sampler=sampler,
        schedule=schedule,
        seed=None if form.seed is None or form.seed < 0 else form.seed,
        count=_or_one(form.batch_size) * _or_one(form.n_iter),
    )
    wanted = (form.override_settings or {}).get("sd_model_checkpoint")
    return Ask(request, model_of(str(wanted), menu) if wanted else model, loras, ORIGIN, idempotency=idempotency)


def styled(form: DrawForm, styles: Sequence[Mapping[str, str]]) -> DrawForm:
    """The form with the texts of its styles around its own, `<lora:...>` in them too. UserError: no such style."""
    known = {style["name"]: style for style in styles}
    for name in form.styles or ():
        if name not in known:
            raise unknown("styles", name, known) if known else UserError("styles", "this server has none; leave them out")
        style = known[name]
        prompt, negative = _around(style["prompt"], form.prompt), _around(style["negative"], form.negative_prompt or "")
        form = form.model_copy(update={"prompt": prompt, "negative_prompt": negative})
    return form


def _around(style: str, text: str) -> str:
    """A style's text stands behind a prompt, or around it where it says `{prompt}`."""
    return style.replace("{prompt}", text) if "{prompt}" in style else ", ".join(part for part in (text, style) if part)


def start_of(form: DrawForm) -> tuple[bytes, float]:
    """The picture that an img2img form starts from, and how much of it is redrawn. UserError: none, several, or a mask."""
    if form.mask:
        raise UserError("mask", "inpainting is not offered here; leave the mask out to have all of the picture redrawn")
    if len(form.init_images or []) != 1:
        raise UserError("init_images", f"{len(form.init_images or [])} pictures were sent; send one to start from")
    strength = STRENGTH if form.denoising_strength is None else form.denoising_strength
    return picture_in((form.init_images or [""])[0], "init_images"), strength


def split_loras(prompt: str) -> tuple[str, tuple[Lora, ...]]:
    """The prompt without its `<lora:name:weight>` tags, and what they ask for. UserError: a weight that is no number."""
    loras = tuple(Lora(found[1].strip(), _weight(found[2])) for found in _LORA.finditer(prompt))
    return _LORA.sub("", prompt).strip() if loras else prompt, loras


def sampler_of(name: str | None, scheduler: str | None) -> tuple[str, str]:
    """Our sampler and schedule for their names, also for one name of both as in "DPM++ 2M Karras". UserError: unknown."""
    given = {"Sampler": name, "Schedule type": scheduler}
    found = settings_of(Infotext("", "", {key: value for key, value in given.items() if value}))
    left = found.get("other", {})
    if "Sampler" in left:
        raise unknown("sampler_name", left["Sampler"], SAMPLERS.values())
    if "Schedule type" in left:
        raise unknown("scheduler", left["Schedule type"], SCHEDULES.values())
    return found.get("sampler", Request.sampler), found.get("schedule", Request.schedule)


def model_of(text: str, menu: Menu) -> str:
    """The model that a title, a file name or a hash stands for. UserError: none."""
    name = text.strip().partition(" [")[0].removesuffix(".safetensors")
    for model, offer in menu.models.items():
        if name and name in (model, short_hash(offer.hashes), offer.hashes.get("stage_c")):
            return model
    raise unknown("sd_model_checkpoint", text, menu.models)


def title_of(name: str, menu: Menu) -> str:
    """A model as their lists call it."""
    short = short_hash(menu.models[name].hashes)
    return f"{name} [{short}]" if short else name


def short_hash(hashes: Mapping[str, str]) -> str:
    """The first ten digits of Stage C's hash, which stands for the model."""
    return hashes.get("stage_c", "")[:10]


def info_of(job: Job, menu: Menu) -> dict[str, Any]:
    """All that they tell of finished pictures beside the pictures."""
    request, pictures = job.request, job.pictures or ()
    first = pictures[0] if pictures else None
    offer = menu.models.get(job.model)
    return {
        "prompt": request["prompt"],
        "all_prompts": [request["prompt"]] * len(pictures),
        "negative_prompt": request["negative"],
        "all_negative_prompts": [request["negative"]] * len(pictures),
        "seed": request["seed"],
        "all_seeds": [picture.seed for picture in pictures],
        "subseed": request["seed"],
        "all_subseeds": [picture.seed for picture in pictures],
        "subseed_strength": 0,
        "width": first.width if first else request["width"],
        "height": first.height if first else request["height"],
        "sampler_name": SAMPLERS.get(request["sampler"], request["sampler"]),
        "cfg_scale": request["guidance"],
        "steps": request["steps"],
        "batch_size": request["count"],
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model,
        "sd_model_hash": short_hash(offer.hashes) if offer else "",
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request["strength"] if request["init"] else None,
        "extra_generation_params": {"Refiner steps": request["decoder_steps"], "Decoder CFG scale": request["decoder_guidance"]},
        "index_of_first_image": 0,
        "infotexts": [_infotext(picture) for picture in pictures],
        "styles": [],
        "job_timestamp": timestamp(job.created),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": __version__,
    }


def reply_of(job: Job, images: Sequence[str], body: Mapping[str, Any], menu: Menu, notes: Sequence[str]) -> str:
    """The reply to a drawing order as JSON; `images` are base64. Escaped, for a body may hold halves of characters."""
    echo = {key: value for key, value in body.items() if isinstance(value, str | int | float | None) and key != "mask"}
    short = {key: value for key, value in echo.items() if len(str(value)) <= _ECHOED}
    info = info_of(job, menu) | ({"comments": list(notes)} if notes else {})
    return json.dumps({"images": list(images), "parameters": short, "info": json.dumps(info)})


def progress_of(jobs: Sequence[Job], preview: str | None) -> dict[str, Any]:
    """How far the caller's jobs are, the first of `jobs` being the one that is looked at; `preview` is base64."""
    job = jobs[0] if jobs else None
    state = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": len(jobs),
             "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0}  # fmt: skip
    told = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": preview, "textinfo": None}
    if job is None:
        return told
    state |= {"job": job.id, "job_timestamp": timestamp(job.created)}
    if job.state == JobState.QUEUED or job.progress is None:
        return told | {"textinfo": "it waits for its turn"}
    far = job.progress
    state |= {"sampling_step": far.step, "sampling_steps": far.steps}
    done = far.step / far.steps if far.steps else 0.0
    return told | {"progress": min(max(done, 0.01), 0.99), "eta_relative": far.eta or 0.0, "textinfo": far.phase}


def timestamp(seconds: float) -> str:
    """A time as they write it."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(seconds))


def _infotext(picture: StoredPicture) -> str:
    return infotext_of(picture.info)


def _refuse_missing(form: DrawForm) -> None:
    """What would change the picture and cannot be done is refused, not left out in silence."""
    if form.enable_hr:
        raise UserError("enable_hr", "the hires fix is not offered here; ask for the larger size itself, which is drawn at once")
    if form.tiling:
        raise UserError("tiling", "pictures that repeat without a seam are not offered here; leave it out")
    if form.restore_faces:
        raise UserError("restore_faces", "this server has no face restorer; leave it out")
    if form.subseed_strength:
        raise UserError("subseed_strength", "variations by a second seed are not offered here; leave it out and change the seed")
    if form.script_name:
        raise UserError("script_name", f"{form.script_name[:80]!r} is not known; this server has no scripts")
    for name, script in (form.alwayson_scripts or {}).items():
        arguments = script.get("args") if isinstance(script, dict) else None
        if any(arguments) if isinstance(arguments, list) else arguments:
            raise UserError("alwayson_scripts", f"{name[:80]!r} is not known; this server has no scripts")


def unheard(form: DrawForm) -> list[str]:
    """Notes on settings that do not exist here: clients send their own with every order, so that they hinder none."""
    others = [name[:80] for name in form.override_settings or {} if name not in _SETTINGS]
    return [f"override_settings: this server has no {', '.join(others[:20])}, which changed nothing"] if others else []


def _size(form: DrawForm) -> tuple[int | None, int | None]:
    if form.width is None and form.height is None:
        return None, None
    width, height = form.width or form.height, form.height or form.width
    assert width is not None and height is not None
    return round_size(width, height)


def _or_one(value: int | None) -> int:
    return 1 if value is None else value


def _weight(text: str | None) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        raise UserError("prompt", f"a LoRA's weight of {str(text)[:20]!r} is no number; write <lora:name:0.8>") from None
