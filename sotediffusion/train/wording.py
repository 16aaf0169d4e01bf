"""The text of one reading of a sample, by the settings of the run and of the sample's part, and its tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from sotediffusion.config import build, plain
from sotediffusion.text.tokenizer import Tokenizer
from sotediffusion.train import captions, kohya_captions
from sotediffusion.train.captions import CaptionSettings, Chunker, compose, split_tags
from sotediffusion.train.data import Key
from sotediffusion.train.kohya_captions import KohyaCaptions
from sotediffusion.train.loss import CAPTION_STREAM, generator
from sotediffusion.train.order import Numbers
from sotediffusion.train.samples import REST, Samples


def part_settings(settings: CaptionSettings, own: Mapping[str, Any]) -> CaptionSettings:
    """The run's settings, or where a part has kohya's options of its own, kohya's rules with these.

    What such a part leaves out is kohya's default, but for the share without a caption, which is the run's. `drop_groups` is
    what a catalogue asks for; the run's own shares go before.
    """
    captions.check(settings)
    own = dict(own)
    settings = replace(settings, drop_groups={**own.pop("drop_groups", {}), **settings.drop_groups})
    if own:
        base = settings.kohya if settings.form == "kohya" else KohyaCaptions(caption_dropout_rate=settings.dropout)
        kohya = build(KohyaCaptions, plain(base) | own, "captions")
        settings = replace(settings, form="kohya", kohya=kohya)
    kohya_captions.check(settings.kohya)
    return settings


class Wording:
    """Composes the captions of a table's rows."""

    def __init__(self, samples: Samples, settings: CaptionSettings, tokenizer: Tokenizer, text_mask: str = "masked"):
        self.samples = samples
        self.settings = [part_settings(settings, part.captions) for part in samples.parts]
        self.chunker = Chunker(tokenizer, text_mask, settings.chunks, plain=settings.form == "kohya")
        self._part = samples.column("part")

    def text(self, row: int, key: Key, step: int) -> str:
        """What is said of a row at optimizer step `step`; "" when the caption is dropped."""
        settings = self.settings[self._part[row]]
        groups, line = self.samples.groups(row), self.samples.text(row)
        if settings.form == "kohya":
            line = ", ".join(tag for tags in groups.values() for tag in tags) if groups else line
            return kohya_captions.process(line or "", settings.kohya, generator(*key, CAPTION_STREAM), key[1], step)
        if groups:
            return ", ".join(compose(groups, key, settings, line))
        return ", ".join(compose({REST: split_tags(line or "")}, key, settings))

    def read(self, rows: Numbers, keys: list[Key], step: int) -> tuple[list[str], Tensor, Tensor]:
        """Texts, token ids (B, K, 77) and what the tower may look at (B, K, 77)."""
        texts = [self.text(row, key, step) for row, key in zip(rows.tolist(), keys, strict=True)]
        return texts, *self.chunker.encode(texts)
