"""Captions by the rules of kohya's trainer (sd-scripts, branch stable-cascade), for its recipe and its settings files.

The rules are theirs, the random numbers ours: they follow from (seed, epoch, sample).
"""

from dataclasses import dataclass

import numpy as np

from sotediffusion.types import UserError


@dataclass(frozen=True)
class KohyaCaptions:
    """kohya's settings of a subset under kohya's names, with kohya's defaults."""

    shuffle_caption: bool = False
    keep_tokens: int = 0  # tags that stay in front
    keep_tokens_separator: str = ""  # or the mark that parts those from the rest
    caption_separator: str = ","
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1  # tags at the start of training
    token_warmup_step: float = 0  # step from which all are there


def check(settings: KohyaCaptions) -> None:
    """Raise UserError for settings that cannot be meant."""
    for name in ("caption_dropout_rate", "caption_tag_dropout_rate"):
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(name, f"{getattr(settings, name):g} is no share; give 0 to 1")
    if not settings.caption_separator.strip():
        raise UserError("caption_separator", f"{settings.caption_separator!r} parts no tags; give a comma")
    if 0 < settings.token_warmup_step < 1:
        raise UserError("token_warmup_step", f"{settings.token_warmup_step:g} is a share of a run; give a number of steps")


def process(line: str, settings: KohyaCaptions, rng: np.random.Generator, epoch: int, step: int) -> str:
    """One reading of a caption in epoch 0, 1, ... and at optimizer step `step` of the run."""
    line = f"{settings.caption_prefix} {line}" if settings.caption_prefix else line
    line = f"{line} {settings.caption_suffix}" if settings.caption_suffix else line
    every = settings.caption_dropout_every_n_epochs
    if rng.random() < settings.caption_dropout_rate or (every > 0 and (epoch + 1) % every == 0):
        return ""
    if not (settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0):
        return line
    fixed, free = _parted(line, settings)
    if step < settings.token_warmup_step:
        grown = int(np.floor(step * ((len(free) - settings.token_warmup_min) / settings.token_warmup_step)))
        free = free[: grown + settings.token_warmup_min]
    if settings.shuffle_caption:
        free = [free[place] for place in rng.permutation(len(free))]
    kept = rng.random(len(free)) >= settings.caption_tag_dropout_rate
    return ", ".join([*fixed, *(tag for tag, there in zip(free, kept, strict=True) if there)])


def _parted(line: str, settings: KohyaCaptions) -> tuple[list[str], list[str]]:
    """The tags that stay in front, and the others. Empty ones stay too unless a mark parts the line."""
    mark, separator = settings.keep_tokens_separator, settings.caption_separator
    if mark and mark in line:
        fixed, free = ([tag for piece in part.split(separator) if (tag := piece.strip())] for part in line.split(mark, 1))
        return fixed, free
    tags = [tag.strip() for tag in line.strip().split(separator)]
    return tags[: settings.keep_tokens], tags[settings.keep_tokens :]
