"""What may never be asked for, kept or shown: sexual content involving minors or child-coded characters.

There is no switch. Refused are terms that are both by themselves, a child and anything sexual together, and the ways of turning
a negative prompt into a wish. A term in the negative prompt is a wish to avoid it. A list of words cannot be complete: it is one
guard of several, and in doubt it refuses.
"""

import re
from collections.abc import Iterable
from math import isfinite

from sotediffusion.safety import terms
from sotediffusion.safety.reading import Phrases, fold, squeezed, views, word_runs
from sotediffusion.text.prompt import negative_weights, plain_text
from sotediffusion.types import UserError

RULE = "sexual content involving minors or child-coded characters is never drawn"
ADULT = 18  # years
MAX_READINGS = 32  # of the wildcards one by one; beyond that all alternatives are read as one text

_SEXUALISED_MINORS = Phrases.of(terms.SEXUALISED_MINORS)
_MINORS = Phrases.of(terms.MINORS)
_SEXUAL = Phrases.of(terms.SEXUAL)
_SEXUAL_TAGS = Phrases.of(terms.SEXUAL_TAGS)
_CLOTHING = Phrases.of(terms.CLOTHING)
_GROWN_UP = Phrases.of(terms.GROWN_UP)

_WITHIN = re.compile(
    r"\bloli(?!t|go)\w+|\w{2,}loli\b|\bshotaco\w+|\w{2,}shota\b|lolicon|toddlercon|jailbait|p(?:a?e|æ)dophil\w*"
)
_HARMLESS = re.compile(f" (?:{'|'.join(re.escape(fold(phrase).strip()) for phrase in terms.HARMLESS)})(?= )")
_WILDCARD = re.compile(r"\{([^{}]*\|[^{}]*)\}")
_WEIGHT = re.compile(r":\s*[+-]?[\d.]+\s*(?=[)\]])")

_NUMBER = re.compile(rf"\b(?:{'|'.join(terms.NUMBERS)})\b")
_LARGE = re.compile(
    r"\b(?:hundred|thousand|million)(?: and)? \d+\b|\b(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety) ?\d\b"
)
_AGES = re.compile(
    r"(?<!\d)(\d{1,2}) ?(?:(?:years?|yrs?|y) ?(?:of age|olds?|o)|yo|y)\b"
    r"|(?<!\d)(\d{1,2}) ?(?:歳|才|岁|歲|살|let\b)"
    r"|\b(?:ages?|aged|age of) (\d{1,2})\b"
    r"|\b(?:under|below|younger than|not yet) (1[0-8])\b"
    r"|\b(?:is|was|only|just|barely|almost|turned|turning|shes|hes) (\d{1,2})(?= (?:,|$|and|in|with|at|on)(?: |$))"
)


def check_request(prompt: str, negative: str = "", guidance: float = 7.0, decoder_guidance: float = 2.0) -> None:
    """Raise UserError for an order that may not be drawn; silent for every other.

    Call it with the prompt as written, and again with each text that its wildcards became.
    """
    for field, value in (("guidance", guidance), ("decoder_guidance", decoder_guidance)):
        if not (isfinite(value) and value >= 0):
            raise UserError(field, f"{value} would turn the negative prompt into a wish; take 0 or more")
    for field, text in (("prompt", prompt), ("negative", negative)):
        turned = [words for reading in _readings(text) for words in negative_weights(reading)]
        if turned:
            raise UserError(field, f"a weight below 0 on {turned[0][:40]!r} would turn its meaning round; take 0 or more")
    avoided = {fold(tag).strip() for reading in _readings(negative) for tag in plain_text(reading).split(",")}
    for reading in _readings(prompt):
        reason = _reason([plain_text(reading), _brackets_apart(reading)], avoided)
        if reason:
            raise UserError("prompt", f"{RULE} ({reason}); ask for something else")


def check_tags(tags: Iterable[str]) -> str | None:
    """Why a picture with these tags, its rating among them, may not be kept; None where it may."""
    return _reason([", ".join(tags)], set())


def _reason(texts: list[str], avoided: set[str]) -> str | None:
    """What is wrong with a prompt, read in each of `texts`, whose negative has the tags `avoided`."""
    seen = sorted({_HARMLESS.sub(" ,", view) for text in texts for view in views(text)})
    runs = word_runs(seen)
    both = _SEXUALISED_MINORS.found(seen, runs | set(map(squeezed, runs)))
    both |= {match[0] for view in seen for match in _WITHIN.finditer(view)}
    if both:
        return _named(both)
    minors = _MINORS.found(seen, runs) | _ages(seen)
    sexual = _SEXUAL.found(seen, runs) | _whole_tags(seen) | _run_together(seen, minors)
    if minors and sexual:
        return f"{_named(minors)} with {_named(sexual)}"
    if minors and any(_CLOTHING.single(tag) for tag in avoided):
        return f"{_named(minors)}, and the negative prompt avoids clothing or what is safe"
    if sexual and any(_GROWN_UP.single(tag) for tag in avoided):
        return f"{_named(sexual)}, and the negative prompt avoids adults"
    return None


def _readings(text: str) -> list[str]:
    """The text with each choice of its wildcards, and with the braces themselves dropped."""
    found = _alternatives(text)
    if len(found) > MAX_READINGS:
        found = [text, re.sub(r"[{}|]", " , ", text)]
    return list(dict.fromkeys([*found, *(re.sub(r"[{}]", "", reading) for reading in found)]))


def _alternatives(text: str) -> list[str]:
    """Every text that the wildcards can become, innermost first; one more than MAX_READINGS is enough to stop at."""
    waiting = [text]
    done: list[str] = []
    while waiting and len(waiting) + len(done) <= MAX_READINGS:
        reading = waiting.pop()
        group = _WILDCARD.search(reading)
        if group is None:
            done.append(reading)
        else:
            waiting += [reading[: group.start()] + choice + reading[group.end() :] for choice in group[1].split("|")]
    return done + waiting


def _brackets_apart(text: str) -> str:
    return re.sub(r"[()\[\]{}\\]", " ", _WEIGHT.sub(" ", text))


def _ages(seen: Iterable[str]) -> set[str]:
    """Ages below ADULT, in digits or words."""
    matches = [match for view in seen for match in _AGES.finditer(_in_digits(view))]
    return {match[0].strip() for match in matches if _is_minor(match)}


def _is_minor(age: re.Match[str]) -> bool:
    years = int(next(filter(None, age.groups())))
    return years < ADULT or (years == ADULT and age[0].startswith(("under", "below", "younger", "not")))


def _in_digits(view: str) -> str:
    """Numbers up to seventeen as digits, and larger ones in words out of the way."""
    return _LARGE.sub(" , ", _NUMBER.sub(lambda word: str(terms.NUMBERS.index(word[0])), view))


def _whole_tags(seen: Iterable[str]) -> set[str]:
    return {tag.strip() for view in seen for tag in view.split(",") if tag.strip() in _SEXUAL_TAGS.words}


def _run_together(seen: Iterable[str], minors: set[str]) -> set[str]:
    """Words made of a child and something sexual without a space; the child's half goes into `minors`."""
    sexual = set()
    for word in {word for view in seen for word in view.split() if 6 <= len(word) <= 40}:
        for left, right in ((word[:cut], word[cut:]) for cut in range(3, len(word) - 2)):
            for child, other in ((left, right), (right, left)):
                if _MINORS.single(child) and _SEXUAL.single(other):
                    minors.add(child)
                    sexual.add(other)
    return sexual


def _named(found: set[str]) -> str:
    return ", ".join(repr(phrase[:40]) for phrase in sorted(found)[:3])
