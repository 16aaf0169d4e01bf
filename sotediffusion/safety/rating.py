"""The tagger's rating head, read into the card's four rating tags; no torch."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from sotediffusion.types import UserError

RATINGS = ("general", "sensitive", "nsfw", "explicit nsfw")  # the head's order; it calls the last two questionable and explicit

RATING = "9"  # the category of ratings in a tagger's list
SIDE = 448  # px, of the WD v3 taggers


def rating_of(probabilities: ArrayLike) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The place in RATINGS of each picture's likeliest rating (N, 4) -> (N,), the milder one on a tie.

    ValueError unless every picture has four finite numbers.
    """
    given = np.asarray(probabilities, np.float32)
    if given.ndim != 2 or given.shape[1] != len(RATINGS) or not np.isfinite(given).all():
        raise ValueError(f"the rating head gives {len(RATINGS)} finite probabilities a picture, not {given.shape} {given[:1]}")
    return given.argmax(axis=1)


class Rater:
    """A tagger in the WD contract (model.onnx and selected_tags.csv in a folder) that rates single pictures on the CPU.

    UserError: no such tagger here, or ONNX Runtime is not installed.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        _check_list(folder / "selected_tags.csv")
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError("rating", "onnxruntime is not installed, which rates pictures; pip install onnxruntime") from None
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        try:
            self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no class
            reason = str(error).splitlines()[0][:120]
            raise UserError("rating", f"{folder} holds no model.onnx that opens ({reason}); fetch the tagger again") from None
        (self._input,) = self._session.get_inputs()

    def __call__(self, picture: Image.Image) -> int:
        """The place in RATINGS of an RGB picture's likeliest rating."""
        size = self._input.shape[1] if isinstance(self._input.shape[1], int) else SIDE
        (probabilities,) = self._session.run(None, {self._input.name: _square(picture, size)[None]})
        return int(rating_of(probabilities[:, : len(RATINGS)])[0])


def _square(picture: Image.Image, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A picture in the middle of a white square, (size, size, 3) BGR in 0..255, as the WD taggers take it."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)[:, :, ::-1]


def _check_list(path: Path) -> None:
    """The ratings must come first. UserError: they do not."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise UserError("rating", f"{path} cannot be read; give the folder of a WD tagger") from None
    if [row.get("category") for row in rows[: len(RATINGS) + 1]] != [RATING] * len(RATINGS) + ["0"]:
        raise UserError("rating", f"{path} does not begin with four ratings; give the folder of a WD tagger")
