"""Asks LLaVA-1.5 through transformers, with the model card's prompt: greedy, a batch of pictures at a time.

The prompt is the card's own and not the model's chat template; `max_new_tokens` bounds the answer, because in newer versions of
transformers a bound on the whole length would count the 576 tokens of the picture too.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotediffusion.curate.inference.published import OPENED, file_hash
from sotediffusion.curate.text.answers import Answer, Asked, TextSettings, opened
from sotediffusion.names import unknown
from sotediffusion.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float16", "bfloat16", "float32")


def prompt_of(question: str) -> str:
    """What LLaVA is asked, in the card's form."""
    return f"<image>\nuser: {question}\nassistant:"


class Llava:
    """A reader with the model open on `settings.device`."""

    def __init__(self, settings: TextSettings, models: Path | None = None):
        """`models`: the folder that models lie in. UserError for a model, device or dtype that is not there."""
        import torch
        from transformers import LlavaForConditionalGeneration, LlavaProcessor

        self.settings = settings
        dtype = getattr(torch, dtype_of(settings))
        if settings.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError("text.device", f"{settings.device!r} needs an NVIDIA GPU and torch sees none; take cpu")
        place = model_folder(settings.model, models)
        self.processor: Any = LlavaProcessor.from_pretrained(place, local_files_only=True)
        self.processor.tokenizer.padding_side = "left"
        how = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
        model: Any = LlavaForConditionalGeneration.from_pretrained(place, **how)
        self.model = model.eval().requires_grad_(False).to(settings.device)

    def read(self, asked: Iterable[Asked]) -> Iterator[tuple[str, Answer]]:
        """Answers batch by batch."""
        waiting = iter(asked)
        while batch := list(islice(waiting, self.settings.batch)):
            pictures = {key: opened(see, self.settings.long_side) for key, see in batch}
            yield from ((key, answer) for key, answer in pictures.items() if isinstance(answer, Answer))
            whole = {key: picture for key, picture in pictures.items() if not isinstance(picture, Answer)}
            yield from zip(whole, self._answers(list(whole.values())) if whole else [], strict=True)

    def _answers(self, pictures: list[Any]) -> list[Answer]:
        prompts = [prompt_of(self.settings.question)] * len(pictures)
        inputs = self.processor(images=pictures, text=prompts, return_tensors="pt", padding=True).to(self.settings.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        generated = self.model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=self.settings.max_new_tokens, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        tokens = generated.sequences[:, inputs["input_ids"].shape[1] :]
        chances = self.model.compute_transition_scores(generated.sequences, generated.scores, normalize_logits=True)
        words = self.processor.batch_decode(tokens, skip_special_tokens=True)
        end = self.model.generation_config.eos_token_id
        return [Answer(said, _sureness(row, own, end)) for said, row, own in zip(words, chances, tokens, strict=True)]


def _sureness(chances: "Tensor", tokens: "Tensor", end: int | list[int] | None) -> float:
    """The geometric mean of the probabilities (T,) of an answer's tokens up to its end."""
    ends = set(end if isinstance(end, list) else [end])
    length = next((i + 1 for i, token in enumerate(tokens.tolist()) if token in ends), len(tokens))
    return float(chances[:length].float().mean().exp())


def dtype_of(settings: TextSettings) -> str:
    """What is computed in. Raises UserError for a name that is none of three."""
    if settings.dtype not in ("", *DTYPES):
        raise unknown("text.dtype", settings.dtype, DTYPES)
    return settings.dtype or ("float32" if settings.device == "cpu" else "float16")


def model_folder(model: str, models: Path | None = None) -> Path:
    """The folder of a model: a folder itself, one of that name in `models`, or what the hub's cache holds under that name.

    Raises UserError with the command that brings it where there is none; nothing is downloaded here.
    """
    for folder in (Path(model).expanduser(), *([models / model] if models else [])):
        if folder.is_dir():
            return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError("text.model", f"{model[:80]!r} is not here; get the card's (14 GB) with `sote curate models download "
                        "llava-1.5-7b-hf`, give the path of a folder, or go on with --skip text") from None  # fmt: skip


def model_digest(folder: Path) -> str:
    """SHA-256 over all weights and settings of a model, so that answers of one model never pass for another's."""
    files = sorted(path for path in folder.iterdir() if path.suffix in OPENED)
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {file_hash(path)}\n".encode())
    return whole.hexdigest()
