"""What a drawing order may ask for: every range in one place, each error with the value, the range and the next step."""

from collections.abc import Collection
from math import isfinite, sqrt

from sotediffusion.names import unknown
from sotediffusion.types import Request, UserError

MAX_PROMPT = 8000  # characters
MAX_SEED = 2**63 - 1
SIDES = (64, 8192)  # px
MAX_LORAS = 16
LORA_WEIGHTS = (-4.0, 4.0)
SIDE_STEP = 8  # px; Stage A is f4 and Stage B halves once more

_WHOLE = {"steps": (1, 1000), "decoder_steps": (1, 1000), "count": (1, 64)}
_REAL = {
    "guidance": (0.0, 100.0),
    "decoder_guidance": (0.0, 100.0),
    "shift": (0.01, 100.0),
    "decoder_shift": (0.01, 100.0),
    "rescale": (0.0, 1.0),
}
_COMPRESSION = (4.0, 128.0)  # px per Stage C cell
_OTHER = {"compression": _COMPRESSION, "strength": (0.0, 1.0), "seed": (0, MAX_SEED), "width": SIDES, "height": SIDES}
RANGES: dict[str, tuple[float, float]] = {**_WHOLE, **_REAL, **_OTHER}  # for who describes them


def validate(request: Request, samplers: Collection[str], schedules: Collection[str]) -> None:
    """Raise UserError for the first field of `request` that cannot be drawn; fields that are None are the model's to fill."""
    _check_text("prompt", request.prompt, empty=False)
    _check_text("negative", request.negative, empty=True)
    for name, (low, high) in _WHOLE.items():
        _check_whole(name, getattr(request, name), low, high)
    for name, bounds in _REAL.items():
        _check_real(name, getattr(request, name), *bounds)
    for name in ("width", "height"):
        _check_side(name, getattr(request, name))
    if request.compression is not None:
        _check_real("compression", request.compression, *_COMPRESSION)
    _check_seed(request)
    _check_strength(request.strength)
    for name in ("sampler", "decoder_sampler"):
        _check_name(name, getattr(request, name), samplers)
    for name in ("schedule", "decoder_schedule"):
        _check_name(name, getattr(request, name), schedules)
    _check_loras(request.loras)
    _check_embeddings(request.embeddings)
    if request.init is not None and not isinstance(request.init, bytes):
        raise UserError("init", f"a {type(request.init).__name__} is not the bytes of a picture file; give the file's content")


def _check_text(field: str, text: object, empty: bool) -> None:
    if not isinstance(text, str):
        raise UserError(field, f"{_short(text)} is not text; give a string")
    if not empty and not text.strip():
        raise UserError(field, "it is empty; write what should be drawn, for example '1girl, solo, cat ears'")
    if len(text) > MAX_PROMPT:
        raise UserError(field, f"{len(text)} characters are too many; at most {MAX_PROMPT} are taken, shorten it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(field, "it holds half of a surrogate pair, which is no character; write it as valid Unicode")
    if "\0" in text:
        raise UserError(field, "it holds a NUL character; take it out")


def _check_whole(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(field, f"{_short(value)} is not a whole number; take one from {low} to {high}")
    if not low <= value <= high:
        raise UserError(field, f"{value} is out of range; take one from {low} to {high}")


def _check_real(field: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(field, f"{_short(value)} is not a finite number; take one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise UserError(field, f"{value:g} is out of range; take one from {low:g} to {high:g}")


def _check_side(field: str, value: object) -> None:
    if value is None:
        return
    _check_whole(field, value, *SIDES)
    assert isinstance(value, int)
    below = value // SIDE_STEP * SIDE_STEP
    if value != below:
        raise UserError(field, f"{value} is not a multiple of {SIDE_STEP}; nearest are {below} and {below + SIDE_STEP}")


def _check_seed(request: Request) -> None:
    seed = request.seed
    if seed is None:
        return
    last = MAX_SEED - request.count + 1
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= last:
        raise UserError("seed", f"{_short(seed)} is no seed; take a whole number from 0 to {last}, or none for a random one")


def _check_strength(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError("strength", f"{_short(value)} is out of range; take more than 0 (hardly changed) up to 1 (drawn anew)")


def _check_loras(value: object) -> None:
    if not isinstance(value, list | tuple) or len(value) > MAX_LORAS:
        raise UserError("loras", f"{_short(value)} is no list of at most {MAX_LORAS} LoRA; give each as its path and its weight")
    for entry in value:
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str) or not entry[0]:
            raise UserError("loras", f"{_short(entry)} is no LoRA; give its path and its weight")
        _check_real(f"weight of {_short(entry[0])}", entry[1], *LORA_WEIGHTS)


def _check_embeddings(value: object) -> None:
    if not isinstance(value, list | tuple) or len(value) > MAX_LORAS or not all(isinstance(path, str) and path for path in value):
        raise UserError("embeddings", f"{_short(value)} is no list of at most {MAX_LORAS} paths; give each embedding's")


def _check_name(field: str, value: object, known: Collection[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise unknown(field, str(value), known)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def size_of_area(width: int, height: int, area: int) -> tuple[int, int]:
    """`width` x `height` px where that is about `area`, within a quarter; else their shape at that area, in steps of 32 px."""
    share = area / (width * height)
    if 0.8 <= share <= 1.25:
        return width, height
    wide, high = (min(max(int(side * sqrt(share)) // 32 * 32, SIDES[0]), SIDES[1]) for side in (width, height))
    return wide, high


def size_note(request: Request, width: int, height: int, area: int) -> str | None:
    """What to tell of a size far from what a model was trained on: below half or above twice `area` px, or beyond 3:1.

    `width` x `height` is what the model draws when nothing is asked for.
    """
    wide, high = request.width or width, request.height or height
    if 0.5 <= wide * high / area <= 2 and max(wide, high) <= 3 * min(wide, high):
        return None
    trained = "x".join(map(str, size_of_area(width, height, area)))
    return f"{wide}x{high} is far from what this model was trained on, around {trained}; the picture may fall apart"


def compression_note(request: Request, own: float) -> str | None:
    """What to tell of a compression that is not the model's `own`, as a preset for another model brings it."""
    asked = request.compression or own
    if abs(asked / own - 1) <= 0.05:
        return None
    return f"compression {asked:g} is not this model's, {own:g}; the picture may fall apart, --compression {own:g} gives its own"
