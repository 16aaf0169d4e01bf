"""Puts the trained parts of a run folder together as a model folder."""

from pathlib import Path

import torch

from sotediffusion.config import read_toml
from sotediffusion.models.cascade import PARTS, SIZES, Cascade, Conventions
from sotediffusion.text.tokenizer import FolderTokenizer
from sotediffusion.train.parts import with_tokenizer
from sotediffusion.train.recipes import stage_b, stage_c
from sotediffusion.train.recipes.base import read_part
from sotediffusion.types import UserError
from sotediffusion.weights.bundle import TOKENIZER_FILES
from sotediffusion.weights.store import save_cascade

# A caption of the drawn world tells nearly all of a picture, a booru's little: there a guidance of 7 goes so far past the
# picture that nothing is left of it. So that the usual numbers draw well, a step of guidance counts this much. A step of Stage
# B's, which follows the prior more than the text, counts half: with less eyes and letters blur, with more outlines turn gritty.
GUIDANCE_UNIT, DECODER_GUIDANCE_UNIT = 0.05, 0.5

RUNS = {
    "text": "text", "stage_c": "stage-c", "stage_b": "stage-b", "stage_a": "stage-a", "effnet": "effnet", "previewer": "effnet",
}


def assemble(runs: Path, out: Path, size: str = "miniature", dtype: str = "float16", width: int = 224, height: int = 288) -> None:
    """Write the averaged weights of all parts in `runs` as the model folder `out`, in the place of an earlier one of this size.

    Raises UserError naming a missing part, and where something else is at `out`.
    """
    _check_target(out, size)
    if not (runs / "tokenizer" / "tokenizer.json").is_file():
        raise UserError("runs", f"{runs} holds no tokenizer; train it first with: sote train miniature stage-c")
    tokenizer = FolderTokenizer(runs / "tokenizer")
    config = with_tokenizer(SIZES[size], tokenizer)
    networks = {
        part: read_part(runs / RUNS[part], part, network(getattr(config, part))).to(memory_format=torch.contiguous_format)
        for part, network in PARTS.items()
    }
    conventions = Conventions("masked", "clamped", 32.0, width, height, width * height,
                              prediction_c=stage_c.PREDICTION, prediction_b=stage_b.PREDICTION,
                              prior_layout=stage_b.LAYOUT, guidance_unit=GUIDANCE_UNIT,
                              decoder_guidance_unit=DECODER_GUIDANCE_UNIT)
    cascade = Cascade(**networks, tokenizer=tokenizer, config=config, conventions=conventions,  # type: ignore[arg-type]
                      name=size, license="apache-2.0")
    save_cascade(cascade, out, "folder", dtype, over=True)


def _check_target(out: Path, size: str) -> None:
    """UserError unless nothing is at `out`, or a model folder that was put together here: its name and no file besides."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    made = {"model.toml", *TOKENIZER_FILES, *(f"{part}.safetensors" for part in PARTS)}
    try:
        own = read_toml(out / "model.toml").get("name") == size and {path.name for path in out.iterdir()} <= made
    except (UserError, NotADirectoryError):
        own = False
    if not own:
        raise UserError("out", f"{out} is there and is not an earlier {size} alone; remove it or choose another folder")
