"""What a caller said, in diffusers' arguments -> what each picture is conditioned on.

Prompts are literal here, as in diffusers: no weights, no BREAK, no wildcards; but of any length. B pictures before repeats,
L text tokens, D text width, P projection width.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..conditioning import encode_chunks, encode_pair
from ..diffusion.samplers import SAMPLERS
from ..diffusion.schedule import SCHEDULES
from ..limits import validate
from ..models.cascade import Cascade
from ..offload import execution_device
from ..safety.policy import check_request
from ..text.prompt import CHUNK, chunk_prompt, escape, pad_chunks
from ..types import Request, UserError

Text = tuple[Tensor, Tensor]  # hidden states (2, L, D) of a prompt and its negative, pooled (2, 1, P)


@dataclass(frozen=True)
class Wording:
    """Prompts and negatives as texts, or as embeddings (B, L, D) with their pooled ones (B, 1, P)."""

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: Tensor | None = None
    prompt_embeds_pooled: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_embeds_pooled: Tensor | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """The texts of every prompt and its negative, embeddings as "". UserError: neither, both, or counts that differ."""
        self._check()
        if self.prompt_embeds is not None:
            prompts = [""] * len(self.prompt_embeds)
        else:
            prompts = _texts("prompt", self.prompt)
        if self.negative_prompt is None:
            return [(prompt, "") for prompt in prompts]
        negatives = _texts("negative_prompt", self.negative_prompt)
        if isinstance(self.negative_prompt, str):
            negatives = negatives * len(prompts)
        if len(negatives) != len(prompts):
            raise UserError("negative_prompt", f"{len(negatives)} do not fit {len(prompts)} prompts; give one, or one for each")
        return list(zip(prompts, negatives, strict=True))

    def _check(self) -> None:
        for name in ("prompt", "negative_prompt"):
            text, embeds, pooled = (getattr(self, name + end) for end in ("", "_embeds", "_embeds_pooled"))
            if text is not None and embeds is not None:
                raise UserError(name, f"given together with {name}_embeds; give one of them")
            if (embeds is None) != (pooled is None):
                raise UserError(f"{name}_embeds", f"and {name}_embeds_pooled belong together; give both, of one text encoder")
        if self.prompt is None and self.prompt_embeds is None:
            raise UserError("prompt", "is missing; give prompt, or prompt_embeds and prompt_embeds_pooled")


def orders(wording: Wording, order: Request, names: Mapping[str, str]) -> list[Request]:
    """One order per prompt, found drawable and allowed before any work. `names`: arguments by the order's own field names."""
    found = []
    try:
        for prompt, negative in wording.pairs():
            one = replace(order, prompt=_literal(prompt), negative=_literal(negative))
            validate(replace(one, prompt=one.prompt.strip() or "-"), SAMPLERS, SCHEDULES)  # an empty prompt is literal too
            check_request(one.prompt, one.negative, one.guidance, one.decoder_guidance)
            found.append(one)
    except UserError as error:
        raise UserError(names.get(error.field, error.field), error.message) from None
    return found


@torch.inference_mode()
def encode(cascade: Cascade, wording: Wording) -> list[Text]:
    """What every prompt and its negative become in the text tower, or as given. UserError: embeddings of other shapes."""
    wanted = _given(cascade, "prompt", wording.prompt_embeds, wording.prompt_embeds_pooled)
    avoided = _given(cascade, "negative_prompt", wording.negative_prompt_embeds, wording.negative_prompt_embeds_pooled)
    pairs = wording.pairs()
    if avoided is not None and len(avoided) != len(pairs):
        raise UserError("negative_prompt_embeds", f"{len(avoided)} do not fit {len(pairs)} prompts; give one for each")
    made: dict[tuple[str, str], Text] = {}
    texts = []
    for i, pair in enumerate(pairs):
        if wanted is None and avoided is None:
            made[pair] = made.get(pair) or _encode_texts(cascade, *pair)
            texts.append(made[pair])
            continue
        one = wanted[i] if wanted is not None else _row(_encode_texts(cascade, pair[0], ""), 0)
        other = avoided[i] if avoided is not None else _negative_of_length(cascade, pair[1], one[0].shape[1])
        if one[0].shape != other[0].shape:
            lengths = f"{one[0].shape[1]} and {other[0].shape[1]} tokens"
            raise UserError("negative_prompt_embeds", f"prompt and negative have {lengths}; give embeddings of equal length")
        texts.append((torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])))
    return texts


def _encode_texts(cascade: Cascade, prompt: str, negative: str) -> Text:
    mask = cascade.conventions.text_mask
    return encode_pair(cascade.use("text"), cascade.tokenizer, _literal(prompt), _literal(negative), mask)


def _negative_of_length(cascade: Cascade, negative: str, length: int) -> Text:
    """A negative as long as given embeddings, in whole chunks."""
    mask = cascade.conventions.text_mask
    chunks = chunk_prompt(_literal(negative), cascade.tokenizer, mask, "negative_prompt")
    chunks = pad_chunks(chunks, length // CHUNK, cascade.tokenizer, mask)
    if len(chunks) * CHUNK != length:
        raise UserError("negative_prompt_embeds", f"is missing: prompt_embeds have {length} tokens, the negative text "
                                                  f"{len(chunks) * CHUNK}; give it, and negative_prompt_embeds_pooled")
    return encode_chunks(cascade.use("text"), chunks, chunk_prompt("", cascade.tokenizer, mask))


def _row(text: Text, row: int) -> Text:
    return text[0][row : row + 1], text[1][row : row + 1]


def _given(cascade: Cascade, name: str, embeds: Tensor | None, pooled: Tensor | None) -> list[Text] | None:
    """Given embeddings by row, like the text tower's own in dtype and device."""
    if embeds is None or pooled is None:
        return None
    width, projection = cascade.config.text.width, cascade.config.text.projection
    if embeds.dim() != 3 or embeds.shape[2] != width:
        raise UserError(f"{name}_embeds", f"shape {tuple(embeds.shape)} does not fit; it must be (prompts, tokens, {width})")
    if pooled.shape != (len(embeds), 1, projection):
        wanted = (len(embeds), 1, projection)
        raise UserError(f"{name}_embeds_pooled", f"shape {tuple(pooled.shape)} does not fit; it must be {wanted}")
    device, dtype = execution_device(cascade, "text"), cascade.text.text_projection.weight.dtype
    embeds, pooled = embeds.to(device, dtype), pooled.to(device, dtype)
    return [(embeds[i : i + 1], pooled[i : i + 1]) for i in range(len(embeds))]


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(name, f"a {type(value).__name__} of this kind is no text; give a string, or a list of strings")
    return list(texts)


def _literal(text: str) -> str:
    """A text that the prompt language reads as itself: CLIP knows no capitals and no new lines."""
    return escape(re.sub(r"[\r\n]+", " ", text).replace("BREAK", "break"))
