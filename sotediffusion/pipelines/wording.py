"""What a caller said, in diffusers' arguments -> what each picture is conditioned on.

Prompts are literal here, as in diffusers: no weights, no BREAK, no wildcards; but of any length. The policy reads texts,
so embeddings are taken from this process alone, which remembers the texts that it made them of. B pictures before repeats,
L text tokens, D text width, P projection width.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
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
from .remembered import recall, remember

Text = tuple[Tensor, Tensor]  # hidden states (2, L, D) of a prompt and its negative, pooled (2, 1, P)
Row = tuple[Tensor, Tensor]  # of one of them, (1, L, D) and (1, 1, P)


@dataclass(frozen=True)
class Wording:
    """Prompts and negatives as texts, or as embeddings (B, L, D) with their pooled ones (B, 1, P)."""

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: Tensor | None = None
    prompt_embeds_pooled: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_embeds_pooled: Tensor | None = None

    def pairs(self, cascade: Cascade) -> list[tuple[str, str]]:
        """The text of every prompt and of its negative, that of embeddings as this process remembers it.

        UserError: neither, both, counts that differ, embeddings of other shapes or that nobody knows the text of.
        """
        self._check()
        prompts = self._said(cascade, "prompt") or []
        negatives = self._said(cascade, "negative_prompt")
        if negatives is None:
            return [(prompt, "") for prompt in prompts]
        if isinstance(self.negative_prompt, str):
            negatives = negatives * len(prompts)
        if len(negatives) != len(prompts):
            name = "negative_prompt" if self.negative_prompt_embeds is None else "negative_prompt_embeds"
            raise UserError(name, f"{len(negatives)} do not fit {len(prompts)} prompts; give one, or one for each")
        return list(zip(prompts, negatives, strict=True))

    def given(self, cascade: Cascade, name: str) -> list[Row] | None:
        """The embeddings of "prompt" or "negative_prompt" by row, like the text tower's own in dtype and device; None: a text."""
        embeds, pooled = getattr(self, f"{name}_embeds"), getattr(self, f"{name}_embeds_pooled")
        if embeds is None or pooled is None:
            return None
        _check_shapes(cascade, name, embeds, pooled)
        device, dtype = execution_device(cascade, "text"), cascade.text.text_projection.weight.dtype
        return list(zip(embeds.to(device, dtype).split(1), pooled.to(device, dtype).split(1), strict=True))

    def _said(self, cascade: Cascade, name: str) -> list[str] | None:
        text, embeds, pooled = self._three(name)
        if embeds is not None and pooled is not None:
            _check_shapes(cascade, name, embeds, pooled)
            return list(recall(f"{name}_embeds", embeds, pooled))
        return None if text is None else [_literal(one) for one in _texts(name, text)]

    def _check(self) -> None:
        for name in ("prompt", "negative_prompt"):
            text, embeds, pooled = self._three(name)
            if text is not None and embeds is not None:
                raise UserError(name, f"given together with {name}_embeds; give one of them")
            if (embeds is None) != (pooled is None):
                raise UserError(f"{name}_embeds", f"and {name}_embeds_pooled belong together; give both, of one text encoder")
        if self.prompt is None and self.prompt_embeds is None:
            raise UserError("prompt", "is missing; give prompt, or prompt_embeds and prompt_embeds_pooled")

    def _three(self, name: str) -> tuple[Any, Tensor | None, Tensor | None]:
        return getattr(self, name), getattr(self, f"{name}_embeds"), getattr(self, f"{name}_embeds_pooled")


def orders(cascade: Cascade, wording: Wording, order: Request, names: Mapping[str, str]) -> list[Request]:
    """One order per prompt, found drawable and allowed before any work. `names`: arguments by the order's own field names."""
    found, order = [], _plain(order)
    try:
        for prompt, negative in wording.pairs(cascade):
            one = replace(order, prompt=prompt, negative=negative)
            validate(replace(one, prompt=one.prompt.strip() or "-"), SAMPLERS, SCHEDULES)  # an empty prompt is literal too
            check_request(one.prompt, one.negative, one.guidance, one.decoder_guidance)
            found.append(one)
    except UserError as error:
        raise UserError(names.get(error.field, error.field), error.message) from None
    return found


def _plain(order: Request) -> Request:
    """With numpy's numbers, as they come out of a sweep, as Python's own."""
    values = {field.name: getattr(order, field.name) for field in fields(order)}
    return replace(order, **{name: value.item() for name, value in values.items() if isinstance(value, np.generic)})


@torch.inference_mode()
def encode(cascade: Cascade, wording: Wording, requests: Sequence[Request]) -> list[Text]:
    """What every prompt and its negative become in the text tower, or as given. UserError: lengths that differ."""
    wanted, avoided = (wording.given(cascade, name) for name in ("prompt", "negative_prompt"))
    made: dict[tuple[str, str], Text] = {}
    texts = []
    for i, request in enumerate(requests):
        pair = request.prompt, request.negative
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


def handed_out(requests: Sequence[Request], texts: Sequence[Text]) -> list[Tensor]:
    """Hidden states and pooled ones of all prompts, then of all negatives, kept in mind so that they may come back."""
    for request, (hidden, pooled) in zip(requests, texts, strict=True):
        remember(request.prompt, hidden[0], pooled[0])
        remember(request.negative, hidden[1], pooled[1])
    return [torch.cat([text[part][row : row + 1] for text in texts]) for row in (0, 1) for part in (0, 1)]


def _encode_texts(cascade: Cascade, prompt: str, negative: str) -> Text:
    mask = cascade.conventions.text_mask
    return encode_pair(cascade.use("text"), cascade.tokenizer, prompt, negative, mask)


def _negative_of_length(cascade: Cascade, negative: str, length: int) -> Text:
    """A negative as long as given embeddings, in whole chunks."""
    mask = cascade.conventions.text_mask
    chunks = chunk_prompt(negative, cascade.tokenizer, mask, "negative_prompt")
    chunks = pad_chunks(chunks, length // CHUNK, cascade.tokenizer, mask)
    if len(chunks) * CHUNK != length:
        raise UserError("negative_prompt_embeds", f"is missing: prompt_embeds have {length} tokens, the negative text "
                                                  f"{len(chunks) * CHUNK}; give it, and negative_prompt_embeds_pooled")
    return encode_chunks(cascade.use("text"), chunks, chunk_prompt("", cascade.tokenizer, mask))


def _row(text: Text, row: int) -> Row:
    return text[0][row : row + 1], text[1][row : row + 1]


def _check_shapes(cascade: Cascade, name: str, embeds: Tensor, pooled: Tensor) -> None:
    width, projection = cascade.config.text.width, cascade.config.text.projection
    if embeds.dim() != 3 or embeds.shape[2] != width:
        raise UserError(f"{name}_embeds", f"shape {tuple(embeds.shape)} does not fit; it must be (prompts, tokens, {width})")
    if pooled.shape != (len(embeds), 1, projection):
        wanted = (len(embeds), 1, projection)
        raise UserError(f"{name}_embeds_pooled", f"shape {tuple(pooled.shape)} does not fit; it must be {wanted}")


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list | tuple) and not texts:
        raise UserError(name, "it is an empty list; give a string, or a list of strings")
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(name, f"a {type(value).__name__} of this kind is no text; give a string, or a list of strings")
    return list(texts)


def _literal(text: str) -> str:
    """A text that the prompt language reads as itself: CLIP knows no capitals and no new lines."""
    return escape(re.sub(r"[\r\n]+", " ", text).replace("BREAK", "break"))
