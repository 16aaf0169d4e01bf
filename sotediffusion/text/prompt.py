"""The prompt language: wildcards, escapes, weights and breaks, and the cutting of a prompt of any length into chunks.

    {red|blue} hair     one of them, by seed          (tag:1.2) (tag) [tag]    weight 1.2, 1.1, 1 / 1.1; groups multiply
    \\( \\) \\[ \\] \\{ \\}    the character itself       BREAK or a new line      what follows starts a new chunk

A bracket without its partner is itself too, and so is a backslash before anything else.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sotediffusion.text.tokenizer import Tokenizer
from sotediffusion.types import UserError

EMPHASIS = 1.1
MAX_WEIGHT = 10.0
MAX_CHARACTERS = 20_000
MAX_CHUNKS = 32
CHUNK = 77  # tokens, bos and eos among them
BACKTRACK = 20  # tokens; a chunk ends at a comma if one is as near to its end as this
MAX_NUMBER = 32  # characters that a written weight may take
MASKS = ("masked", "unmasked", "sote")

ESCAPABLE = "\\()[]{}|:"
PARTNER = {")": "(", "]": "["}
WEIGHT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
SECTION = re.compile(r"\bBREAK\b|[\r\n]+")
AFTER_COMMA = re.compile(r"(?<=,)(?=\s|[^\W_])")  # where CLIP ends a word anyway, so that cutting here changes no token


@dataclass(frozen=True)
class Segment:
    """A stretch of plain text and how strongly it counts."""

    text: str
    weight: float


@dataclass(frozen=True)
class Group:
    """A pair of brackets by position: the text ends before `text_end`, where a written weight begins."""

    start: int
    text_end: int
    end: int
    factor: float


@dataclass(frozen=True)
class Token:
    """One token of a prompt; a chunk may well end where a comma does."""

    number: int
    weight: float
    ends_at_comma: bool


@dataclass(frozen=True)
class Chunk:
    """One window of the text tower, CHUNK long: bos, text, eos and padding; `mask` is what the tower may look at."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    mask: tuple[bool, ...]


def expand_wildcards(prompt: str, seed: int, field: str = "prompt") -> str:
    """Replace every {a|b}, nested ones too, by one of its choices; the same seed chooses the same.

    `field` is the name errors give the prompt. Raises UserError for one too long.
    """
    _check_length(prompt, field)
    choose = random.Random(seed).choice
    open_groups: list[list[str]] = [[""]]
    for piece in re.findall(r"\\.|[{|}]|[^\\{|}]+|\\", prompt, re.DOTALL):
        if piece == "{":
            open_groups.append([""])
        elif piece == "|" and len(open_groups) > 1:
            open_groups[-1].append("")
        elif piece == "}" and len(open_groups) > 1:
            choices = open_groups.pop()
            open_groups[-1][-1] += choose(choices) if len(choices) > 1 else f"{{{choices[0]}}}"
        else:
            open_groups[-1][-1] += piece
    return "{".join("|".join(choices) for choices in open_groups)


def escape(text: str) -> str:
    """Write a text so that the prompt language reads it back as itself with weight 1."""
    return re.sub(f"[{re.escape(ESCAPABLE)}]", lambda found: "\\" + found[0], text)


def parse(prompt: str, field: str = "prompt") -> list[list[Segment]]:
    """Read a prompt (wildcards already chosen) into sections, cut at BREAK and new lines, of weighted segments.

    `field` is the name errors give the prompt. Raises UserError for one too long and for a weight beyond MAX_WEIGHT either way.
    """
    _check_length(prompt, field)
    sections: list[list[Segment]] = [[]]
    for text, weight in _runs(prompt):
        if not abs(weight) <= MAX_WEIGHT:  # so that nan is refused too
            raise UserError(field, f"weight {weight:g} on {text[:40]!r} is too strong; use 0 to {MAX_WEIGHT:g}")
        for number, part in enumerate(SECTION.split(text)):
            if number:
                sections.append([])
            if part.strip():
                sections[-1].append(Segment(part, weight))
    return [section for section in sections if section]


def plain_text(prompt: str) -> str:
    """Return what a prompt (wildcards already chosen) says once its brackets and weights are gone."""
    return "".join(text for text, _ in _runs(prompt))


def negative_weights(prompt: str) -> list[str]:
    """Return the texts that a prompt (wildcards already chosen) gives a weight below zero."""
    return [segment.text.strip() for section in parse(prompt) for segment in section if segment.weight < 0]


def chunk_prompt(prompt: str, tokenizer: Tokenizer, text_mask: str = "masked", field: str = "prompt") -> list[Chunk]:
    """Cut a prompt (wildcards already chosen) into chunks; an empty one gives one chunk without text.

    `text_mask` is the model's convention: padding is hidden from the tower ("masked", "sote") or not ("unmasked").
    Raises UserError for more than MAX_CHUNKS chunks.
    """
    sections = parse(prompt, field) or [[]]
    pieces = [piece for section in sections for piece in _cut(_tokens(section, tokenizer))]
    if len(pieces) > MAX_CHUNKS:
        raise UserError(field, f"{len(pieces)} chunks of {CHUNK} tokens are too many; {MAX_CHUNKS} are allowed, shorten it")
    return [_pad(piece, tokenizer, hide_padding=_known(text_mask) != "unmasked") for piece in pieces]


