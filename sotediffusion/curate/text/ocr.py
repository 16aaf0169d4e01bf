"""Reads the letters in pictures with RapidOCR (PaddleOCR's small models on ONNX Runtime, on the CPU, nothing downloaded)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sotediffusion.curate.text.answers import Answer, Asked, TextSettings, opened
from sotediffusion.types import UserError


class Ocr:
    """A reader of letters, one picture after the other on one thread."""

    def __init__(self, settings: TextSettings):
        try:
            from rapidocr import RapidOCR
        except ImportError:
            raise UserError("text.backend", "'ocr' needs a package that is not here; pip install 'sotediffusion[ocr]'") from None
        self.settings = settings
        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        self.engine = RapidOCR(params={"Global.log_level": "critical", **threads})

    def read(self, asked: Iterable[Asked]) -> Iterator[tuple[str, Answer]]:
        """The lines of each picture in reading order, joined by blanks."""
        for key, see in asked:
            picture = opened(see, self.settings.long_side)
            if isinstance(picture, Answer):
                yield key, picture
                continue
            found: Any = self.engine(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))  # BGR
            yield key, joined(list(zip(found.txts or (), found.scores or (), strict=True)), self.settings.least_confidence)


def joined(lines: list[tuple[str, float]], least: float) -> Answer:
    """One answer from lines and their confidences; lines below `least` or without a letter or digit are left out.

    The confidence is the lines' mean weighted by length; that of an answer without lines is None.
    """
    kept = [(words.strip(), float(sure)) for words, sure in lines if sure >= least and any(map(str.isalnum, words))]
    length = sum(len(words) for words, _ in kept)
    confidence = sum(len(words) * sure for words, sure in kept) / length if length else None
    return Answer(" ".join(words for words, _ in kept), confidence, exact=True)
