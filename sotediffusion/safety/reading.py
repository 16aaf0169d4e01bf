"""Reads a text as a person would, whatever it is dressed up as, and finds in it the phrases of a list.

Case, accents, look-alike letters, zero-width characters, digits for letters, letters apart: all fold to plain words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import category, normalize

LONGEST = 4  # words in a phrase

_ALIKE = str.maketrans({pair[0]: pair[1:] for pair in (  # letters that look, or else sound, like Latin ones
    "аa еe оo рp сc хx уy іi ѕs тt һh нh кk мm вb ԁd ԛq ԝw ӏl лl иi дd зz бb гg фf шsh чch οo ιi αa τt εe κk ηn ρp νv υu λl "
    "ᴀa ʙb ᴄc ᴅd ᴇe ꜰf ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz ıi łl øo đd ɑa ɡg"
).split()})  # fmt: skip
_BLANK = dict.fromkeys((0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0))  # letters and symbols without ink
_LEET = str.maketrans("034578@$!", "oeastbasi")
_EAST = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U0001f300-\U0001faff]")
_KATAKANA, _HIRAGANA, _HANGUL = r"[\u30a1-\u30fc]", r"[\u3041-\u3096]", r"[\uac00-\ud7af]"


def fold(text: str) -> str:
    """Plain lower-case words with single spaces between and around them; a comma stands for whatever ends a tag."""
    text = normalize("NFKD", "".join(_letter(c) for c in text).translate(_BLANK)).casefold()
    text = "".join(c for c in text if not (category(c) == "Cf" or category(c) in ("Mn", "Me") and not "\u3099" <= c <= "\u309a"))
    text = normalize("NFC", text).translate(_ALIKE)
    text = re.sub(r"['’`]", "", text)
    text = re.sub(r"[,;\n\r、。，|]", " , ", text)
    text = re.sub(r"[^\w,@$!\U0001f300-\U0001faff]|_", " ", text)
    return f" {' '.join(text.split())} "


def _letter(character: str) -> str:
    """Letters in boxes and flags as letters: regional indicators, and the white-on-black ones that NFKD leaves alone."""
    for first in (0x1F1E6, 0x1F150, 0x1F170):
        if first <= ord(character) < first + 26:
            return chr(ord("a") + ord(character) - first)
    return character


@dataclass(frozen=True)
class Phrases:
    """A list made ready for searching: phrases of words, and patterns of scripts that write without spaces."""

    words: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    @staticmethod
    def of(phrases: Iterable[str]) -> "Phrases":
        east = [phrase for phrase in phrases if _EAST.search(phrase)]
        words = frozenset(fold(phrase).strip() for phrase in phrases if phrase not in east)
        return Phrases(words, tuple(re.compile(_standing_alone(normalize("NFKC", phrase))) for phrase in east))

    def single(self, word: str) -> bool:
        return word in self.words or (len(word) > 3 and word.endswith("s") and word[:-1] in self.words)

    def found(self, views: Iterable[str], runs: set[str]) -> set[str]:
        """The phrases that the folded texts hold; `runs` is what `word_runs` makes of them."""
        east = [text for view in views if _EAST.search(view) for text in (view, view.replace(" ", ""))]
        return {run for run in runs if self.single(run)} | {
            match[0] for text in east for pattern in self.patterns for match in [pattern.search(text)] if match}  # fmt: skip


def _standing_alone(phrase: str) -> str:
    """A pattern that does not find the phrase inside a longer word of the same syllables, as in the word for calorie."""
    if re.fullmatch(f"{_KATAKANA}+", phrase):
        return f"(?<!{_KATAKANA}){phrase}(?!{_KATAKANA})"
    script = _HIRAGANA if re.match(_HIRAGANA, phrase) else _HANGUL if re.match(_HANGUL, phrase) else None
    return f"(?<!{script}){phrase}" if script else re.escape(phrase)


def word_runs(views: Iterable[str]) -> set[str]:
    """Every run of up to LONGEST words, and those of two and three words also without their spaces."""
    runs = set()
    for tag in {tag.strip() for view in views for tag in view.split(",")}:
        words = tag.split()
        for start in range(len(words)):
            for n in range(1, min(LONGEST, len(words) - start) + 1):
                runs.add(" ".join(words[start : start + n]))
                if n in (2, 3):
                    runs.add("".join(words[start : start + n]))
    return runs


def views(text: str) -> list[str]:
    """The folded text, and again with digits read as letters, repeated letters taken out and letters apart joined."""
    plain = fold(text)
    seen = {plain}
    for one in ("i", "l"):
        seen.add(" ".join(_unleet(word, one) for word in plain.split()))
    seen |= {re.sub(r"([^\W\d])\1{2,}", r"\1", view) for view in seen}
    seen |= {re.sub(r"\b\w(?: \w)+\b", lambda run: run[0].replace(" ", ""), view) for view in seen}
    return [f" {view.strip()} " for view in sorted(seen)]


def squeezed(view: str) -> str:
    """A view with every repeated letter once."""
    return re.sub(r"([^\W\d])\1+", r"\1", view)


def _unleet(word: str, one: str) -> str:
    """A word that mixes letters with digits or signs, in letters only; numbers stay numbers."""
    if not any(c.isalpha() for c in word):
        return word
    return word.rstrip("!").translate(_LEET).replace("1", one)
