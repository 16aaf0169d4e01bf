"""Words of one's own in a prompt: `embedding:name` stands for tokens that only a tower with these vectors knows."""

import re
from collections.abc import Iterable, Mapping, Sequence

from sotediffusion.text.tokenizer import Tokenizer
from sotediffusion.types import UserError

SIGN = "embedding:"
_NAME = re.compile(r"[\w.-]+")
_CALL = re.compile(rf"\b{SIGN}([\w-]+(?:\.[\w-]+)*)", re.IGNORECASE)


def unknown_words(text: str, names: Sequence[str]) -> list[str]:
    """What a text calls like a word of one's own and is none of these, each once."""
    left = _calls(names).sub("", text) if names else text
    return list(dict.fromkeys(_CALL.findall(left)))


def _calls(names: Iterable[str]) -> re.Pattern[str]:
    """Where a text says one of these words."""
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"{SIGN}({longest_first})(?![\w-])", re.IGNORECASE)


class WordTokenizer:
    """A tokenizer that knows some words more, by the ids given; case does not matter, as it does not to CLIP."""

    def __init__(self, base: Tokenizer, words: Mapping[str, Sequence[int]]):
        """UserError: a name that cannot be written in a prompt."""
        wrong = next((name for name in words if not _NAME.fullmatch(name)), None)
        if wrong is not None:
            raise UserError("embedding", f"{wrong[:80]!r} cannot be written in a prompt; take letters, digits, _, . and - only")
        self.base, self.bos, self.eos, self.pad = base, base.bos, base.eos, base.pad
        self.words = {name.casefold(): list(ids) for name, ids in words.items()}
        self._said = _calls(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length, without bos and eos."""
        ids: list[int] = []
        done = 0
        for found in self._said.finditer(text):
            ids += [*self.base.encode(text[done : found.start()]), *self.words[found[1].casefold()]]
            done = found.end()
        return ids + self.base.encode(text[done:])