def pad_chunks(chunks: Sequence[Chunk], count: int, tokenizer: Tokenizer, text_mask: str = "masked") -> list[Chunk]:
    """Lengthen a list of chunks to `count` with those of the empty prompt, which "sote" models see in full, padding too."""
    empty = _pad([], tokenizer, hide_padding=_known(text_mask) == "masked")
    return [*chunks, *[empty] * (count - len(chunks))]


def chunk_pair(
    prompt: str, negative: str, tokenizer: Tokenizer, text_mask: str = "masked"
) -> tuple[list[Chunk], list[Chunk]]:
    """Cut a prompt and its negative into equally many chunks."""
    wanted = chunk_prompt(prompt, tokenizer, text_mask, "prompt")
    avoided = chunk_prompt(negative, tokenizer, text_mask, "negative")
    count = max(len(wanted), len(avoided))
    return pad_chunks(wanted, count, tokenizer, text_mask), pad_chunks(avoided, count, tokenizer, text_mask)


def _check_length(prompt: str, field: str) -> None:
    if len(prompt) > MAX_CHARACTERS:
        raise UserError(field, f"{len(prompt)} characters are too many; {MAX_CHARACTERS} are allowed, shorten it")


def _unescape(prompt: str) -> tuple[str, list[bool]]:
    """Drop the backslashes and tell which of the characters left were free to mean something."""
    found = re.findall(rf"\\[{re.escape(ESCAPABLE)}]|.", prompt, re.DOTALL)
    return "".join(piece[-1] for piece in found), [len(piece) == 1 for piece in found]


def _groups(characters: str, special: list[bool]) -> list[Group]:
    """Find the brackets that have a partner."""
    groups: list[Group] = []
    waiting: dict[str, list[int]] = {"(": [], "[": []}
    for position, character in enumerate(characters):
        if not special[position]:
            continue
        if character in waiting:
            waiting[character].append(position)
        elif character in PARTNER and waiting[PARTNER[character]]:
            start = waiting[PARTNER[character]].pop()
            groups.append(_group(characters, special, start, position))
            for others in waiting.values():  # brackets left open inside a group are text
                while others and others[-1] > start:
                    others.pop()
    return groups


def _group(characters: str, special: list[bool], start: int, end: int) -> Group:
    if characters[start] == "[":
        return Group(start, end, end, 1 / EMPHASIS)
    colon = characters.rfind(":", max(start + 1, end - MAX_NUMBER), end)
    number = WEIGHT.fullmatch(characters, colon + 1, end) if colon > 0 and special[colon] else None
    return Group(start, colon, end, float(number[1])) if number else Group(start, end, end, EMPHASIS)


def _runs(prompt: str) -> Iterator[tuple[str, float]]:
    """Give the text of a prompt in stretches of one weight."""
    characters, special = _unescape(prompt)
    groups = _groups(characters, special)
    starts = {group.start: group.factor for group in groups}
    ends = {group.end for group in groups}
    silent = {i for group in groups for i in (group.start, *range(group.text_end, group.end + 1))}
    heard: list[tuple[str, float]] = []
    factors = [1.0]
    for position, character in enumerate(characters):
        if position in starts:
            factors.append(factors[-1] * starts[position])
        elif position in ends:
            factors.pop()
        elif position not in silent:
            heard.append((character, round(factors[-1], 6)))
    for weight, run in groupby(heard, key=lambda pair: pair[1]):
        yield "".join(character for character, _ in run), weight


def _tokens(section: list[Segment], tokenizer: Tokenizer) -> list[Token]:
    tokens: list[Token] = []
    for segment in section:
        for piece in AFTER_COMMA.split(segment.text):
            numbers = tokenizer.encode(piece)
            last = len(numbers) - 1
            tokens += [Token(n, segment.weight, piece.endswith(",") and i == last) for i, n in enumerate(numbers)]
    return tokens


def _cut(tokens: list[Token]) -> list[list[Token]]:
    """Cut into pieces that fit a chunk, after a comma where one is near enough."""
    room, pieces = CHUNK - 2, []
    while len(tokens) > room:
        commas = (place for place in range(room, room - BACKTRACK, -1) if tokens[place - 1].ends_at_comma)
        place = next(commas, room)
        pieces.append(tokens[:place])
        tokens = tokens[place:]
    return [*pieces, tokens]


def _pad(tokens: Sequence[Token], tokenizer: Tokenizer, hide_padding: bool) -> Chunk:
    padding = CHUNK - 2 - len(tokens)
    numbers = (tokenizer.bos, *(token.number for token in tokens), tokenizer.eos, *[tokenizer.pad] * padding)
    weights = (1.0, *(token.weight for token in tokens), 1.0, *[1.0] * padding)
    return Chunk(numbers, weights, (*[True] * (len(tokens) + 2), *[not hide_padding] * padding))


def _known(text_mask: str) -> str:
    if text_mask not in MASKS:
        raise UserError("text_mask", f"{text_mask!r} is not one of {', '.join(MASKS)}; mend the model's settings")
    return text_mask
